"""The neighbours of every atom of a batch, as rectangular tensors."""

# A atoms, M molecules, N atoms of the largest molecule, K most neighbours of an atom, P unordered
# pairs

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

MOST_COMPARED = 2**21
"""The most pairs of atoms that are compared at once, those of missing atoms included."""


@dataclass(frozen=True)
class Neighbourhoods:
    """All pairs of different atoms of a molecule within a maximum distance.

    Every atom has K slots for neighbours. Used slots come first; the compiled products rely on
    that. Unused slots have the direction zero and the pair P, whose radial function is zero, so
    they contribute exactly nothing. The pair a = a is left out (docs/decisions/0011).

    Attributes:
        neighbour: ``[A, K]`` atom in the slot; 0 in unused slots.
        direction: ``[A, K, 3]`` unit vector from the atom to the one in the slot; 0 if unused.
        pair: ``[A, K]`` unordered pair of the slot; P if unused.
        reverse: ``[A, K]`` flat index ``b*K + k'`` of the slot of neighbour b that holds this atom.
        distance: ``[P]`` distance of the unordered pair, in Å.
        slots_of_pair: ``[2, P]`` flat indices ``a*K + k`` of the two slots of the unordered pair.
        molecule: ``[A]`` molecule of the atom.
        molecules: M.
    """

    neighbour: Tensor
    direction: Tensor
    pair: Tensor
    reverse: Tensor
    distance: Tensor
    slots_of_pair: Tensor
    molecule: Tensor
    molecules: int

    @property
    def used(self) -> Tensor:
        """``[A, K]`` whether the slot has a neighbour."""
        return self.pair < len(self.distance)

    def padded(self, multiple: int, distance: float) -> Neighbourhoods:
        """The same with unused pairs added, so that P is a multiple of ``multiple``.

        Args:
            multiple: number that divides the new P.
            distance: distance of the added pairs, in Å; above the maximum. Both slots of an added
                pair are slot 0.
        """
        P = len(self.distance)
        missing = -P % multiple
        if missing == 0:
            return self
        return replace(
            self,
            pair=torch.where(self.used, self.pair, P + missing),
            distance=torch.cat((self.distance, self.distance.new_full((missing,), distance))),
            slots_of_pair=torch.cat(
                (self.slots_of_pair, self.slots_of_pair.new_zeros(2, missing)), dim=1
            ),
        )

    @classmethod
    def of(cls, positions: Tensor, counts: Tensor, maximum_angstrom: float) -> Neighbourhoods:
        """Neighbourhoods of the atoms at ``positions``.

        Molecules have few atoms (at most 29 in QM9), so all pairs of a molecule are compared. A
        batch with more than :data:`MOST_COMPARED` of them is done in parts, so that its memory is
        bounded.

        Args:
            positions: ``[A, 3]`` in Å, molecule after molecule.
            counts: ``[M]`` atoms of each molecule.
            maximum_angstrom: largest distance of a pair, in Å.
        """
        most = int(counts.max())
        parts = _parts(counts, most)
        if len(parts) > 1:
            ends = [0, *counts.cumsum(0).tolist()]
            pieces = [
                cls.of(positions[ends[a] : ends[b]], counts[a:b], maximum_angstrom)
                for a, b in parts
            ]
            return _joined(pieces)
        device = positions.device
        starts = counts.cumsum(0) - counts
        place = torch.arange(most, device=device)
        real = place < counts[:, None]  # [M, N]
        atom = torch.where(real, starts[:, None] + place, 0)
        padded = positions[atom]  # [M, N, 3]

        offset = padded[:, None, :, :] - padded[:, :, None, :]  # [M, a, b, 3]: from a to b
        distance = offset.norm(dim=-1)
        near = real[:, :, None] & real[:, None, :] & (distance <= maximum_angstrom)
        near &= place[:, None] != place

        # Number the pairs a < b; the pair (b, a) gets the number of (a, b).
        upper = near & (place[:, None] < place)
        number = (upper.flatten().cumsum(0) - 1).view_as(upper)
        number = torch.where(upper, number, number.transpose(1, 2))
        pairs = int(upper.sum())

        # Move each atom's neighbours to its first slots.
        K = max(int(near.sum(-1).max()), 1)
        order = torch.argsort(near.logical_not().to(torch.uint8), dim=-1, stable=True)[..., :K]
        used = near.gather(-1, order)[real]  # [A, K]
        neighbour = torch.where(used, (starts[:, None, None] + order)[real], 0)
        pair = torch.where(used, number.gather(-1, order)[real], pairs)
        vector = offset.gather(2, order[..., None].expand(-1, -1, -1, 3))[real]
        length = distance.gather(-1, order)[real]
        # Atoms at the same position have no direction; it is set to zero.
        direction = vector / torch.where(used & (length > 0), length, 1.0)[..., None]
        direction = direction * used[..., None]

        # The two slots of a pair: after sorting the used slots by pair they are adjacent.
        flat = torch.argsort(pair.flatten(), stable=True)[: 2 * pairs].view(pairs, 2)
        reverse = torch.zeros(pair.numel(), dtype=torch.int64, device=device)
        reverse[flat[:, 0]] = flat[:, 1]
        reverse[flat[:, 1]] = flat[:, 0]
        molecule = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
        return cls(
            neighbour=neighbour,
            direction=direction,
            pair=pair,
            reverse=reverse.view_as(pair),
            distance=distance[upper],
            slots_of_pair=flat.T.contiguous(),
            molecule=molecule,
            molecules=len(counts),
        )


