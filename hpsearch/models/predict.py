"""Predicts the molecules of a file, part by part, into a file.

Each part of a few thousand molecules is written as soon as it is predicted, into a folder next to
the output. So memory is bounded, and a command that was killed goes on after its last part. At the
end the parts are joined. Beside the output lies a record that says from which molecules and which
model it came, so that `hpsearch verify` can check it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hpsearch.config.declaration import MoleculeSource
from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.config.units import conversion
from hpsearch.data.own import LEAST_DISTANCE_ANGSTROM, nearest_distances
from hpsearch.formats import START, Part, Reached, Wanted, read_parts, source_files
from hpsearch.models.inputs import parts_of, source_of
from hpsearch.models.intervals import level_name
from hpsearch.models.model import DEFAULT_LEVELS, Model, Predictions, in_units
from hpsearch.models.ranges import Geometries
from hpsearch.models.rows import FORMATS, Columns, RowFormat, table
from hpsearch.system import installation
from hpsearch.system.errors import HpsearchError, InputError, one_line, or_inodes
from hpsearch.system.files import Say, silent, write_atomically

if TYPE_CHECKING:
    import pandas as pd

RECORD = ".hpsearch.json"
"""What is added to the name of an output for the name of its record."""

RECORD_FORMAT = "hpsearch-predictions/1"

OnError = Literal["skip", "stop"]

PREDICTED = "predicted"
"""The status of a molecule that has values."""


@dataclass(frozen=True)
class Job:
    """What is predicted, and how.

    Attributes:
        source: the molecules.
        output: the file to write; its ending is one of ``.csv``, ``.parquet`` and ``.extxyz``.
        model_folder: where the model is, for the record.
        levels: of the intervals.
        on_error: whether a molecule that cannot be predicted ends the job, or gets a status.
        units: other units of targets, by name.
    """

    source: MoleculeSource
    output: Path
    model_folder: Path
    levels: tuple[float, ...] = DEFAULT_LEVELS
    on_error: OnError = "skip"
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def format(self) -> RowFormat:
        """The format of the output.

        Raises:
            InputError: its name has another ending.
        """
        try:
            return FORMATS[self.output.suffix.casefold()]
        except KeyError:
            raise InputError(
                f"the output must end with {', '.join(FORMATS)}, got '{one_line(str(self.output))}'"
            ) from None

    @property
    def parts(self) -> Path:
        """The folder of the parts."""
        return self.output.with_name(f"{self.output.name}.parts")

    @property
    def record(self) -> Path:
        """The record beside the output."""
        return record_of(self.output)


def record_of(path: Path) -> Path:
    """Return the record beside predictions."""
    return path.with_name(path.name + RECORD)


@dataclass(frozen=True)
class Done:
    """What a job has done.

    Attributes:
        molecules: in the file.
        predicted: number of them that have values.
        flagged: number of predicted ones with at least one flag.
        seconds: of this call.
    """

    molecules: int
    predicted: int
    flagged: int
    seconds: float


@dataclass(frozen=True)
class Advance:
    """How far a job is.

    Attributes:
        molecules: predicted so far, with those of earlier calls.
        share: part of the file that was read, from 0 to 1.
        before: number of them, and the share, that earlier calls had done.
        seconds: since this call began to read.
    """

    molecules: int
    share: float
    before: tuple[int, float]
    seconds: float

    @property
    def speed(self) -> float:
        """Molecules per second of this call."""
        return (self.molecules - self.before[0]) / max(self.seconds, 1e-9)

    @property
    def total(self) -> int | None:
        """The number of molecules of the file, by the share that was read; ``None`` at its end."""
        return None if self.share >= 1 else round(self.molecules / self.share)

    @property
    def seconds_left(self) -> float:
        """The time that the rest takes at the speed so far."""
        done = self.share - self.before[1]
        return self.seconds * (1 - self.share) / done


Progress = Callable[[Advance], None]
"""Function that is called after every part."""


def predict_file(
    model: Model, job: Job, say: Say = silent, progress: Progress | None = None
) -> Done:
    """Predict all molecules of a file, or go on where an earlier call was killed.

    Args:
        model: the model.
        job: what is predicted.
        say: function for lines about what is done.
        progress: called after every part.

    Raises:
        InputError: the molecules cannot be read, or one cannot be predicted and
            ``on_error`` is ``stop``.
        HpsearchError: the disk is full; the finished parts are kept.
    """
    started = time.monotonic()
    for level in job.levels:
        model.quantiles(level)
    columns = Columns.of(in_units(model.targets, job.units), job.levels)
    terms = _terms(model, job)
    _open_parts(job, terms, say)
    try:
        return _predict_parts(model, job, columns, terms, progress, started)
    except OSError as error:
        raise HpsearchError(
            f"'{job.output}' must be writable, got: {error.strerror or error}; free space"
            f"{or_inodes(job.output.parent)} and run the same command again: it goes on after its "
            "last part"
        ) from None
    except InputError:
        # Nothing half written stays; finished parts do.
        if not list(job.parts.glob(f"*{job.output.suffix}")):
            shutil.rmtree(job.parts, ignore_errors=True)
        raise


def _predict_parts(
    model: Model,
    job: Job,
    columns: Columns,
    terms: dict[str, Any],
    progress: Progress | None,
    started: float,
) -> Done:
    """Predict the parts that are missing, and join all."""
    finished = _finished_parts(job)
    start = finished[-1].reached if finished else START
    reading = time.monotonic()
    for part in read_parts(job.source, wanted_of(job), start=start):
        path = _part_path(job, len(finished))
        rows = part_rows(model, job, part, finished[-1].reached.molecules if finished else 0)
        write_atomically(path, job.format.part(columns, rows, first=not finished))
        finished.append(_Finished(*rows.counted, part.reached))
        write_atomically(_finished_path(path), json.dumps(finished[-1]))
        if progress is not None:
            molecules, *_, share = part.reached
            seconds = time.monotonic() - reading
            progress(Advance(molecules, share, (start.molecules, start.share), seconds))
    job.format.join([_part_path(job, number) for number in range(len(finished))], job.output)
    done = Done(
        molecules=finished[-1].reached.molecules,
        predicted=sum(part.predicted for part in finished),
        flagged=sum(part.flagged for part in finished),
        seconds=time.monotonic() - started,
    )
    _write_record(job, terms, done)
    shutil.rmtree(job.parts, ignore_errors=True)
    return done


def wanted_of(job: Job) -> Wanted:
    """Return what is read of each molecule beside its atoms: its name."""
    identifier = job.source.identifier
    return Wanted((), identifier, None, labels=False, skip=job.on_error == "skip")


def _terms(model: Model, job: Job) -> dict[str, Any]:
    """What decides the content of the output."""
    files = source_files(job.source)
    return {
        "format": RECORD_FORMAT,
        "model": model.digest,
        "model_folder": str(job.model_folder.resolve()),
        "model_name": model.name,
        "targets": [target.name for target in model.targets],
        "units": [target.unit for target in in_units(model.targets, job.units)],
        "levels": [level_name(level) for level in job.levels],
        "on_error": job.on_error,
        "source": job.source.model_dump(mode="json"),
        "source_hashes": [file_hash(path) for path in files],
        "code": installation.code(),
    }


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{one_line(str(path))} must be readable: {error.strerror}") from None


# --- The parts on the disk -----------------------------------------------------------------------


def _open_parts(job: Job, terms: dict[str, Any], say: Say) -> None:
    """Make the folder of the parts, or keep that of the same job."""
    path = job.parts / "job.json"
    text = json.dumps(terms, sort_keys=True)
    try:
        if job.parts.is_dir() and path.is_file() and path.read_text("utf-8") == text:
            say(f"continuing from the parts in {job.parts}")
            return
        shutil.rmtree(job.parts, ignore_errors=True)
        job.parts.mkdir(parents=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(
            f"the folder {job.parts} must be writable: {error.strerror}; choose another output"
        ) from None


class _Finished(NamedTuple):
    """A finished part: its predicted and flagged molecules, and where the next one begins."""

    predicted: int
    flagged: int
    reached: Reached


def _part_path(job: Job, number: int) -> Path:
    return job.parts / f"{number:06d}{job.output.suffix}"


def _finished_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _finished_parts(job: Job) -> list[_Finished]:
    """The finished parts up to the first one that is missing."""
    found: list[_Finished] = []
    while True:
        try:
            # Written after the part, so the part is complete.
            text = _finished_path(_part_path(job, len(found))).read_text("utf-8")
            predicted, flagged, reached = json.loads(text)
            found.append(_Finished(predicted, flagged, Reached(*reached)))
        except (OSError, ValueError, TypeError):
            return found


def _write_record(job: Job, terms: dict[str, Any], done: Done) -> None:
    record = {
        **terms,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "molecules": done.molecules,
        "predicted": done.predicted,
        "flagged": done.flagged,
        "output_hash": file_hash(job.output),
    }
    write_atomically(job.record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


# --- The rows of a part --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a part.

    Attributes:
        names: of the molecules.
        geometries: the molecules.
        predictions: for all of them; NaN where ``statuses`` is not :data:`PREDICTED`.
        statuses: of the molecules.
    """

    names: Sequence[str]
    geometries: Geometries
    predictions: Predictions
    statuses: Sequence[str]

    @property
    def counted(self) -> tuple[int, int]:
        """The numbers of predicted molecules, and of flagged ones among them."""
        predicted = [status == PREDICTED for status in self.statuses]
        flagged = sum(
            good and bool(flags)
            for good, flags in zip(predicted, self.predictions.flags, strict=True)
        )
        return sum(predicted), flagged


