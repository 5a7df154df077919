"""A molecule, a table of molecules, and a batch for the network.

Shapes: n molecules of the table, N atoms of one molecule, A atoms of a batch, M molecules of a
batch, E elements (5 for QM9), T targets (12 for QM9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpsearch.config.targets import ELEMENTS, QM9_TARGETS, SYMBOLS, Targets
from hpsearch.system.errors import InputError

if TYPE_CHECKING:
    import torch

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

POSITION_UNIT = "Å"


def units_of(targets: Targets) -> dict[str, str]:
    """The units of the positions and of the targets in a table."""
    return {"positions": POSITION_UNIT, **{target.name: target.native_unit for target in targets}}


_LARGEST = int(np.iinfo(np.int64).max)
_LARGEST_IDENTIFIER = int(np.iinfo(np.int32).max)
_NOT_AN_ELEMENT = 255


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule.

    Attributes:
        atomic_numbers: [N] atomic numbers.
        positions: [N, 3] in Å.
        targets: [T] in native units, in the order of the table's targets; ``None`` if they are
            unknown.
        identifier: unique number of the molecule; QM9's index for molecules of QM9.
    """

    atomic_numbers: NDArray[Any]
    positions: NDArray[Any]
    targets: NDArray[Any] | None
    identifier: int


