import pytest
import torch
from e3nn import o3
from e3nn_form import e3nn_form

from hpsearch.ablation.variants import VARIANTS
from hpsearch.config.run import NetworkConfig
from hpsearch.data import qm9
from hpsearch.nn import MultiTargetNetwork, Neighbourhoods
from hpsearch.nn.loss import multi_target_loss

SMALL = {
    "embedding_size": 7,
    "featurization_scalars": 6,
    "featurization_vectors": 3,
    "featurization_blocks": 3,
    "radial_functions": 9,
    "radial_maximum_angstrom": 5.0,
    "radial_mlp_layers": 2,
    "radial_mlp_neurons": 8,
    "output_mlp_layers": 2,
    "output_mlp_neurons": 5,
}
SHAPES = {
    "L1": {},
    "L0": {"featurization_vectors": 0},
    "deep": {"featurization_blocks": 4},
    "two output convolutions": {"output_blocks": 2, "output_scalars": 4, "output_vectors": 2},
    "no scalars": {"featurization_scalars": 0},
    "one scalar": {"featurization_scalars": 1, "featurization_vectors": 0, "embedding_size": 1},
    "one of everything": {
        "embedding_size": 1,
        "featurization_scalars": 1,
        "featurization_vectors": 1,
        "featurization_blocks": 1,
        "radial_functions": 2,
        "radial_mlp_neurons": 1,
        "radial_mlp_layers": 1,
        "output_mlp_layers": 1,
        "output_mlp_neurons": 1,
    },
    "cutoff below every bond": {"radial_maximum_angstrom": 0.5},
    "wide": {"radial_maximum_angstrom": 30.0},
}
BASES = ["cosine", "gaussian", "bessel"]


def config(basis="cosine", **changes):
    return NetworkConfig(radial_basis=basis, **{**SMALL, **changes})


def batch(rows=(20_000, 5, 90_000, 0)):
    import numpy as np

    molecules = qm9.load().batch(np.array(rows))
    return molecules.elements, molecules.positions.double(), molecules.counts


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_invariant_under_rotation_translation_and_permutation(shape, basis):
    network = MultiTargetNetwork(config(basis, **SHAPES[shape]), targets=3)
    elements, positions, counts = batch()
    outputs = network(elements, positions, counts)
    assert outputs.shape == (4, 3)
    assert outputs.isfinite().all()

    turned = positions @ o3.rand_matrix().T + torch.randn(3)
    assert torch.allclose(network(elements, turned, counts), outputs, rtol=1e-10, atol=1e-10)

    order = torch.cat([start + torch.randperm(count) for start, count in starts(counts)])
    permuted = network(elements[order], positions[order], counts)
    assert torch.allclose(permuted, outputs, rtol=1e-10, atol=1e-10)


def starts(counts):
    ends = counts.cumsum(0)
    return zip((ends - counts).tolist(), counts.tolist(), strict=True)


@pytest.mark.parametrize("shape", ["L1", "L0", "wide"])
def test_each_molecule_alone_gives_the_same_as_in_a_batch(shape):
    network = MultiTargetNetwork(config(**SHAPES[shape]), targets=2)
    elements, positions, counts = batch()
    together = network(elements, positions, counts)
    for m, (start, count) in enumerate(starts(counts)):
        part = slice(start, start + count)
        alone = network(elements[part], positions[part], counts[m : m + 1])
        assert torch.allclose(alone[0], together[m], rtol=1e-12)


@pytest.mark.parametrize("shape", ["L1", "two output convolutions"])
def test_no_gradient_from_one_output_block_into_another(shape):
    network = MultiTargetNetwork(config(**SHAPES[shape]), targets=3)
    network(*batch())[:, 1].sum().backward()
    for name, parameter in network.output_blocks.named_parameters():
        if parameter.numel():
            largest = parameter.grad.flatten(1).abs().amax(1)
            assert largest[[0, 2]].tolist() == [0.0, 0.0], name
            assert largest[1] > 0, name
    assert network.featurization.embedding.grad.abs().max() > 0


def test_changing_one_output_block_changes_only_its_target():
    network = MultiTargetNetwork(config(), targets=3)
    before = network(*batch())
    with torch.no_grad():
        for parameter in network.output_blocks.parameters():
            parameter[2] += 0.1
    after = network(*batch())
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2], rtol=1e-3)