def part_rows(model: Model, job: Job, part: Part, before: int) -> Rows:
    """Predict the molecules of a part of a file.

    Args:
        model: the model.
        job: what is predicted.
        part: some molecules.
        before: number of molecules before them.

    Raises:
        InputError: a molecule cannot be predicted and ``on_error`` is ``stop``.
    """
    targets = in_units(model.targets, job.units)
    rows = rows_of(model, part, before, job.levels, targets, job.source.length_unit)
    bad = [place for place, status in enumerate(rows.statuses) if status != PREDICTED]
    if bad and job.on_error == "stop":
        place = bad[0]
        raise InputError(
            f"{one_line(Path(job.source.path).name)}, {part.places[place]}: "
            f"{rows.statuses[place]}; remove the molecule, or leave such molecules out with "
            "--on-error skip"
        )
    return rows


def rows_of(
    model: Model,
    part: Part,
    before: int,
    levels: Sequence[float],
    targets: Sequence[Target],
    length_unit: str = "Å",
) -> Rows:
    """Predict the molecules of a part.

    Args:
        model: the model.
        part: some molecules.
        before: number of molecules before them.
        levels: of the intervals.
        targets: those of the model, with the wanted units.
        length_unit: of the positions.
    """
    positions = (part.positions * conversion(length_unit, "Å")).astype(np.float32)
    geometries = Geometries(part.numbers, positions, part.counts)
    names = part.identifiers or [str(before + place) for place in range(len(part.counts))]
    statuses = list(_statuses(model, geometries, part.problems))
    good = np.array([status == PREDICTED for status in statuses])
    found = model.predict_geometries(geometries, levels, good)
    for place in np.flatnonzero(~good):
        # Its status says what is wrong with it.
        found.flags[place].clear()
    return Rows(names, geometries, found.reported_as(targets), statuses)


