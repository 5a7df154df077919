"""Products side by side against a loop of plain ones, in values and gradients."""

import pytest
import torch

from hpsearch.kernels.products import stacked_linear

SHAPES = [(1, 1, 5, 7), (1, 4, 5, 7), (4, 4, 5, 7), (1, 3, 1, 1), (3, 3, 2, 0), (1, 3, 2, 0)]


@pytest.mark.parametrize(("given", "T", "k", "n"), SHAPES)
def test_stacked_linear(given, T, k, n):
    x = torch.randn(given, 11, k, requires_grad=True)
    w = torch.randn(T, n, k, requires_grad=True)
    upstream = torch.randn(T, 11, n)
    found = stacked_linear(x, w)
    expected = torch.stack([x[t if given > 1 else 0] @ w[t].t() for t in range(T)])
    assert torch.allclose(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, (x, w), upstream),
        torch.autograd.grad(expected, (x, w), upstream),
        strict=True,
    ):
        assert a.shape == b.shape
        assert torch.allclose(a, b)


@pytest.mark.parametrize("given", [1, 3])
def test_gradients_that_nobody_wants_are_not_made(given):
    x, w = torch.randn(given, 11, 5), torch.randn(3, 7, 5, requires_grad=True)
    stacked_linear(x, w).sum().backward()
    assert x.grad is None and w.grad is not None


@pytest.mark.parametrize("A", [40, 1_500])
@pytest.mark.parametrize("given", [1, 3])
def test_scale_and_bias_with_few_rows_and_with_many(given, A):
    """In float32, where many rows go another way."""
    x, w, bias = torch.randn(given, A, 20), torch.randn(3, 30, 20), torch.randn(3, 1, 30)
    upstream = torch.randn(3, A, 30)
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = [each.to(dtype).requires_grad_() for each in (x, w, bias)]
        if dtype == torch.float32:
            y = stacked_linear(*inputs[:2], 0.3, inputs[2])
        else:
            y = 0.3 * inputs[0] @ inputs[1].transpose(1, 2) + inputs[2]
        gradients = torch.autograd.grad(y, inputs, upstream.to(dtype))
        results.append([y.detach(), *gradients])
    for found, exact in zip(*results, strict=True):
        assert found.shape == exact.shape
        assert (found - exact).abs().max() <= 2e-6 * exact.abs().max()
