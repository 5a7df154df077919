import dataclasses

import pytest
import torch

from hpsearch.kernels import neighbourhoods
from hpsearch.kernels.neighbourhoods import Neighbourhoods


def edges(positions, counts, maximum):
    """Ordered pairs of distinct atoms of a molecule within the maximum, one by one."""
    found, start = [], 0
    for count in counts.tolist():
        atoms = range(start, start + count)
        found += [
            (i, j)
            for i in atoms
            for j in atoms
            if i != j and (positions[i] - positions[j]).norm() <= maximum
        ]
        start += count
    return found


def used_slots(pairs):
    """{(a, b): (distance, direction)} from the slots in use."""
    found = {}
    A, K = pairs.pair.shape
    for a in range(A):
        for k in range(K):
            p = int(pairs.pair[a, k])
            if p < len(pairs.distance):
                b = int(pairs.neighbour[a, k])
                assert (a, b) not in found
                found[a, b] = (float(pairs.distance[p]), pairs.direction[a, k])
    return found


def test_every_pair_within_the_maximum_once_each_way():
    counts = torch.tensor([4, 1, 9, 2])
    positions = torch.randn(16, 3) * 2
    pairs = Neighbourhoods.of(positions, counts, 2.5)
    found = used_slots(pairs)
    assert sorted(found) == edges(positions, counts, 2.5)
    for (i, j), (distance, direction) in found.items():
        vector = positions[j] - positions[i]
        assert abs(distance - vector.norm()) < 1e-12
        assert torch.allclose(direction, vector / vector.norm())
    assert len(pairs.distance) * 2 == len(found)


def test_reverse_and_slots_name_the_same_pair_from_both_ends():
    counts = torch.tensor([6, 5])
    pairs = Neighbourhoods.of(torch.randn(11, 3), counts, 1.5)
    K = pairs.pair.shape[1]
    flat_pair, flat_neighbour = pairs.pair.flatten(), pairs.neighbour.flatten()
    used = (flat_pair < len(pairs.distance)).nonzero().flatten()
    for slot in used.tolist():
        back = int(pairs.reverse.flatten()[slot])
        assert flat_pair[back] == flat_pair[slot]
        assert back // K == flat_neighbour[slot]
        assert flat_neighbour[back] == slot // K
    assert torch.equal(flat_pair[pairs.slots_of_pair[0]], torch.arange(len(pairs.distance)))
    assert torch.equal(flat_pair[pairs.slots_of_pair[1]], torch.arange(len(pairs.distance)))
    assert not torch.equal(pairs.slots_of_pair[0], pairs.slots_of_pair[1])


def test_padding_pairs_are_in_no_slot():
    pairs = Neighbourhoods.of(torch.randn(11, 3), torch.tensor([6, 5]), 1.5)
    count = len(pairs.distance)
    filled = pairs.padded(32, 3.0)
    assert 0 < count < 32 == len(filled.distance) and filled.padded(32, 3.0) is filled
    assert torch.equal(filled.used, pairs.used)
    assert torch.equal(filled.pair[filled.used], pairs.pair[pairs.used])
    assert torch.equal(filled.distance[:count], pairs.distance)
    assert (filled.distance[count:] == 3.0).all()
    assert torch.equal(filled.slots_of_pair[:, :count], pairs.slots_of_pair)
    assert torch.equal(filled.slots_of_pair[0, count:], filled.slots_of_pair[1, count:])


def test_molecules_do_not_see_each_other():
    positions = torch.zeros(2, 3)
    pairs = Neighbourhoods.of(positions, torch.tensor([1, 1]), 5.0)
    assert len(pairs.distance) == 0
    assert pairs.direction.abs().max() == 0


def test_coincident_atoms_have_no_direction():
    pairs = Neighbourhoods.of(torch.zeros(2, 3), torch.tensor([2]), 5.0)
    assert pairs.distance.tolist() == [0.0]
    assert pairs.direction.abs().max() == 0


@pytest.mark.parametrize("most", [1, 40, 150])
def test_a_batch_in_parts_is_the_batch(monkeypatch, most):
    torch.manual_seed(0)
    counts = torch.tensor([4, 1, 9, 2, 7, 7])
    positions = torch.randn(30, 3) * 2
    whole = Neighbourhoods.of(positions, counts, 2.5)
    monkeypatch.setattr(neighbourhoods, "MOST_COMPARED", most)
    assert len(neighbourhoods._parts(counts, 9)) > 1
    parts = Neighbourhoods.of(positions, counts, 2.5)
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(parts, field.name)
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, field.name


def test_a_large_molecule_needs_little_memory_beside_small_ones(monkeypatch):
    seen = []
    real = Neighbourhoods.of.__func__

    def of(cls, positions, counts, maximum):
        if len(neighbourhoods._parts(counts, int(counts.max()))) == 1:
            seen.append(len(counts) * int(counts.max()) ** 2)
        return real(cls, positions, counts, maximum)

    monkeypatch.setattr(Neighbourhoods, "of", classmethod(of))
    counts = torch.tensor([500, *[3] * 200, 500, 480])
    positions = torch.rand(int(counts.sum()), 3) * 15
    found = Neighbourhoods.of(positions, counts, 3.0)
    assert found.molecules == 203
    assert len(seen) > 2
    assert max(seen) <= neighbourhoods.MOST_COMPARED
