"""The network in plain torch operations: its outputs and forces are those of the network."""

from __future__ import annotations

import random

import pytest
import torch

from hpsearch.config.run import NetworkConfig
from hpsearch.nn import MultiTargetNetwork
from hpsearch.nn.plain import PlainNetwork

SMALL = {
    "embedding_size": 4,
    "featurization_scalars": 3,
    "featurization_vectors": 2,
    "featurization_blocks": 2,
    "radial_functions": 6,
    "radial_maximum_angstrom": 3.0,
    "radial_mlp_layers": 2,
    "radial_mlp_neurons": 4,
    "output_mlp_layers": 2,
    "output_mlp_neurons": 3,
}
SHAPES = {
    "L1": {},
    "L0": {"featurization_vectors": 0},
    "no scalars": {"featurization_scalars": 0},
    "two output blocks": {"output_blocks": 2, "output_scalars": 2, "output_vectors": 2},
    "only vectors between": {"output_blocks": 2, "output_vectors": 1},
    "not residual": {"residual": False, "featurization_blocks": 3},
    "one layer": {"radial_mlp_layers": 1, "output_mlp_layers": 1, "featurization_blocks": 1},
}
BASES = ["cosine", "gaussian", "bessel"]
COUNTS = torch.tensor([5, 1, 9, 2])


def networks(basis="cosine", **changes):
    config = NetworkConfig(radial_basis=basis, **{**SMALL, **changes})
    network = MultiTargetNetwork(config, targets=3, extensive=[True, False, True])
    network.calibrate(*molecules())
    return network, PlainNetwork.of(network)


def molecules(counts=COUNTS):
    atoms = int(counts.sum())
    return torch.randint(0, 5, (atoms,)), torch.randn(atoms, 3) * 1.5, counts


def padded(elements, positions, counts, atoms=11):
    """The same molecules in ``[M, atoms]``, with NaN as the positions of padding."""
    real = torch.arange(atoms) < counts[:, None]
    place = torch.zeros(real.shape, dtype=torch.int64)
    place[real] = elements
    where = torch.full((*real.shape, 3), torch.nan, dtype=positions.dtype)
    where[real] = positions
    return place, where, real


def outputs_and_gradient(network, elements, positions, last):
    positions = positions.clone().requires_grad_()
    outputs = network(elements, positions, last)
    (gradient,) = torch.autograd.grad(outputs.sin().sum(), positions)
    return outputs.detach(), gradient


def assert_same(network, plain, batch):
    outputs, gradient = outputs_and_gradient(network, *batch)
    inputs = padded(*batch)
    got, of_padded = outputs_and_gradient(plain, *inputs)
    assert torch.allclose(got, outputs, rtol=1e-10, atol=1e-10)
    assert torch.allclose(of_padded[inputs[2]], gradient, rtol=1e-10, atol=1e-10)
    assert (of_padded[~inputs[2]] == 0).all()


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_the_network(shape, basis):
    network, plain = networks(basis, **SHAPES[shape])
    assert list(plain.state_dict()) == list(network.state_dict())
    assert_same(network, plain, molecules())


@pytest.mark.parametrize("seed", range(6))
def test_random_configurations(seed):
    draw = random.Random(seed)
    ranges = {name: (1, 5) for name in SMALL if "maximum" not in name}
    changes = {name: draw.randint(*ends) for name, ends in ranges.items()}
    changes["radial_functions"] += 1
    changes["radial_maximum_angstrom"] = draw.uniform(1.0, 8.0)
    changes["softplus_beta"] = draw.uniform(0.5, 6.0)
    changes["residual"] = draw.random() < 0.5
    assert_same(*networks(draw.choice(BASES), **changes), molecules())


@pytest.mark.parametrize("basis", BASES)
def test_atoms_at_the_same_place(basis):
    network, plain = networks(basis)
    elements, positions, counts = molecules()
    positions[1] = positions[0]
    assert_same(network, plain, (elements, positions, counts))


@pytest.mark.parametrize("basis", BASES)
def test_pairs_beyond_the_maximum_contribute_exactly_nothing(basis):
    network, _ = networks(basis)
    plain = PlainNetwork.of(network.float())  # softplus(0) of float32 is not exactly log(2)/β
    elements, positions, _ = molecules(torch.tensor([4]))
    apart = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    real = torch.ones(1, 4, dtype=torch.bool)
    near, far = (
        plain(elements[None], (positions + shift * apart)[None], real) for shift in (64.0, 128.0)
    )
    assert torch.equal(near, far)
    alone = [plain(elements[None, i], positions[None, i], real[:, :2]) for i in ([0, 1], [2, 3])]
    assert torch.allclose(near[:, 0], (alone[0] + alone[1])[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_forces_are_finite_differences(basis):
    _, plain = networks(basis)
    elements, positions, real = padded(*molecules(torch.tensor([4, 2])), atoms=5)
    _, gradient = outputs_and_gradient(plain, elements, positions, real)
    step = 1e-5
    for m, a in real.nonzero().tolist():
        for i in range(3):
            moved = positions.clone()
            moved[m, a, i] += step
            above = plain(elements, moved, real).sin().sum()
            moved[m, a, i] -= 2 * step
            slope = (above - plain(elements, moved, real).sin().sum()) / (2 * step)
            assert slope.item() == pytest.approx(gradient[m, a, i].item(), rel=1e-6, abs=1e-6)


def test_second_derivatives():
    _, plain = networks("gaussian", output_mlp_layers=1)
    elements, positions, real = padded(*molecules(torch.tensor([3])), atoms=3)
    positions.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: plain(elements, x, real), (positions,))

    # The compiled kernels are only for float32, and have no second derivatives.
    positions = positions.detach().float().requires_grad_()
    outputs = plain.float()(elements, positions, real)
    (gradient,) = torch.autograd.grad(outputs.sum(), positions, create_graph=True)
    gradient.square().sum().backward()
    assert positions.grad.isfinite().all()


def test_float32_of_atoms_far_from_the_origin():
    network, _ = networks()
    network = network.float()
    elements, positions, counts = molecules()
    positions = positions.float()
    outputs = network(elements, positions, counts)
    elements, positions, real = padded(elements, positions.double() + 1e4, counts)
    got = PlainNetwork.of(network)(elements, positions, real)
    assert got.dtype == torch.float32
    assert torch.allclose(got, outputs, rtol=1e-5, atol=1e-5)


def test_a_copy_of_the_weights():
    network, plain = networks()
    batch = padded(*molecules())
    before = plain(*batch)
    with torch.no_grad():
        network.featurization.embedding.add_(1.0)
    assert torch.equal(plain(*batch), before)
