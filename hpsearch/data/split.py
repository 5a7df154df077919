"""Splits the molecules into training, validation and test molecules."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.run import DataConfig
from hpsearch.data.molecule import Integers, Molecules
from hpsearch.system.errors import InputError, one_line
from hpsearch.system.files import write_atomically

QM9_MOLECULES = 130_831
"""Number of QM9 molecules in the package."""

TRAIN_MOLECULES = 109_000
"""Number of training molecules in the paper (section 2.1)."""

_SETS = ("train", "validation", "test")
_NPZ_NAMES = {"train_idx": "train", "val_idx": "validation", "test_idx": "test"}


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of rows, in random order or in the order of the split file.

    Attributes:
        train: rows of the training molecules.
        validation: rows of the molecules on which the epoch and the winner are chosen.
        test: rows of the molecules that are evaluated at the end.
        hash: SHA-256 of the three sets of identifiers. It depends neither on the order within a
            set nor on other molecules in the table.
    """

    train: Integers
    validation: Integers
    test: Integers
    hash: str

    @classmethod
    def of(
        cls, molecules: Molecules, train: Integers, validation: Integers, test: Integers
    ) -> Split:
        """The split of ``molecules`` into the given rows."""
        digest = hashlib.sha256()
        for name, rows in zip(_SETS, (train, validation, test), strict=True):
            identifiers = np.sort(molecules.identifiers[rows]).astype("<i8")
            digest.update(f"{name} {len(identifiers)}\n".encode())
            digest.update(identifiers.tobytes())
        return cls(train, validation, test, digest.hexdigest())


def make_split(molecules: Molecules, config: DataConfig) -> Split:
    """The split that ``config`` describes.

    A split file lists the three sets. Otherwise they are cut from one seeded permutation of all
    molecules:

    - training molecules from the front;
    - test molecules from the end;
    - validation molecules from :func:`validation_anchor` on, which moves only if the sets would
      overlap.

    So, with an unmoved anchor, a larger training or validation set contains a smaller one, and the
    molecules before the anchor are used only for training.

    With groups (``config.by_group``) the permutation keeps the molecules of a group together, and a
    set takes only whole groups, so it may be smaller than asked for.

    With a ``training_seed`` the test molecules stay the same. The training and validation sets, of
    the same sizes, are drawn again from all other molecules, or, with a split file, from its
    training and validation molecules.

    Raises:
        InputError: there are too few molecules, a group is larger than its set, or the split file
            is wrong.
    """
    if config.training_seed is not None:
        return _redrawn(molecules, config, config.training_seed)
    if config.split_file is not None:
        return read_split(Path(config.split_file), molecules)
    total = len(molecules)
    train, validation = config.train_size, config.validation_size
    least_test = 1 if config.test_size is None else config.test_size
    _check_sizes(config, total)
    start = max(train, min(validation_anchor(total), total - least_test - validation))
    # Molecules between training and validation belong to larger training sets: never test them.
    test = start + validation if config.test_size is None else total - config.test_size
    order = _permutation(molecules, config.split_seed)
    if config.by_group:
        order = _by_group(order, molecules)
    parts = {
        "train": (0, train),
        "validation": (start, start + validation),
        "test": (test, total),
    }
    cut = _cutter(order, molecules, config)
    return Split.of(molecules, **{name: cut(name, *part) for name, part in parts.items()})


def unused_rows(molecules: Molecules, split: Split, config: DataConfig) -> Integers:
    """The rows that are in no set, in random order; the last ones are the least used elsewhere.

    With the usual split, the first ones are training molecules of a split with more of them.

    Args:
        molecules: the table.
        split: its split.
        config: what describes the split. If it keeps groups together, molecules in the groups of
            training and validation molecules count as used.
    """
    used = np.zeros(len(molecules), dtype=bool)
    for rows in (split.train, split.validation, split.test):
        used[rows] = True
    if config.by_group and molecules.groups is not None:
        seen = molecules.groups[np.concatenate([split.train, split.validation])]
        used |= np.isin(molecules.groups, seen)
    order = _permutation(molecules, config.split_seed)
    return order[~used[order]]


def _redrawn(molecules: Molecules, config: DataConfig, seed: int) -> Split:
    given = make_split(molecules, config.model_copy(update={"training_seed": None}))
    if config.split_file is None:
        pool = np.setdiff1d(np.arange(len(molecules)), given.test)
    else:
        pool = np.concatenate([given.train, given.validation])
    order = _shuffled(pool[np.argsort(molecules.identifiers[pool])], seed)
    if config.by_group:
        order = _by_group(order, molecules)
    cut = _cutter(order, molecules, config)
    return Split.of(
        molecules,
        train=cut("train", 0, len(given.train)),
        validation=cut("validation", len(order) - len(given.validation), len(order)),
        test=given.test,
    )


