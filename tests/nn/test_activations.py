"""The compiled softplus against torch's in float64, forward and backward."""

import math

import pytest
import torch
from torch.nn import functional

from hpsearch.kernels import activations
from hpsearch.kernels.activations import shifted_softplus, softplus

SIZES = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 1000]


@pytest.fixture(autouse=True)
def float64():
    """Not here: the compiled form is float32's."""


def compare(activation, x):
    """Values and gradients beside torch's of float64, whose threshold makes no difference there."""
    upstream = torch.randn(x.shape)
    results = []
    for precise in (x, x.double()):
        inside = precise.detach().requires_grad_()
        y = activation(inside)
        y.backward(upstream.to(y.dtype))
        results.append((y.detach(), inside.grad))
    (y, dx), (y64, dx64) = results
    assert ((y - y64).abs() <= 3e-7 * y64.abs() + 5e-7).all()
    # The rounding of a large βx is a relative error of its exponential.
    assert ((dx - dx64).abs() <= 5e-7 * (1 + x.abs()) * dx64.abs() + 1e-37).all()


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("make", [softplus, shifted_softplus])
def test_values_and_slopes(library, make, beta):
    compare(make(beta), torch.cat((torch.linspace(-60, 60, 100_001), torch.randn(10_000))))
    for size in SIZES:
        compare(make(beta), torch.randn(size))


def test_small_values_of_softplus_keep_their_precision(library):
    x = torch.linspace(-16, -1, 10_000)
    y, exact = softplus(5.0)(x), softplus(5.0)(x.double())
    assert ((y - exact).abs() <= 1e-5 * exact).all()


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_shifted_is_exactly_zero_at_zero(library, beta):
    assert shifted_softplus(beta)(torch.tensor([0.0, -0.0])).tolist() == [0.0, 0.0]


def test_what_is_not_finite(library):
    x = torch.tensor([math.nan, math.inf, -math.inf], requires_grad=True)
    y = softplus(5.0)(x)
    y.sum().backward()
    assert y[0].isnan() and y[1] == math.inf and y[2] == 0.0
    assert x.grad[0].isnan() and x.grad[1] > 1.0 and x.grad[2] == 0.0


def test_strides_do_not_matter(library):
    x = torch.randn(30, 20)
    compare(softplus(5.0), x.t())
    compare(softplus(5.0), x[:, :7])


def test_same_bits_on_any_number_of_threads(library, set_threads):
    x = torch.randn(10_001)
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(softplus(5.0)(x))
    assert all(torch.equal(y, found[0]) for y in found)


def test_vectors_of_older_processors(serve_narrow):
    serve_narrow(activations)
    for size in SIZES:
        compare(shifted_softplus(5.0), 3 * torch.randn(size))


def test_without_the_library_torch_serves(afresh, monkeypatch):
    monkeypatch.setenv("HPSEARCH_KERNELS", "off")
    x = torch.randn(50)
    plain = functional.softplus(x, beta=5.0)
    y = softplus(5.0)(x)
    assert torch.allclose(y / y[0], plain / plain[0])
