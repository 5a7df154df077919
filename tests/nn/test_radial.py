import math

import pytest
import torch

from hpsearch.nn.activations import relu, second_moment, shifted_softplus, sigmoid, softplus
from hpsearch.nn.radial import RadialBasis, RadialMLP


def test_cosine_is_squared_and_zero_from_one_spacing_on():
    basis = RadialBasis("cosine", 4, 3.0)  # centres 0, 1, 2, 3
    phi = basis(torch.tensor([0.0, 0.5, 1.0, 1.25]))
    assert torch.allclose(phi[0], torch.tensor([1.0, 0.0, 0.0, 0.0]), atol=1e-15)
    assert torch.allclose(phi[1], torch.tensor([0.5, 0.5, 0.0, 0.0]), atol=1e-15)
    quarter = math.cos(math.pi / 8) ** 2
    assert torch.allclose(phi[3], torch.tensor([0.0, quarter, 1 - quarter, 0.0]), atol=1e-15)


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