def _by_group(order: Integers, molecules: Molecules) -> Integers:
    """``order`` with the molecules of a group together, where the first of them stood."""
    groups = _groups_of(molecules)[order]
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return order[np.argsort(first[inverse], kind="stable")]


def _groups_of(molecules: Molecules) -> NDArray[np.int32]:
    if molecules.groups is None:
        raise InputError("the molecules must have groups to be split by group; name their column")
    return molecules.groups


def _cutter(
    order: Integers, molecules: Molecules, config: DataConfig
) -> Callable[[str, int, int], Integers]:
    """A function that cuts a set out of ``order``; with groups, only whole ones.

    The border of a set that is not an end of ``order`` moves to the border of a group before it.
    """
    if not config.by_group:
        return lambda name, start, end: order[start:end]
    groups = _groups_of(molecules)[order]
    borders = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1], [True]]))

    def cut(name: str, start: int, end: int) -> Integers:
        if end == len(order):
            first = borders[np.searchsorted(borders, start)]
            rows = order[first:]
        else:
            first = borders[np.searchsorted(borders, start, side="right") - 1]
            most = first + end - start
            rows = order[first : borders[np.searchsorted(borders, most, side="right") - 1]]
        if len(rows) < (2 if name == "train" else 1):
            raise InputError(
                f"the {name} molecules must be whole groups, but none fits {end - start:,} "
                f"molecules; the largest group has {np.diff(borders).max():,}; raise the size of "
                "the set, take another split_seed, or set split_by: molecule"
            )
        return rows

    return cut


def validation_anchor(total: int) -> int:
    """The default position of the first validation molecule in the permutation.

    It is the paper's training size scaled to ``total``: 109,000 for the 130,831 molecules of the
    package.
    """
    return total * TRAIN_MOLECULES // QM9_MOLECULES


def _check_sizes(config: DataConfig, total: int) -> None:
    """Check that the three sizes fit; the error suggests the largest possible value of one.

    Raises:
        InputError: the sizes do not fit.
    """
    train, validation = config.train_size, config.validation_size
    test = 1 if config.test_size is None else config.test_size
    if train + validation + test <= total:
        return
    sizes = {"train_size": (train, 2), "validation_size": (validation, 1), "test_size": (test, 1)}
    for name, (size, least) in sizes.items():
        largest = total - (train + validation + test - size)
        if largest >= least:
            fix = f"the largest --{name.replace('_', '-')} that fits is {largest:,}"
            break
    else:
        fix = "lower more than one of --train-size, --validation-size and --test-size"
    wanted = "at least 1" if config.test_size is None else f"{test:,}"
    raise InputError(
        f"train_size + validation_size + test_size must fit the {total:,} molecules; got "
        f"{train:,} + {validation:,} + {wanted}; {fix}"
    )


def save_split(split: Split, molecules: Molecules, path: Path) -> None:
    """Write the three lists of identifiers as JSON, for :func:`read_split` and other programs.

    Raises:
        InputError: the file cannot be written.
    """
    rows = zip(_SETS, (split.train, split.validation, split.test), strict=True)
    lists = {name: _labels(molecules, numbers) for name, numbers in rows}
    try:
        _write(path, json.dumps(lists) + "\n")
    except OSError as error:
        raise InputError(f"the split cannot be written to '{path}': {error.strerror}") from error


def _labels(molecules: Molecules, rows: Integers) -> list[Any]:
    """The molecules' names in the file, or their numbers."""
    if molecules.names is None:
        labels: list[Any] = molecules.identifiers[rows].tolist()
        return labels
    return [molecules.name_of(int(row)) for row in rows]


def _write(path: Path, text: str) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        # A link, a pipe or a terminal (/dev/stdout) must be written to, not replaced.
        path.write_text(text, encoding="utf-8")
    else:
        write_atomically(path, text)