def predict_molecules(
    model: Model, molecules: Any, levels: Sequence[float], units: Mapping[str, str]
) -> pd.DataFrame:
    """Predict molecules in memory or of a file; see `Model.predict`."""
    import pandas as pd

    parts, unit = parts_of(molecules), "Å"
    if isinstance(molecules, (str, os.PathLike)):
        source = source_of(Path(molecules))
        unit = source.length_unit
        parts = read_parts(source, Wanted((), source.identifier, None, labels=False, skip=True))
    targets = in_units(model.targets, units)
    columns, frames, before = Columns.of(targets, tuple(levels)), [], 0
    for part in parts:
        rows = rows_of(model, part, before, levels, targets, unit)
        frames.append(pd.DataFrame(table(columns, rows)))
        before += len(part.counts)
    if not frames:
        raise InputError("there must be at least one molecule to predict, got none")
    return pd.concat(frames, ignore_index=True)


def _statuses(model: Model, geometries: Geometries, problems: Mapping[int, str]) -> Iterator[str]:
    owner = np.repeat(np.arange(len(geometries.counts)), geometries.counts)
    unknown = ~np.isin(geometries.numbers, model.description.atomic_numbers)
    strange: dict[int, set[str]] = {}
    for atom in np.flatnonzero(unknown):
        strange.setdefault(int(owner[atom]), set()).add(SYMBOLS[int(geometries.numbers[atom])])
    nearest = nearest_distances(geometries.positions, geometries.counts)
    for row, distance in enumerate(nearest):
        if row in problems:
            yield problems[row]
        elif row in strange:
            yield f"the model does not know {', '.join(sorted(strange[row]))}"
        elif distance < LEAST_DISTANCE_ANGSTROM:
            yield f"two atoms are {distance:.3g} Å apart"
        else:
            yield PREDICTED
