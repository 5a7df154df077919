"""Molecules: one, a table of many, and a batch for the network.

Shapes: n molecules of the table, N atoms of one molecule, A atoms of a batch, M molecules of a
batch, T = 12 targets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpsearch.config.targets import ELEMENTS, TARGETS
from hpsearch.errors import InputError

if TYPE_CHECKING:
    import torch

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

POSITION_UNIT = "Å"

UNITS = {"positions": POSITION_UNIT, **{target.name: target.native_unit for target in TARGETS}}
"""Units of a table: of its positions and of each target's column."""

_LARGEST = int(np.iinfo(np.int64).max)
_LARGEST_IDENTIFIER = int(np.iinfo(np.int32).max)
_NOT_AN_ELEMENT = 255
_INDEX_OF_NUMBER = np.full(256, _NOT_AN_ELEMENT, dtype=np.uint8)
_INDEX_OF_NUMBER[list(ELEMENTS)] = np.arange(len(ELEMENTS), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule.

    Attributes:
        atomic_numbers: [N] atomic numbers, each one of ``ELEMENTS``.
        positions: [N, 3] in Å.
        targets: [T] in native units, ordered as ``TARGETS``; ``None`` when they are not known.
        identifier: number that is the molecule's alone; QM9's index for its own molecules.
    """

    atomic_numbers: NDArray[Any]
    positions: NDArray[Any]
    targets: NDArray[Any] | None
    identifier: int


@dataclass(frozen=True, eq=False)
class MoleculeBatch:
    """Atoms of M molecules, one molecule after another.

    Attributes:
        elements: [A] int64, index of each atom's element in ``ELEMENTS``.
        positions: [A, 3] float32, in Å.
        counts: [M] int64, atoms of each molecule; their sum is A.
    """

    elements: torch.Tensor
    positions: torch.Tensor
    counts: torch.Tensor

    def to(self, device: torch.device | str) -> MoleculeBatch:
        """The batch on ``device``."""
        return MoleculeBatch(
            elements=self.elements.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            counts=self.counts.to(device, non_blocking=True),
        )


@dataclass(frozen=True, eq=False)
class Molecules:
    """A table of molecules in columns, each in memory or mapped from a file; not to be written to.

    Attributes:
        element_indices: [atoms] uint8, index of each atom's element in ``ELEMENTS``.
        positions: [atoms, 3] float32, in Å.
        offsets: [n + 1] int64; molecule m has the atoms ``offsets[m]`` to ``offsets[m + 1] - 1``.
        targets: [n, T] float64 in native units, ordered as ``TARGETS``; NaN where not known.
        identifiers: [n] int32, without repeats; QM9's index (1 to 133885) for its own molecules.
        recorded_hash: content hash that was computed when the columns were written to files.
    """

    element_indices: NDArray[np.uint8]
    positions: NDArray[np.float32]
    offsets: Integers
    targets: Floats
    identifiers: NDArray[np.int32]
    recorded_hash: str | None = field(default=None, repr=False)

    @classmethod
    def assemble(
        cls,
        identifiers: ArrayLike,
        atom_counts: ArrayLike,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        targets: ArrayLike,
    ) -> Molecules:
        """A table in memory from checked columns of any numeric type.

        Args:
            identifiers: [n] whole numbers without repeats.
            atom_counts: [n] atoms of each molecule, at least 1.
            atomic_numbers: [atoms], each one of ``ELEMENTS``.
            positions: [atoms, 3] in Å.
            targets: [n, T] in native units; NaN where not known.

        Raises:
            InputError: a molecule has no atoms, an unknown element, a position or target that is
                not finite, or an identifier that another molecule has too or that is too large.
        """
        labels = np.asarray(identifiers, dtype=np.int64)
        counts = np.asarray(atom_counts, dtype=np.int64)
        numbers = np.asarray(atomic_numbers, dtype=np.int64)
        _check_identifiers(labels)
        _refuse(counts < 1, labels, "must have at least one atom")
        owner = np.repeat(labels, counts)
        indices = _INDEX_OF_NUMBER[np.clip(numbers, 0, 255)]
        _refuse(
            indices == _NOT_AN_ELEMENT,
            owner,
            f"must have atomic numbers among {', '.join(map(str, ELEMENTS))}",
        )
        with np.errstate(over="ignore"):
            # Adding 0 turns -0 into 0: sources differ in the sign they print for zero.
            single = np.asarray(positions, dtype=np.float64).astype(np.float32) + np.float32(0)
        _refuse(~np.isfinite(single).all(axis=1), owner, "must have finite positions")
        values = np.asarray(targets, dtype=np.float64) + 0.0
        _refuse(np.isinf(values).any(axis=1), labels, "must have finite targets")
        return cls(
            element_indices=indices,
            positions=single,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            targets=values,
            identifiers=labels.astype(np.int32),
        )

    @classmethod
    def from_molecules(cls, molecules: Sequence[Molecule]) -> Molecules:
        """A table of ``molecules``, in their order.

        Raises:
            InputError: there is no molecule, or one is not as :class:`Molecule` and
                :meth:`assemble` want it.
        """
        if not molecules:
            raise InputError("at least one molecule is needed; got none")
        numbers = [_numeric(m, "atomic_numbers", m.atomic_numbers, (None,)) for m in molecules]
        positions = [
            _numeric(m, "positions", m.positions, (len(z), 3))
            for m, z in zip(molecules, numbers, strict=True)
        ]
        unknown = np.full(len(TARGETS), np.nan)
        targets = [
            unknown if m.targets is None else _known(m, _numeric(m, "targets", m.targets, (12,)))
            for m in molecules
        ]
        return cls.assemble(
            identifiers=[_whole(m.identifier) for m in molecules],
            atom_counts=[len(z) for z in numbers],
            atomic_numbers=np.concatenate(numbers),
            positions=np.concatenate(positions),
            targets=np.stack(targets),
        )

    def __len__(self) -> int:
        return len(self.identifiers)

    @cached_property
    def atom_counts(self) -> Integers:
        """[n] atoms of each molecule."""
        return np.diff(self.offsets)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the content; of a table from files, the one recorded with them."""
        return self.recorded_hash or self.computed_hash()

    def computed_hash(self) -> str:
        """SHA-256 of the content, computed from every number.

        Hashed in this order: one line per quantity with its unit (positions, then the targets), and
        ``identifiers``, ``offsets``, ``element_indices``, ``positions``, ``targets``, each as a
        line with name, type and shape and its numbers, little-endian, in C order.
        """
        digest = hashlib.sha256()
        for quantity, unit in UNITS.items():
            digest.update(f"{quantity} [{unit}]\n".encode())
        columns: dict[str, tuple[NDArray[Any], str]] = {
            "identifiers": (self.identifiers, "<i4"),
            "offsets": (self.offsets, "<i8"),
            "element_indices": (self.element_indices, "|u1"),
            "positions": (self.positions, "<f4"),
            "targets": (self.targets, "<f8"),
        }
        for name, (column, kind) in columns.items():
            digest.update(f"{name} {kind} {column.shape}\n".encode())
            digest.update(np.ascontiguousarray(column, dtype=kind).data)
        return digest.hexdigest()

    def molecule(self, row: int) -> Molecule:
        """The molecule of row ``row``, copied."""
        chosen = self.select([row])
        targets = chosen.targets[0]
        return Molecule(
            atomic_numbers=np.array(ELEMENTS)[chosen.element_indices],
            positions=chosen.positions,
            targets=None if np.isnan(targets).all() else targets,
            identifier=int(chosen.identifiers[0]),
        )

    def select(self, rows: ArrayLike) -> Molecules:
        """A table in memory of the given rows, in their order."""
        numbers = self._rows(rows)
        atoms, counts = self._atoms(numbers)
        return Molecules(
            element_indices=self.element_indices[atoms],
            positions=self.positions[atoms],
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            targets=self.targets[numbers],
            identifiers=self.identifiers[numbers],
        )

    def element_counts(self, rows: ArrayLike) -> Integers:
        """[M, 5] atoms of each element in the given rows' molecules, ordered as ``ELEMENTS``."""
        numbers = self._rows(rows)
        atoms, counts = self._atoms(numbers)
        kinds = len(ELEMENTS)
        cell = np.repeat(np.arange(len(numbers)) * kinds, counts) + self.element_indices[atoms]
        return np.bincount(cell, minlength=len(numbers) * kinds).reshape(-1, kinds)

    def batch(self, rows: ArrayLike) -> MoleculeBatch:
        """The atoms of the given rows' molecules as tensors on the CPU."""
        # A driver that only counts and splits molecules need not wait for torch.
        import torch

        atoms, counts = self._atoms(self._rows(rows))
        return MoleculeBatch(
            elements=torch.from_numpy(self.element_indices[atoms].astype(np.int64)),
            positions=torch.from_numpy(self.positions[atoms]),
            counts=torch.from_numpy(counts),
        )

    def _rows(self, rows: ArrayLike) -> Integers:
        """``rows`` as numbers of rows that exist: numpy would count negative ones from the end."""
        given = np.asarray(rows)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise TypeError(
                f"rows must be a list of whole numbers; got {given.dtype} {given.shape}"
            )
        if given.size and (given.min() < 0 or given.max() >= len(self)):
            raise IndexError(
                f"rows must be between 0 and {len(self) - 1}; got {given.min()} to {given.max()}"
            )
        return given.astype(np.int64)

    def _atoms(self, rows: Integers) -> tuple[Integers, Integers]:
        """Positions in the atom columns [A] of the rows' atoms, and their atom counts [M]."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(starts - ends + counts, counts), counts


def _whole(identifier: int) -> int:
    """``identifier``, when it is a whole number that 64 bits hold."""
    if not isinstance(identifier, int | np.integer) or abs(int(identifier)) > _LARGEST:
        raise InputError(f"an identifier must be a whole number; got '{identifier}'")
    return int(identifier)


def _check_identifiers(identifiers: Integers) -> None:
    """Refuse identifiers that repeat or that 32 bits do not hold."""
    _refuse(
        (identifiers < 0) | (identifiers > _LARGEST_IDENTIFIER),
        identifiers,
        f"must have an identifier between 0 and {_LARGEST_IDENTIFIER}",
    )
    ordered = np.sort(identifiers)
    _refuse(
        ordered[1:] == ordered[:-1], ordered[1:], "must have an identifier that no other one has"
    )


def _refuse(wrong: NDArray[np.bool_] | np.bool_, identifiers: NDArray[Any], demand: str) -> None:
    """Raise an ``InputError`` that names the first molecule where the mask ``wrong`` is set."""
    found = np.unique(identifiers[wrong])
    if len(found):
        others = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise InputError(f"molecule {found[0]}{others} {demand}")


def _numeric(
    molecule: Molecule, name: str, values: ArrayLike, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """``values`` as an array of numbers of the given shape, whole ones for atomic numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.asarray(None)
    kinds = "iu" if name == "atomic_numbers" else "iuf"
    # No atoms at all is refused later, with the right words; numpy calls an empty list float.
    fits = array.ndim == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or (array.size and array.dtype.kind not in kinds):
        sizes = " x ".join("N" if size is None else str(size) for size in shape)
        raise InputError(
            f"molecule {molecule.identifier} must have {sizes} numbers as {name}; "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array


def _known(molecule: Molecule, targets: NDArray[Any]) -> NDArray[Any]:
    """``targets``, refused when one is NaN, which the table keeps for targets not known."""
    if np.isnan(targets).any():
        raise InputError(f"molecule {molecule.identifier} must have finite targets")
    return targets