def read_split(path: Path, molecules: Molecules) -> Split:
    """The split in a file.

    Args:
        path: JSON ``{"train": [...], "validation": [...], "test": [...]}`` with QM9 indices or the
            identifiers of own molecules, or SchNetPack's ``.npz`` with the row numbers
            ``train_idx``, ``val_idx`` and ``test_idx``.
        molecules: the molecules to split; the file may leave some out.

    Raises:
        InputError: the file cannot be read, has another form, lists a molecule twice or one that
            ``molecules`` lacks, or has less than 2 training, 1 validation or 1 test molecules.
    """
    try:
        if path.suffix == ".npz":
            rows = _rows_of_numbers(_read_npz(path), len(molecules))
        else:
            rows = _rows_of_labels(_read_json(path), molecules)
        _check(rows, molecules)
    except OSError as error:
        raise InputError(f"the split file '{path}' must be readable: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return Split.of(molecules, **rows)


def _permutation(molecules: Molecules, seed: int) -> Integers:
    """All rows in seeded random order; the order of the table does not matter."""
    return _shuffled(np.argsort(molecules.identifiers), seed)


def _shuffled(rows: Integers, seed: int) -> Integers:
    # numpy guarantees that RandomState's numbers never change; those of the newer Generator may.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    return rows[random.permutation(len(rows))].astype(np.int64)


def _read_json(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != set(_SETS):
        got = ", ".join(map(repr, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"must be an object with exactly {', '.join(_SETS)}; got {got}")
    for name, values in content.items():
        if not isinstance(values, list):
            raise ValueError(f"'{name}' must be a list of whole numbers or names")
    return {name: content[name] for name in _SETS}


def _rows_of_labels(sets: Mapping[str, list[Any]], molecules: Molecules) -> dict[str, Integers]:
    """The rows of the molecules with the given names or identifiers."""
    kind, words = (int, "whole numbers") if molecules.names is None else (str, "text")
    for name, labels in sets.items():
        if not all(type(label) is kind for label in labels):
            raise ValueError(f"'{name}' must be a list of {words}")
    if molecules.names is not None:
        row_of = {molecules.name_of(row): row for row in range(len(molecules))}
        rows = {}
        for name, labels in sets.items():
            unknown = [label for label in labels if label not in row_of]
            if unknown:
                raise ValueError(
                    f"'{name}' must have identifiers of the {len(molecules):,} molecules; got "
                    f"'{one_line(unknown[0])}', which is none (and {len(unknown) - 1:,} more)"
                )
            rows[name] = np.array([row_of[label] for label in labels], dtype=np.int64)
        return rows
    try:
        numbers = {name: np.array(values, dtype=np.int64) for name, values in sets.items()}
    except OverflowError:
        raise ValueError("identifiers must be QM9 indices; got a number above 64 bits") from None
    return _rows_of_identifiers(numbers, molecules)


def _read_npz(path: Path) -> dict[str, NDArray[np.int64]]:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as content:
            arrays: dict[str, NDArray[Any]] = {key: content[key] for key in content.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"must be an .npz file: {error}") from error
    missing = set(_NPZ_NAMES) - set(arrays)
    if missing:
        raise ValueError(f"must have {', '.join(_NPZ_NAMES)}; got {', '.join(arrays) or 'nothing'}")
    for key in _NPZ_NAMES:
        if arrays[key].ndim != 1 or arrays[key].dtype.kind not in "iu":
            raise ValueError(f"'{key}' must be a list of whole numbers")
    return {name: arrays[key].astype(np.int64) for key, name in _NPZ_NAMES.items()}


def _rows_of_numbers(sets: Mapping[str, Integers], total: int) -> dict[str, Integers]:
    """``sets``, checked to contain only rows that exist."""
    for name, rows in sets.items():
        wrong = rows[(rows < 0) | (rows >= total)]
        if len(wrong):
            raise ValueError(f"'{name}' must have rows from 0 to {total - 1}; got {wrong[0]}")
    return dict(sets)


def _rows_of_identifiers(sets: Mapping[str, Integers], molecules: Molecules) -> dict[str, Integers]:
    """The rows of the molecules with the given identifiers."""
    order = np.argsort(molecules.identifiers)
    known = molecules.identifiers[order].astype(np.int64)
    rows = {}
    for name, identifiers in sets.items():
        place = np.minimum(np.searchsorted(known, identifiers), len(known) - 1)
        unknown = identifiers[known[place] != identifiers]
        if len(unknown):
            raise ValueError(
                f"'{name}' must have identifiers of the {len(known):,} molecules; got "
                f"{unknown[0]}, which is none (and {len(unknown) - 1:,} more)"
            )
        rows[name] = order[place].astype(np.int64)
    return rows


def _check(sets: Mapping[str, Integers], molecules: Molecules) -> None:
    """Refuse sets that are too small, or that contain a molecule twice."""
    for name, rows in sets.items():
        least = 2 if name == "train" else 1
        if len(rows) < least:
            raise ValueError(f"'{name}' must have at least {least} molecules; got {len(rows)}")
    all_rows = np.concatenate(list(sets.values()))
    owner = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets.values()])
    order = np.argsort(all_rows, kind="stable")
    repeated = np.flatnonzero(np.diff(all_rows[order]) == 0)
    if len(repeated):
        first, second = (list(sets)[owner[order[repeated[0] + step]]] for step in (0, 1))
        molecule = molecules.name_of(int(all_rows[order[repeated[0]]]))
        where = f"twice in '{first}'" if first == second else f"in '{first}' and in '{second}'"
        raise ValueError(f"every molecule must be listed once; {molecule} is listed {where}")
