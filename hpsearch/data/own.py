"""The molecules of an experiment: QM9, or a user's own file, converted once into a cache.

The cache of own molecules is named by what decides its content: the file, its columns and units.
It stays valid while the files keep their size and time, or their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.run import DataConfig
from hpsearch.config.targets import SYMBOLS
from hpsearch.config.units import conversion
from hpsearch.data import cache as cached
from hpsearch.data import qm9
from hpsearch.data.cache import DamagedCacheError
from hpsearch.data.molecule import Floats, Integers, Molecules
from hpsearch.formats import Part, Wanted, read_parts, source_files
from hpsearch.system.errors import InputError, one_line
from hpsearch.system.files import Say, cache_directory, silent

LEAST_DISTANCE_ANGSTROM = 0.3
"""Two atoms that are nearer are a mistake; H2's bond has 0.74 Å."""

_COMPARED = 2_000_000
_LONGEST_NAME = 200


def load(data: DataConfig, say: Say = silent) -> Molecules:
    """The molecules that ``data`` declares, mapped from their cache; QM9 without a declaration.

    The first call converts the file. Later calls check that the file and the cache are the same.

    Args:
        data: the declaration.
        say: function for lines about the progress of long operations.

    Raises:
        InputError: the file is missing or not as declared: an element outside the declaration, a
            missing label, two atoms at one place and others.
        HpsearchError: the cache cannot be written.
    """
    if data.molecules is None:
        return qm9.load(say=say)
    table = _converted(data, say)
    numbers = data.atomic_numbers
    if numbers is not None:
        table = table.with_elements(numbers)
    if data.missing == "refuse":
        _refuse_missing(table, data)
    return table


def missing_counts(molecules: Molecules) -> dict[str, int]:
    """Number of molecules without a value, by target."""
    unknown = np.isnan(molecules.targets).sum(axis=0).tolist()
    return dict(zip(molecules.target_table.names, unknown, strict=True))


def cache_folder(data: DataConfig) -> Path:
    """The folder of the cache of the molecules that ``data`` declares; it may not exist yet."""
    name = "qm9" if data.molecules is None else f"molecules-{_key(data)}"
    return cache_directory() / name


def _converted(data: DataConfig, say: Say) -> Molecules:
    assert data.molecules is not None
    targets = data.all_targets
    folder = cache_folder(data)
    files = source_files(data.molecules)
    known = cached.read_record(folder)
    stamps = _stamps(files)
    hashes = known.get("hashes") if known.get("stamps") == stamps else _hashes(files)
    if hashes and known.get("hashes") == hashes:
        try:
            table = cached.open_table(folder, targets)
            if known.get("stamps") != stamps:
                # The content is the same: the next load need not read it to know that.
                cached.write_record(folder, {"stamps": stamps, "hashes": hashes})
            return table
        except (FileNotFoundError, DamagedCacheError) as damage:
            say(f"the cache '{folder}' is made again ({damage})")
    record = {"stamps": stamps, "hashes": hashes}
    molecules = _read(data, say)
    if _stamps(files) != stamps:
        raise InputError(
            f"{one_line(data.molecules.path)} must not change while it is read; run the command "
            "again"
        )
    cached.write_table(molecules, folder, str(Path(data.molecules.path).resolve()), record)
    return cached.open_table(folder, targets)


def _key(data: DataConfig) -> str:
    """A digest of everything in the declaration that decides what is read."""
    assert data.molecules is not None
    content = {
        "source": data.molecules.model_dump(mode="json"),
        "targets": [(t.name, t.column, t.native_unit) for t in data.all_targets],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _stamps(files: list[Path]) -> list[list[Any]]:
    try:
        return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    except OSError as error:
        raise InputError(f"the molecules must be readable: {error}") from error


def _hashes(files: list[Path]) -> list[str]:
    hashes = []
    for path in files:
        try:
            with path.open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{one_line(str(path))} must be readable: {error.strerror}") from error
    return hashes


# --- Reading the file ----------------------------------------------------------------------------


def _read(data: DataConfig, say: Say) -> Molecules:
    """The molecules of the file, checked, in memory."""
    source, targets = data.molecules, data.all_targets
    assert source is not None
    wanted = Wanted(tuple(t.column for t in targets), source.identifier, source.group)
    factor = conversion(source.length_unit, "Å")
    parts: list[Part] = []
    total = 0
    for part in read_parts(source, wanted, say):
        _check_part(part, source.path, factor)
        parts.append(_smaller(part, factor))
        total += len(part.counts)
    if not parts:
        raise InputError(f"{one_line(source.path)} must have molecules, got none")
    numbers = np.concatenate([part.numbers for part in parts])
    identifiers, names = _identifiers(parts, source.path, total)
    return Molecules.assemble(
        identifiers,
        np.concatenate([part.counts for part in parts]),
        numbers,
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.labels for part in parts]),
        elements=[int(number) for number in np.unique(numbers)],
        target_table=targets,
        names=names,
        groups=_groups(parts),
    )


def _smaller(part: Part, factor: float) -> Part:
    """The part with positions in Å as float32, and without what is only needed for errors."""
    positions = part.positions if factor == 1 else part.positions * factor
    return Part(
        part.counts,
        part.numbers.astype(np.uint8),
        positions.astype(np.float32),
        part.labels,
        part.identifiers,
        part.groups,
        [],
    )