def test_a_single_atom_has_an_output():
    network = MultiTargetNetwork(config(), targets=2)
    out = network(torch.tensor([1]), torch.zeros(1, 3), torch.tensor([1]))
    assert out.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_equal_e3nns_form_of_the_network(shape):
    network = MultiTargetNetwork(config(**SHAPES[shape]), targets=3)
    network.calibrate(*batch())
    form = e3nn_form(network)
    normalised = torch.randn(4, 3)
    for each in (network, form):
        multi_target_loss(each(*batch()), normalised).backward()
    assert torch.allclose(network(*batch()), form(*batch()), rtol=1e-10)
    theirs = dict(form.named_parameters())
    for name, parameter in network.named_parameters():
        if parameter.numel() and theirs[name].grad is not None:
            scale = theirs[name].grad.abs().max() + 1e-12
            assert (parameter.grad - theirs[name].grad).abs().max() < 1e-9 * scale, name


@pytest.mark.parametrize("basis", ["bessel", "cosine"])
def test_forces_are_the_gradient_of_the_energy(basis):
    network = MultiTargetNetwork(config(basis), targets=1)
    elements, positions, counts = batch((0, 5))
    positions.requires_grad_()
    (gradient,) = torch.autograd.grad(network(elements, positions, counts).sum(), positions)
    step = 1e-5 * torch.randn_like(positions)
    with torch.no_grad():
        up = network(elements, positions + step, counts).sum()
        down = network(elements, positions - step, counts).sum()
    assert ((up - down) / 2).item() == pytest.approx((gradient * step).sum().item(), rel=1e-5)


def test_gradients_are_exact():
    network = MultiTargetNetwork(config(**SHAPES["two output convolutions"]), targets=2)
    elements, positions, counts = batch((0, 1))
    normalised = torch.randn(2, 2)
    parameters = [p for p in network.parameters() if p.numel()]

    def loss(*_):
        return multi_target_loss(network(elements, positions, counts), normalised)

    assert torch.autograd.gradcheck(loss, parameters, fast_mode=True)


def test_residual_joins_equal_widths_only():
    plain = MultiTargetNetwork(config(residual=False), targets=1)
    residual = MultiTargetNetwork(config(residual=True), targets=1)
    residual.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(*batch()), residual(*batch()))
    # One block: nothing to join, even where the embedding is as wide as the block.
    same = {"featurization_blocks": 1, "embedding_size": 6, "featurization_vectors": 0}
    plain = MultiTargetNetwork(config(residual=False, **same), targets=1)
    residual = MultiTargetNetwork(config(residual=True, **same), targets=1)
    residual.load_state_dict(plain.state_dict())
    assert torch.equal(plain(*batch()), residual(*batch()))


def test_beyond_the_maximum_a_neighbour_contributes_nothing():
    network = MultiTargetNetwork(config(radial_maximum_angstrom=2.0), targets=1)
    elements = torch.tensor([1, 3, 2])
    near = torch.tensor([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [50.0, 0.0, 0.0]])
    far = torch.tensor([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [90.0, 10.0, 0.0]])
    counts = torch.tensor([3])
    assert torch.equal(network(elements, near, counts), network(elements, far, counts))
    assert len(Neighbourhoods.of(near, counts, 2.0).distance) == 1


CALIBRATED = {
    **SHAPES,
    "five blocks": {"featurization_blocks": 5},
    "three radial layers": {"radial_mlp_layers": 3, "output_mlp_layers": 3},
    "1.2 Å": {"radial_maximum_angstrom": 1.2},
}
TOO_SMALL = {"one scalar", "one of everything", "cutoff below every bond"}
"""Where a mean over features or neighbours is none."""


@pytest.mark.slow
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("shape", sorted(set(CALIBRATED) - TOO_SMALL))
def test_features_of_real_molecules_have_second_moments_of_order_one(shape, basis):
    wide = {"embedding_size": 48, "radial_mlp_neurons": 48, "output_mlp_neurons": 32}
    changes = {**wide, "featurization_scalars": 40, "featurization_vectors": 12}
    network = MultiTargetNetwork(config(basis, **{**changes, **CALIBRATED[shape]}), targets=12)
    network.calibrate(*batch(range(0, 120_000, 3_000)))
    moments = []
    for block in [*network.featurization.blocks, *network.output_blocks.blocks]:
        for part in (block.convolution, block):
            part.register_forward_hook(lambda _m, _i, out: moments.append(second_moments(out)))
    outputs = network(*batch(range(1_000, 121_000, 3_000)))
    for scalars, vectors in moments:
        assert scalars is None or 0.25 < scalars < 4.0
        assert vectors is None or 0.25 < vectors < 4.0
    # Contributions average to zero, so a molecule's sum is far below N.
    assert outputs.square().mean() < 18.0**2


def second_moments(features):
    return tuple(x.detach().square().mean().item() if x.numel() else None for x in features)


