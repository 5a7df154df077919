import math

import pytest
import torch
from e3nn_form import E3nnConvolution, flatten

from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.nn.convolution import Convolution
from hpsearch.nn.features import Degrees, Features
from hpsearch.nn.radial import RadialBasis, RadialMLP

COUNTS = torch.tensor([5, 1, 7])
MAXIMUM = 3.0


def positions():
    return torch.randn(13, 3) * 1.5


def random_features(copies, degrees, atoms=13):
    return Features(
        torch.randn(copies, atoms, degrees.scalars),
        torch.randn(copies, 3, atoms, degrees.vectors),
    )


@pytest.mark.parametrize("copies, shared", [(1, True), (3, True), (3, False)])
@pytest.mark.parametrize("degrees_out", [(5, 2), (5, 0), (0, 2), (1, 0)])
@pytest.mark.parametrize("degrees_in", [(4, 3), (4, 0), (0, 3), (1, 0), (0, 1)])
def test_outputs_and_gradients_equal_e3nns_tensor_product(degrees_in, degrees_out, copies, shared):
    degrees_in, degrees_out = Degrees(*degrees_in), Degrees(*degrees_out)
    place = positions()
    basis = RadialBasis("cosine", 8, MAXIMUM)
    mlp = RadialMLP(copies, basis, 2, 6, 5.0)
    convolution = Convolution(copies, degrees_in, degrees_out, 6)
    features = random_features(1 if shared else copies, degrees_in)
    features = Features(*(x.requires_grad_() for x in features))
    pairs = Neighbourhoods.of(place, COUNTS, MAXIMUM)

    g = mlp(basis(pairs.distance))
    form = E3nnConvolution(convolution)
    mine, theirs = (
        torch.stack([flatten(out, t) for t in range(copies)])
        for out in (
            convolution.neighbour_sum(features, pairs, g),
            form.neighbour_sum(features, pairs, g),
        )
    )
    assert torch.allclose(mine, theirs, atol=1e-12)
    assert mine.abs().max() > 1e-3

    wanted = [*features, convolution.to_scalars, convolution.scalars_to_vectors]
    wanted += [convolution.vectors_to_vectors, *mlp.parameters()]
    wanted = [x for x in wanted if x.numel()]
    upstream = torch.randn_like(mine)
    gradients = [
        torch.autograd.grad(out, wanted, upstream, retain_graph=True, allow_unused=True)
        for out in (mine, theirs)
    ]
    for parameter, a, b in zip(wanted, *gradients, strict=True):
        zero = torch.zeros_like(parameter)
        assert torch.allclose(zero if a is None else a, zero if b is None else b, atol=1e-10)