def _check_part(part: Part, path: str, factor: float) -> None:
    """Refuse what only shows in Å, and name the first molecule.

    Raises:
        InputError: a position is too large for float32, or two atoms are nearly at one place.
    """
    shown = one_line(Path(path).name)
    with np.errstate(over="ignore"):
        finite = np.isfinite((part.positions * factor).astype(np.float32)).all(axis=1)
    if not finite.all():
        owner = np.repeat(np.arange(len(part.counts)), part.counts)
        place = part.places[owner[np.argmin(finite)]]
        raise InputError(f"{shown}, {place}: positions must be finite numbers")
    nearest = nearest_distances(part.positions * factor, part.counts)
    place = int(np.argmin(nearest))
    if nearest[place] < LEAST_DISTANCE_ANGSTROM:
        raise InputError(
            f"{shown}, {part.places[place]}: two atoms must be at least "
            f"{LEAST_DISTANCE_ANGSTROM} Å apart, got {nearest[place]:.3g} Å; mend the molecule, or "
            "name the unit of its positions with length_unit"
        )


def nearest_distances(positions: Floats, counts: Integers) -> Floats:
    """[n] smallest distance of two atoms of each molecule, in Å; infinite for single atoms."""
    nearest = np.full(len(counts), np.inf)
    for rows, distances in pair_distances(positions, counts):
        if distances.shape[1]:
            nearest[rows] = distances.min(axis=1)
    return nearest


def pair_distances(positions: NDArray[Any], counts: Integers) -> Iterator[tuple[Integers, Floats]]:
    """The distances of all pairs of atoms, for molecules of equal size together.

    Args:
        positions: [atoms, 3] in Å, molecule after molecule.
        counts: [n] atoms of each molecule.

    Yields:
        Rows [m] of molecules, and their distances [m, pairs].
    """
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts):
        first, second = np.triu_indices(int(size), 1)
        rows = np.flatnonzero(counts == size)
        most = max(1, _COMPARED // max(1, len(first)))
        for begin in range(0, len(rows), most):
            some = rows[begin : begin + most]
            atoms = positions[starts[some, None] + np.arange(size)]
            yield some, np.linalg.norm(atoms[:, first] - atoms[:, second], axis=2)


def _identifiers(
    parts: list[Part], path: str, total: int
) -> tuple[Integers, NDArray[np.bytes_] | None]:
    """Whole numbers as identifiers, and the names of the file if they are others.

    Raises:
        InputError: an identifier is used twice, or is too long.
    """
    if parts[0].identifiers is None:
        return np.arange(total), None
    given = [name for part in parts for name in part.identifiers or ()]
    seen: dict[str, int] = {}
    for row, name in enumerate(given):
        if (other := seen.setdefault(name, row)) != row:
            raise InputError(
                f"{one_line(Path(path).name)}, molecule {row}: an identifier must be used once, "
                f"got '{one_line(name)}' again after molecule {other}; leave identifier out to "
                "number the molecules in the order of the file"
            )
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in given):
        numbers = np.array([int(name) for name in given], dtype=np.int64)
        if len(np.unique(numbers)) == total:
            return numbers, None
    encoded = [name.encode() for name in given]
    longest = max(encoded, key=len)
    if len(longest) > _LONGEST_NAME:
        raise InputError(
            f"{one_line(Path(path).name)}: an identifier must have at most {_LONGEST_NAME} bytes, "
            f"got {len(longest)}: '{one_line(longest.decode())}'"
        )
    return np.arange(total), np.array(encoded)


def _groups(parts: list[Part]) -> NDArray[np.int32] | None:
    if parts[0].groups is None:
        return None
    names = [name for part in parts for name in part.groups or ()]
    # Numbered in the order of their names, so that the order of the file does not matter.
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], dtype=np.int32)


def _refuse_missing(molecules: Molecules, data: DataConfig) -> None:
    """Refuse molecules without a value, naming the first one and the number of them."""
    assert data.molecules is not None
    for column, name in enumerate(molecules.target_table.names):
        rows = np.flatnonzero(np.isnan(molecules.targets[:, column]))
        if len(rows):
            raise InputError(
                f"{one_line(Path(data.molecules.path).name)}: target {name} must be known for all "
                f"{len(molecules):,} molecules, got no value for {len(rows):,}, the first of them "
                f"molecule {molecules.name_of(int(rows[0]))}; set data.missing: mask to leave them "
                f"out of the loss of {name}, or remove the molecules"
            )


def label_lines(molecules: Molecules, data: DataConfig) -> list[str]:
    """What was found in the file, for a launch: molecules, elements, and labels of each target."""
    if data.molecules is None:
        return []
    symbols = " ".join(SYMBOLS[number] for number in molecules.elements)
    source = one_line(Path(data.molecules.path).name)
    lines = [f"molecules: {len(molecules):,} of {source}, elements {symbols}"]
    missing = missing_counts(molecules)
    for target in molecules.target_table:
        found = len(molecules) - missing[target.name]
        kind = "extensive" if target.extensive else "intensive"
        reported = "" if target.unit == target.native_unit else f", reported in {target.unit}"
        lines.append(f"  {target.name}: {found:,} labels in {target.native_unit}{reported}, {kind}")
    return lines