@pytest.mark.parametrize("shape", ["L1", "two output convolutions", "no scalars"])
def test_every_block_is_equivariant(shape):
    network = MultiTargetNetwork(config("gaussian", **SHAPES[shape]), targets=2)
    network.calibrate(*batch())
    seen = []
    for block in [*network.featurization.blocks, *network.output_blocks.blocks]:
        for part in (block.convolution, block.gate, block):
            part.register_forward_hook(lambda _m, _i, out: seen.append(out))
    elements, positions, counts = batch()
    rotation = o3.rand_matrix()
    network(elements, positions, counts)
    straight, seen[:] = list(seen), []
    network(elements, positions @ rotation.T + 1.0, counts)
    assert len(straight) == len(seen) > 0
    for before, after in zip(straight, seen, strict=True):
        turned = torch.einsum("ij,tjav->tiav", rotation, before.vectors)
        assert torch.allclose(after.scalars, before.scalars, rtol=1e-10, atol=1e-10)
        assert torch.allclose(after.vectors, turned, rtol=1e-10, atol=1e-10)
    assert any(out.vectors.numel() and out.vectors.abs().max() > 0.1 for out in straight)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_is_invariant(variant, basis):
    network = MultiTargetNetwork(variant.derive(config(basis)), targets=1)
    elements, positions, counts = batch()
    network.calibrate(elements, positions, counts)
    outputs = network(elements, positions, counts)
    turned = positions @ o3.rand_matrix().T + torch.randn(3)
    order = torch.cat([start + torch.randperm(count) for start, count in starts(counts)])
    again = network(elements[order], turned[order], counts)
    assert torch.allclose(again, outputs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("atoms", [[5, 3, 8], [5, 3, 7], [1], [29, 29, 29]])
def test_filling_up_a_batch_changes_nothing(monkeypatch, atoms):
    torch.manual_seed(0)
    network = MultiTargetNetwork(config(), 2)
    counts = torch.tensor(atoms)
    elements = torch.randint(0, 5, (sum(atoms),))
    positions = 2.0 * torch.randn(sum(atoms), 3)
    found = []
    for atoms_at_once, pairs_at_once in ((1, 1), (16, 128)):
        monkeypatch.setattr("hpsearch.nn.network.ATOM_MULTIPLE", atoms_at_once)
        monkeypatch.setattr("hpsearch.nn.network.PAIR_MULTIPLE", pairs_at_once)
        outputs = network(elements, positions, counts)
        used = [weight for weight in network.parameters() if weight.numel()]
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), used)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_batches_of_like_size_have_the_same_shapes(monkeypatch):
    seen = []
    network = MultiTargetNetwork(config(), 1)
    network.featurization.register_forward_pre_hook(
        lambda _, inputs: seen.append((len(inputs[0]), len(inputs[2])))
    )
    for atoms in ([16, 16], [17, 15], [15, 14, 3], [17, 14]):  # 211 to 241 pairs
        network(
            torch.zeros(sum(atoms), dtype=torch.int64),
            0.01 * torch.randn(sum(atoms), 3),
            torch.tensor(atoms),
        )
    assert seen == [(32, 256)] * 4


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_any_number_of_elements(count):
    torch.manual_seed(0)
    network = MultiTargetNetwork(config(), targets=2, elements=count)
    assert len(network.featurization.embedding) == count
    counts = torch.tensor([4, 7])
    elements, positions = torch.arange(11) % count, 1.5 * torch.randn(11, 3)
    network.calibrate(elements, positions, counts)
    outputs = network(elements, positions, counts)
    expected = e3nn_form(network)(elements, positions, counts)
    assert torch.allclose(outputs, expected, rtol=1e-10, atol=1e-10)
    if count > 1:
        assert not torch.allclose(network((elements + 1) % count, positions, counts), outputs)


def test_an_intensive_target_is_the_mean_over_the_atoms():
    torch.manual_seed(0)
    summed = MultiTargetNetwork(config(), targets=3)
    mixed = MultiTargetNetwork(config(), targets=3, extensive=[True, False, True])
    assert list(mixed.state_dict()) == list(summed.state_dict())
    mixed.load_state_dict(summed.state_dict())
    elements, positions, counts = batch()
    expected, outputs = summed(elements, positions, counts), mixed(elements, positions, counts)
    assert torch.equal(outputs[:, [0, 2]], expected[:, [0, 2]])
    assert torch.allclose(outputs[:, 1], expected[:, 1] / counts)
    # Two copies of a molecule, far apart, have the same intensive value and twice the extensive.
    first = slice(0, int(counts[0]))
    twice = torch.cat((positions[first], positions[first] + 1_000.0))
    both = mixed(elements[first].repeat(2), twice, 2 * counts[:1])
    assert torch.allclose(both[0], outputs[0] * torch.tensor([2.0, 1.0, 2.0]), rtol=1e-8)