def test_second_moments_stay_one_as_eq_13_promises():
    # Eq. 13's premise: normal features, normal radial functions, one neighbour.
    S, V, H, A = 40, 30, 64, 600
    degrees = Degrees(S, V)
    convolution = Convolution(1, degrees, Degrees(32, 32), H)
    place = torch.randn(A, 3)
    place[1::2] = place[::2] + torch.nn.functional.normalize(torch.randn(A // 2, 3), dim=1)
    pairs = Neighbourhoods.of(place, torch.full((A // 2,), 2), 2.0)
    g = torch.randn(1, A // 2, H)
    out = convolution.neighbour_sum(random_features(1, degrees, A), pairs, g)
    assert out.scalars.square().mean().item() == pytest.approx(1.0, abs=0.1)
    assert out.vectors.square().mean().item() == pytest.approx(1.0, abs=0.1)


def test_vectors_rotate_and_scalars_do_not():
    from e3nn import o3

    rotation = o3.rand_matrix()
    degrees = Degrees(4, 3)
    place = positions()
    basis = RadialBasis("bessel", 6, MAXIMUM)
    mlp = RadialMLP(1, basis, 1, 5, 5.0)
    convolution = Convolution(1, degrees, Degrees(5, 4), 5)
    features = random_features(1, degrees)

    def apply(place, features):
        pairs = Neighbourhoods.of(place, COUNTS, MAXIMUM)
        return convolution(features, pairs, mlp(basis(pairs.distance)))

    turned = Features(features.scalars, torch.einsum("ij,tjav->tiav", rotation, features.vectors))
    before, after = apply(place, features), apply(place @ rotation.T, turned)
    assert torch.allclose(after.scalars, before.scalars, atol=1e-12)
    assert torch.allclose(
        after.vectors, torch.einsum("ij,tjav->tiav", rotation, before.vectors), atol=1e-12
    )
    assert not torch.allclose(after.vectors, before.vectors, atol=1e-2)


def test_reflections_are_told_apart():
    # Paths are those of SE(3): 1 x 1 -> 1 through l_f = 1 knows left from right (notes of 0011).
    degrees = Degrees(0, 2)
    basis = RadialBasis("cosine", 6, MAXIMUM)
    mlp = RadialMLP(1, basis, 1, 5, 5.0)
    convolution = Convolution(1, degrees, Degrees(0, 2), 5)
    place = positions()
    features = random_features(1, degrees)

    def apply(sign):
        pairs = Neighbourhoods.of(sign * place, COUNTS, MAXIMUM)
        flipped = Features(features.scalars, sign * features.vectors)
        return convolution(flipped, pairs, mlp(basis(pairs.distance))).vectors

    assert not torch.allclose(apply(-1.0), -apply(1.0), atol=1e-3)


def test_one_scalar_and_one_neighbour_by_hand():
    # Σ = n R S with n / sqrt(4π) = 1, R = W g(d) for H = 1; scalars (Σ / sqrt(4) + self) / sqrt(2);
    # no vectors enter, so they have no self-term and Σ / sqrt(4) is all.
    convolution = Convolution(1, Degrees(1, 0), Degrees(1, 1), 1)
    with torch.no_grad():
        convolution.to_scalars.fill_(2.0)
        convolution.scalars_to_vectors.fill_(3.0)
        convolution.self_scalars.weight.fill_(0.5)
        convolution.effective_neighbours.fill_(4.0)
    place = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    pairs = Neighbourhoods.of(place, torch.tensor([2]), 2.0)
    features = Features(torch.tensor([[[1.0], [10.0]]]), torch.zeros(1, 3, 2, 0))
    out = convolution(features, pairs, torch.tensor([[[7.0]]]))
    by_hand = (0.5 * 1.0 + 2.0 * 7.0 * 10.0 / 2.0) / math.sqrt(2.0)
    assert out.scalars[0, 0, 0].item() == pytest.approx(by_hand)
    length = math.sqrt(3.0) * 3.0 * 7.0 * 10.0 / 2.0
    expected = torch.tensor([0.0, 0.0, length])
    assert torch.allclose(out.vectors[0, :, 0, 0], expected)
    assert torch.allclose(out.vectors[0, :, 1, 0], -expected / 10.0)


def test_an_atom_without_neighbours_keeps_only_its_self_term():
    degrees = Degrees(4, 3)
    convolution = Convolution(2, degrees, Degrees(5, 2), 6)
    pairs = Neighbourhoods.of(positions() * 100, COUNTS, 1.0)
    features = random_features(1, degrees)
    out = convolution.neighbour_sum(features, pairs, torch.zeros(2, 0, 6))
    assert out.scalars.abs().max() == 0
    assert out.vectors.abs().max() == 0


def test_second_derivatives_are_refused_and_not_wrong():
    degrees = Degrees(2, 1)
    convolution = Convolution(1, degrees, degrees, 3)
    pairs = Neighbourhoods.of(positions(), COUNTS, MAXIMUM)
    features = Features(*(x.requires_grad_() for x in random_features(1, degrees)))
    out = convolution(features, pairs, torch.randn(1, len(pairs.distance), 3))
    (gradient,) = torch.autograd.grad(
        out.scalars.square().sum(), features.scalars, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "copies, degrees_out", [(1, (5, 2)), (2, (5, 2)), (2, (0, 2)), (2, (5, 0))]
)
def test_an_embedding_may_be_multiplied_into_the_weights(copies, degrees_out):
    convolution = Convolution(copies, Degrees(4, 0), Degrees(*degrees_out), 6)
    pairs = Neighbourhoods.of(positions(), COUNTS, MAXIMUM)
    radial = torch.randn(copies, len(pairs.distance), 6)
    elements = torch.randint(5, (len(pairs.pair),))
    embedding = torch.randn(5, 4)
    nothing = torch.zeros(1, 3, len(elements), 0)
    one_hot = torch.nn.functional.one_hot(elements, 5).to(embedding.dtype)[None]
    at_once = convolution(Features(one_hot, nothing), pairs, radial, embedding)
    before = convolution(Features(embedding[elements][None], nothing), pairs, radial)
    for found, expected in zip(at_once, before, strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-12)