def _parts(counts: Tensor, most: int) -> list[tuple[int, int]]:
    """The first and last molecule of each part; a part has at least one molecule."""
    if len(counts) * most**2 <= MOST_COMPARED:
        return [(0, len(counts))]
    parts: list[tuple[int, int]] = []
    first = most = 0
    for place, count in enumerate(counts.tolist()):
        largest = max(most, count)
        if place > first and (place - first + 1) * largest**2 > MOST_COMPARED:
            parts.append((first, place))
            first, largest = place, count
        most = largest
    return [*parts, (first, len(counts))]


def _joined(parts: list[Neighbourhoods]) -> Neighbourhoods:
    """The neighbourhoods of all molecules of ``parts``, which follow one another."""
    K = max(part.neighbour.shape[1] for part in parts)
    total = sum(len(part.distance) for part in parts)
    neighbour, direction, pair, reverse, slots, molecule = [], [], [], [], [], []
    atoms = pairs = molecules = 0
    for part in parts:
        A, own = part.neighbour.shape
        missing = K - own
        used = part.used

        def slot(flat: Tensor, own: int = own, atoms: int = atoms) -> Tensor:
            # The flat index of a slot in rows of ``own`` slots, in rows of K after ``atoms`` rows.
            return (flat // own + atoms) * K + flat % own

        fill = torch.nn.functional.pad
        neighbour.append(fill(torch.where(used, part.neighbour + atoms, 0), (0, missing)))
        direction.append(fill(part.direction, (0, 0, 0, missing)))
        pair.append(fill(torch.where(used, part.pair + pairs, total), (0, missing), value=total))
        reverse.append(fill(torch.where(used, slot(part.reverse), 0), (0, missing)))
        slots.append(slot(part.slots_of_pair))
        molecule.append(part.molecule + molecules)
        atoms += A
        pairs += len(part.distance)
        molecules += part.molecules
    return Neighbourhoods(
        neighbour=torch.cat(neighbour),
        direction=torch.cat(direction),
        pair=torch.cat(pair),
        reverse=torch.cat(reverse),
        distance=torch.cat([part.distance for part in parts]),
        slots_of_pair=torch.cat(slots, dim=1),
        molecule=torch.cat(molecule),
        molecules=molecules,
    )
