import math

import pytest
import torch
from torch.nn import functional

from hpsearch.kernels.activations import relu, second_moment, shifted_softplus, sigmoid, softplus
from hpsearch.nn import radial
from hpsearch.nn.radial import RadialBasis, RadialMLP


def test_cosine_is_squared_and_zero_from_one_spacing_on():
    basis = RadialBasis("cosine", 4, 3.0)  # centres 0, 1, 2, 3
    phi = basis(torch.tensor([0.0, 0.5, 1.0, 1.25]))
    assert torch.allclose(phi[0], torch.tensor([1.0, 0.0, 0.0, 0.0]), atol=1e-15)
    assert torch.allclose(phi[1], torch.tensor([0.5, 0.5, 0.0, 0.0]), atol=1e-15)
    quarter = math.cos(math.pi / 8) ** 2
    assert torch.allclose(phi[3], torch.tensor([0.0, quarter, 1 - quarter, 0.0]), atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cosine_is_that_of_equation_2(dtype):
    torch.set_default_dtype(dtype)
    basis = RadialBasis("cosine", 84, 11.1)
    distance = torch.cat((basis.centres, 12 * torch.rand(500), torch.tensor([11.1, 11.2, 30.0])))
    x = (distance[:, None].double() - basis.centres.double()) / basis.spacing
    expected = torch.cos(math.pi / 2 * x.clamp(-1.0, 1.0)).square()
    expected[distance > basis.maximum_angstrom] = 0.0
    # A distance is up to 83 spacings, rounded, and a cosine's square changes by π/2 over one.
    assert (basis(distance) - expected).abs().max() <= 2 * 83 * math.pi / 2 * torch.finfo(dtype).eps


def test_distances_that_are_not_finite():
    phi = RadialBasis("cosine", 9, 4.0)(torch.tensor([math.inf, math.nan, 1.0]))
    assert (phi[0] == 0.0).all()
    assert phi[1].isnan().any()
    assert phi[2].isfinite().all()


def test_gaussian_is_schnets_expansion():
    phi = RadialBasis("gaussian", 4, 3.0)(torch.tensor([1.5]))
    expected = [math.exp(-0.5 * (1.5 - centre) ** 2) for centre in (0, 1, 2, 3)]
    assert torch.allclose(phi[0], torch.tensor(expected))


def test_bessel_is_dimenets_with_its_limit_at_zero():
    basis = RadialBasis("bessel", 3, 5.0)
    d = 1.7
    expected = [math.sqrt(2 / 5) * math.sin(n * math.pi * d / 5) / d for n in (1, 2, 3)]
    assert torch.allclose(basis(torch.tensor([d]))[0], torch.tensor(expected))
    limit = [math.sqrt(2 / 5) * n * math.pi / 5 for n in (1, 2, 3)]
    assert torch.allclose(basis(torch.tensor([0.0]))[0], torch.tensor(limit))


@pytest.mark.parametrize("name", ["cosine", "gaussian", "bessel"])
def test_beyond_the_maximum_everything_is_exactly_zero(name):
    basis = RadialBasis(name, 20, 4.0)
    mlp = RadialMLP(2, basis, 3, 7, 5.0)
    phi = basis(torch.tensor([3.9, 4.0001, 4.2, 30.0]))
    assert phi[0].abs().max() > 0
    assert phi[1:].abs().max() == 0
    assert mlp(phi)[:, 1:].abs().max() == 0


@pytest.mark.parametrize("functions", [25, 84, 100])
def test_mean_square_of_the_cosine_basis_is_three_quarters(functions):
    assert RadialBasis("cosine", functions, 11.1).mean_square == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("name", ["cosine", "gaussian", "bessel"])
@pytest.mark.parametrize("functions, maximum", [(25, 1.2), (25, 30.0), (84, 11.1), (100, 5.0)])
def test_radial_mlp_has_second_moment_of_order_one(name, functions, maximum):
    basis = RadialBasis(name, functions, maximum)
    g = RadialMLP(8, basis, 2, 100, 5.0)(basis(torch.linspace(0.9, min(maximum, 11.0), 200)))
    assert 0.3 < g.square().mean().item() < 3.0


@pytest.mark.parametrize("activation", [softplus(5.0), shifted_softplus(0.5), sigmoid(), relu()])
def test_activations_have_unit_second_moment(activation):
    assert second_moment(activation) == pytest.approx(1.0, abs=1e-9)
    sample = activation(torch.randn(400_000)).square().mean().item()
    assert sample == pytest.approx(1.0, abs=0.02)


def test_shifted_softplus_keeps_zero():
    assert shifted_softplus(5.0)(torch.zeros(1)).item() == 0.0
    assert softplus(5.0)(torch.zeros(1)).item() > 0.0


# --- the first layer in kernels.c: float32, of the functions that are not zero ---


def first_layer(name="cosine", functions=30, hidden=100, copies=2):
    torch.set_default_dtype(torch.float32)
    basis = RadialBasis(name, functions, 11.1)
    return basis, RadialMLP(copies, basis, 1, hidden, 5.0)


def compare(mlp, phi):
    """Values and gradients beside the same layer in float64, whose softplus is torch's."""
    upstream = torch.randn(len(mlp.first), len(phi), mlp.first.shape[1])
    g = mlp(phi)
    assert g.dtype == torch.float32
    g.backward(upstream)
    w = mlp.first.detach().double().requires_grad_()
    x = torch.einsum("pb,thb->tph", phi.double(), w * mlp.first_scale)
    activation = mlp.activation
    plain = functional.softplus(x, beta=activation.beta, threshold=1e9)
    exact = (plain - math.log(2.0) / activation.beta) * activation.scale
    exact.backward(upstream.double())
    for found, expected in ((g, exact), (mlp.first.grad, w.grad)):
        assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


SIZES = [(1, 84, 200), (2, 100, 1), (3, 7, 300), (20, 16, 40), (1, 33, 17), (2, 1, 5)]


@pytest.mark.parametrize("copies, hidden, pairs", SIZES)
def test_compiled_first_layer_equals_float64(library, copies, hidden, pairs):
    basis, mlp = first_layer(hidden=hidden, copies=copies)
    assert mlp.sparse
    compare(mlp, basis(12 * torch.rand(pairs)))


@pytest.mark.parametrize("name, functions", [("gaussian", 84), ("bessel", 84), ("cosine", 7)])
def test_bases_of_which_many_functions_are_not_zero_stay_with_the_product(name, functions):
    basis, mlp = first_layer(name, functions)
    assert not mlp.sparse
    compare(mlp, basis(12 * torch.rand(50)))


def test_any_band_of_functions_will_do(library):
    _, mlp = first_layer(functions=40)
    phi = torch.zeros(6, 40)
    phi[1, 0] = phi[2, 39] = 1.0
    phi[3, 5:25] = torch.randn(20)
    phi[4] = torch.randn(40)
    phi[5, 15:18] = torch.tensor([1.0, 0.0, 2.0])
    compare(mlp, phi)


def test_first_layer_with_vectors_of_older_processors(serve_narrow):
    serve_narrow(radial)
    for copies, hidden, pairs in SIZES:
        basis, mlp = first_layer(hidden=hidden, copies=copies)
        compare(mlp, basis(12 * torch.rand(pairs)))


def test_first_layer_has_the_same_bits_on_any_number_of_threads(library, set_threads):
    basis, mlp = first_layer()
    phi = basis(12 * torch.rand(1_000))
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        mlp.first.grad = None
        g = mlp(phi)
        g.square().sum().backward()
        found.append((g, mlp.first.grad))
    assert all(torch.equal(a, b) for pair in found for a, b in zip(pair, found[0], strict=True))


def test_what_is_not_finite_comes_out_so(library):
    _, mlp = first_layer()
    phi = torch.zeros(4, 30)
    phi[1, 4], phi[2, 7] = math.nan, 1.0
    g = mlp(phi)
    upstream = torch.ones_like(g)
    upstream[:, 2, 5] = math.inf
    g.backward(upstream)
    assert g[:, 1].isnan().all() and g[:, 2].isfinite().all() and (g[:, [0, 3]] == 0.0).all()
    assert mlp.first.grad[:, :, 4].isnan().all() and mlp.first.grad[:, 5, 7].isinf().all()
    with torch.no_grad():
        mlp.first[0, 3, 7] = math.nan
    assert mlp(phi)[0, 2, 3].isnan()


def test_no_pairs(library):
    _, mlp = first_layer()
    g = mlp(torch.zeros(0, 30))
    g.sum().backward()
    assert g.shape == (2, 0, 100) and (mlp.first.grad == 0.0).all()


def test_sizes_and_types_are_checked_before_the_call(library):
    _, mlp = first_layer()
    with pytest.raises(ValueError, match="takes 30 functions in torch"):
        mlp(torch.zeros(5, 31))
    with pytest.raises(ValueError, match=r"got \(5, 30\) in torch\.float64"):
        mlp(torch.zeros(5, 30).double())
    with pytest.raises(RuntimeError, match="dtype"):
        mlp.double()(torch.zeros(5, 30))


def test_a_gradient_of_the_distances_is_made_where_it_is_wanted(library):
    basis, mlp = first_layer()
    distance = (12 * torch.rand(50)).requires_grad_()
    mlp(basis(distance)).sum().backward()
    precise = mlp.double()
    exact = distance.detach().double().requires_grad_()
    precise(basis.double()(exact)).sum().backward()
    assert (distance.grad - exact.grad).abs().max() <= 2e-5 * exact.grad.abs().max()


def test_cosine_basis_is_differentiable_and_has_two_functions_at_a_distance():
    basis = RadialBasis("cosine", 9, 4.0)
    distance = torch.tensor([0.1, 0.77, 1.3, 2.9, 3.99, 4.1], requires_grad=True)
    assert ((basis(distance) != 0).sum(1) <= basis.nonzero).all()
    assert torch.autograd.gradcheck(basis, (distance,))