@dataclass(frozen=True, eq=False)
class MoleculeBatch:
    """Atoms of M molecules, one molecule after another.

    Attributes:
        elements: [A] int64, index of the atom's element among those of the table.
        positions: [A, 3] float32, in Å.
        counts: [M] int64, number of atoms of the molecule; the sum is A.
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
    """A read-only table of molecules in columns, in memory or mapped from files.

    Attributes:
        element_indices: [atoms] uint8, index of the atom's element in ``elements``.
        positions: [atoms, 3] float32, in Å.
        offsets: [n + 1] int64; molecule m has the atoms ``offsets[m]`` to ``offsets[m + 1] - 1``.
        targets: [n, T] float64 in native units, ordered as ``target_table``; NaN if unknown.
        identifiers: [n] int32, unique; QM9's index (1 to 133885) for molecules of QM9.
        recorded_hash: content hash that was computed when the columns were written to files.
        elements: atomic numbers in the order of the one-hot input; QM9's by default.
        target_table: names, units and references of the targets; QM9's by default.
        names: [n] UTF-8 text, the identifiers of the file where they are not whole numbers.
        groups: [n] int32, number of the molecule's group; ``None`` without groups.
    """

    element_indices: NDArray[np.uint8]
    positions: NDArray[np.float32]
    offsets: Integers
    targets: Floats
    identifiers: NDArray[np.int32]
    recorded_hash: str | None = field(default=None, repr=False)
    elements: tuple[int, ...] = ELEMENTS
    target_table: Targets = field(default=QM9_TARGETS, repr=False)
    names: NDArray[np.bytes_] | None = None
    groups: NDArray[np.int32] | None = None

    @classmethod
    def assemble(
        cls,
        identifiers: ArrayLike,
        atom_counts: ArrayLike,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        targets: ArrayLike,
        *,
        elements: Sequence[int] = ELEMENTS,
        target_table: Targets = QM9_TARGETS,
        names: NDArray[np.bytes_] | None = None,
        groups: NDArray[np.int32] | None = None,
    ) -> Molecules:
        """A table in memory from columns of any numeric type, which are checked.

        Args:
            identifiers: [n] unique whole numbers.
            atom_counts: [n] number of atoms of the molecule, at least 1.
            atomic_numbers: [atoms], all in ``elements``.
            positions: [atoms, 3] in Å.
            targets: [n, T] in native units; NaN if unknown.
            elements: see :class:`Molecules`, as are the next three.
            target_table: see there.
            names: see there.
            groups: see there.

        Raises:
            InputError: a molecule has no atoms, an unknown element, a position or target that is
                not finite, or an identifier that is not unique or too large.
        """
        labels = np.asarray(identifiers, dtype=np.int64)
        counts = np.asarray(atom_counts, dtype=np.int64)
        numbers = np.asarray(atomic_numbers, dtype=np.int64)
        _check_identifiers(labels)
        _refuse(counts < 1, labels, "must have at least one atom")
        owner = np.repeat(labels, counts)
        index_of_number = np.full(256, _NOT_AN_ELEMENT, dtype=np.uint8)
        index_of_number[list(elements)] = np.arange(len(elements), dtype=np.uint8)
        indices = index_of_number[np.clip(numbers, 0, 255)]
        _refuse(
            indices == _NOT_AN_ELEMENT,
            owner,
            f"must have atomic numbers among {', '.join(map(str, elements))}",
        )
        with np.errstate(over="ignore"):
            # Adding 0 turns -0 into 0; the two sources of QM9 differ in the sign of zeros.
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
            elements=tuple(elements),
            target_table=target_table,
            names=names,
            groups=groups,
        )

    @classmethod
    def from_molecules(
        cls,
        molecules: Sequence[Molecule],
        elements: Sequence[int] = ELEMENTS,
        target_table: Targets = QM9_TARGETS,
    ) -> Molecules:
        """A table of ``molecules``, in their order.

        Args:
            molecules: the molecules.
            elements: atomic numbers in the order of the one-hot input.
            target_table: the targets in the order of ``Molecule.targets``.

        Raises:
            InputError: there is no molecule, or a molecule does not meet the requirements of
                :class:`Molecule` and :meth:`assemble`.
        """
        if not molecules:
            raise InputError("at least one molecule is needed; got none")
        numbers = [_numeric(m, "atomic_numbers", m.atomic_numbers, (None,)) for m in molecules]
        positions = [
            _numeric(m, "positions", m.positions, (len(z), 3))
            for m, z in zip(molecules, numbers, strict=True)
        ]
        unknown = np.full(len(target_table), np.nan)
        targets = [
            unknown
            if m.targets is None
            else _checked_targets(m, _numeric(m, "targets", m.targets, (len(target_table),)))
            for m in molecules
        ]
        return cls.assemble(
            identifiers=[_checked_identifier(m.identifier) for m in molecules],
            atom_counts=[len(z) for z in numbers],
            atomic_numbers=np.concatenate(numbers),
            positions=np.concatenate(positions),
            targets=np.stack(targets),
            elements=elements,
            target_table=target_table,
        )

    def __len__(self) -> int:
        return len(self.identifiers)

    @cached_property
    def atom_counts(self) -> Integers:
        """[n] number of atoms of the molecules."""
        return np.diff(self.offsets)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the content; for a table from files, the hash stored with them."""
        return self.recorded_hash or self.computed_hash()

    def computed_hash(self) -> str:
        """SHA-256 of the content, computed from all numbers.

        The hashed bytes are, in this order:

        - a line per quantity with its unit: the positions, then the targets;
        - a line with the elements, if they are not QM9's;
        - ``identifiers``, ``offsets``, ``element_indices``, ``positions``, ``targets``, and
          ``names`` and ``groups`` if there are any: for every column a line with name, type and
          shape, and its numbers, little-endian, in C order.
        """
        digest = hashlib.sha256()
        for quantity, unit in units_of(self.target_table).items():
            digest.update(f"{quantity} [{unit}]\n".encode())
        if self.elements != ELEMENTS:
            digest.update(f"elements {' '.join(map(str, self.elements))}\n".encode())
        for name, (column, kind) in self._hashed_columns().items():
            digest.update(f"{name} {kind} {column.shape}\n".encode())
            digest.update(np.ascontiguousarray(column, dtype=kind).data)
        return digest.hexdigest()

    def _hashed_columns(self) -> dict[str, tuple[NDArray[Any], str]]:
        """Each column and its type in the hash."""
        columns: dict[str, tuple[NDArray[Any], str]] = {
            "identifiers": (self.identifiers, "<i4"),
            "offsets": (self.offsets, "<i8"),
            "element_indices": (self.element_indices, "|u1"),
            "positions": (self.positions, "<f4"),
            "targets": (self.targets, "<f8"),
        }
        if self.names is not None:
            columns["names"] = (self.names, self.names.dtype.str)
        if self.groups is not None:
            columns["groups"] = (self.groups, "<i4")
        return columns

    def column_hashes(self) -> dict[str, str]:
        """What is in the table, as text by name: counts, elements, and a hash of each column."""
        columns = {
            "molecules": f"{len(self):,}",
            "elements": " ".join(SYMBOLS[number] for number in self.elements),
        }
        for name, (column, kind) in self._hashed_columns().items():
            if name not in ("targets", "offsets"):
                columns[name] = _sha256(column, kind)
        for place, target in enumerate(self.target_table):
            columns[f"labels of {target.name}"] = _sha256(self.targets[:, place], "<f8")
        return columns

    def name_of(self, row: int) -> str:
        """The molecule's name in the file; its identifier if it has none."""
        if self.names is None:
            return str(self.identifiers[row])
        return bytes(self.names[row]).decode("utf-8", "replace")

    def with_elements(self, elements: Sequence[int]) -> Molecules:
        """The same molecules with another list of elements, of which each must have its own.

        Raises:
            InputError: a molecule has an element that is not in the list.
        """
        if tuple(elements) == self.elements:
            return self
        order = [list(elements).index(z) if z in elements else -1 for z in self.elements]
        for index, place in enumerate(order):
            if place < 0 and (atoms := np.flatnonzero(self.element_indices == index)).size:
                row = int(np.searchsorted(self.offsets, atoms[0], side="right")) - 1
                symbol = SYMBOLS[self.elements[index]]
                raise InputError(
                    f"molecule {self.name_of(row)} must have elements among "
                    f"{', '.join(SYMBOLS[z] for z in elements)}, got {symbol} "
                    f"({len(atoms):,} atoms of it in the file); add {symbol} to data.elements, or "
                    "leave the molecules out"
                )
        mapped = np.array([max(place, 0) for place in order], dtype=np.uint8)
        return replace(
            self,
            element_indices=mapped[self.element_indices],
            elements=tuple(elements),
            recorded_hash=None,
        )

    def molecule(self, row: int) -> Molecule:
        """A copy of the molecule in row ``row``."""
        chosen = self.select([row])
        targets = chosen.targets[0]
        return Molecule(
            atomic_numbers=np.array(self.elements)[chosen.element_indices],
            positions=chosen.positions,
            targets=None if np.isnan(targets).all() else targets,
            identifier=int(chosen.identifiers[0]),
        )

    def select(self, rows: ArrayLike) -> Molecules:
        """A table in memory of the given rows, in the given order."""
        numbers = self._rows(rows)
        atoms, counts = self.atoms(numbers)
        return replace(
            self,
            element_indices=self.element_indices[atoms],
            positions=self.positions[atoms],
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            targets=self.targets[numbers],
            identifiers=self.identifiers[numbers],
            recorded_hash=None,
            names=None if self.names is None else self.names[numbers],
            groups=None if self.groups is None else self.groups[numbers],
        )

    def element_counts(self, rows: ArrayLike) -> Integers:
        """[M, E] number of atoms of every element in the given rows, ordered as ``elements``."""
        numbers = self._rows(rows)
        atoms, counts = self.atoms(numbers)
        kinds = len(self.elements)
        bins = np.repeat(np.arange(len(numbers)) * kinds, counts) + self.element_indices[atoms]
        return np.bincount(bins, minlength=len(numbers) * kinds).reshape(-1, kinds)

    def batch(self, rows: ArrayLike) -> MoleculeBatch:
        """The atoms of the molecules in the given rows, as tensors on the CPU."""
        # Imported here: the driver only counts and splits molecules, without torch.
        import torch

        atoms, counts = self.atoms(self._rows(rows))
        return MoleculeBatch(
            elements=torch.from_numpy(self.element_indices[atoms].astype(np.int64)),
            positions=torch.from_numpy(self.positions[atoms]),
            counts=torch.from_numpy(counts),
        )

    def _rows(self, rows: ArrayLike) -> Integers:
        """``rows``, checked to exist: numpy would count negative ones from the end."""
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

    def atoms(self, rows: Integers) -> tuple[Integers, Integers]:
        """The indices [A] of the rows' atoms in the atom columns, and the atom counts [M]."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(starts - ends + counts, counts), counts


def _sha256(column: NDArray[Any], kind: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(column, dtype=kind).data).hexdigest()


def _checked_identifier(identifier: int) -> int:
    """``identifier``, checked to be a whole number of at most 64 bits."""
    if not isinstance(identifier, int | np.integer) or abs(int(identifier)) > _LARGEST:
        raise InputError(f"an identifier must be a whole number; got '{identifier}'")
    return int(identifier)


def _check_identifiers(identifiers: Integers) -> None:
    """Refuse identifiers that are not unique or need more than 32 bits."""
    _refuse(
        (identifiers < 0) | (identifiers > _LARGEST_IDENTIFIER),
        identifiers,
        f"must have an identifier between 0 and {_LARGEST_IDENTIFIER}",
    )
    ordered = np.sort(identifiers)
    _refuse(ordered[1:] == ordered[:-1], ordered[1:], "must have a unique identifier")


def _refuse(wrong: NDArray[np.bool_] | np.bool_, identifiers: NDArray[Any], demand: str) -> None:
    """Raise an ``InputError`` that names the first molecule for which ``wrong`` is true."""
    refused = np.unique(identifiers[wrong])
    if len(refused):
        others = f" (and {len(refused) - 1:,} more)" if len(refused) > 1 else ""
        raise InputError(f"molecule {refused[0]}{others} {demand}")


def _numeric(
    molecule: Molecule, name: str, values: ArrayLike, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """``values`` as a numeric array of the given shape; atomic numbers must be whole."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.asarray(None)
    kinds = "iu" if name == "atomic_numbers" else "iuf"
    # An empty list, which is float in numpy, is refused later with a better message.
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


def _checked_targets(molecule: Molecule, targets: NDArray[Any]) -> NDArray[Any]:
    """``targets``, checked to have no NaN, which means an unknown target in the table."""
    if np.isnan(targets).any():
        raise InputError(f"molecule {molecule.identifier} must have finite targets")
    return targets
