"""Checks the chain from the molecules to a model, and from a model to predictions.

Every link is made again from what is at hand and compared. A link that cannot be checked here, for
example because this machine has no molecules, is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config.declaration import MoleculeSource
from hpsearch.data import own
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.formats import read_parts, source_files
from hpsearch.models.description import Description
from hpsearch.models.folder import is_model, read_model
from hpsearch.models.model import Model, in_units, residuals
from hpsearch.models.predict import RECORD_FORMAT, Job, file_hash, part_rows, record_of, wanted_of
from hpsearch.models.rows import FORMATS, Columns
from hpsearch.results.evidence import Link, short
from hpsearch.store import StoreReader
from hpsearch.system.errors import HpsearchError, InputError, one_line
from hpsearch.system.files import Say, silent

SAME = 1e-5
"""Relative difference of predictions that were computed twice, in other batches."""

_REPEATED = 200


def is_checked_here(path: Path) -> bool:
    """Return whether ``path`` is a model, or a file of predictions with its record."""
    return is_model(path) or record_of(path).is_file()


def check_path(path: Path, store: StoreReader | None = None, say: Say = silent) -> list[Link]:
    """Return the links of a model's folder or of a file of predictions, in their order.

    Args:
        path: of the model or the predictions.
        store: the store in which the runs of a model are looked up; ``None`` if there is none.
        say: function for lines about the progress.

    Raises:
        InputError: the folder has no readable model, or the record cannot be read.
    """
    return list(_model_links(path, store, say) if is_model(path) else _prediction_links(path))


# --- A model -------------------------------------------------------------------------------------


def _model_links(folder: Path, store: StoreReader | None, say: Say) -> Iterator[Link]:
    model = read_model(folder)
    said = model.description
    yield Link("description", short(said.digest), "unbroken", "it is as it was written")
    yield Link("weights", short(said.weights_hash), "unbroken", "they are as they were written")
    yield from _run_links(said, store)
    try:
        molecules = own.load(said.data, say)
    except HpsearchError as error:
        for name in ("data", "split", "statistics", "test errors"):
            yield Link(name, "", "unknown", f"this machine has no such molecules ({error})")
        return
    yield _equal("data", said.data_hash, molecules.content_hash, "molecules")
    if molecules.content_hash != said.data_hash:
        return
    split = make_split(molecules, said.data)
    yield _equal("split", said.split_hash, split.hash, "split")
    if split.hash == said.split_hash:
        yield _statistics(model, molecules, split)
        yield _test_errors(model, molecules, split, say)


def _equal(name: str, recorded: str, here: str, what: str) -> Link:
    if recorded == here:
        return Link(name, short(recorded), "unbroken", f"this machine has the same {what}")
    detail = f"this machine has another {what} ({short(here)})"
    return Link(name, short(recorded), "broken", detail)


def _run_links(said: Description, store: StoreReader | None) -> Iterator[Link]:
    for network in said.networks:
        origin = network.origin
        name, value = f"run {origin.key}", short(origin.fingerprint)
        experiment = None
        if store is not None and origin.kind != "train":
            experiment = store.experiment(origin.kind, origin.experiment)
        if store is None or experiment is None:
            yield Link(name, value, "unknown", "no store with this run is at hand")
            continue
        runs: list[dict[Any, Any]] = store.runs(experiment.id, [origin.key]).to_dict("records")
        if not runs or runs[0]["fingerprint"] != origin.fingerprint:
            found = short(runs[0]["fingerprint"]) if runs else "no such run"
            yield Link(name, value, "broken", f"the store has {found}")
            continue
        ledger = store.ledger(experiment, origin.key)
        epochs = ledger.runs[0].epochs if ledger.runs else {}
        digest = epochs[origin.epoch].digest if origin.epoch in epochs else None
        same = digest == origin.epoch_digest
        detail = f"epoch {origin.epoch} is that of the store" if same else (
            f"the store has another epoch {origin.epoch}"
        )  # fmt: skip
        yield Link(name, value, "unbroken" if same else "broken", detail)


def _statistics(model: Model, molecules: Molecules, split: Split) -> Link:
    masked = model.description.data.missing == "mask"
    for member in model.members:
        names = member.statistics.targets
        here = TargetStatistics.fit(molecules, split.train, names, masked=masked)
        pairs = (
            (here.mean, member.statistics.mean),
            (here.deviation, member.statistics.deviation),
            (here.references, member.statistics.references),
        )
        if not all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs):
            detail = f"those of {', '.join(names)} are not those of the training molecules"
            return Link("statistics", "", "broken", detail)
    return Link("statistics", "", "unbroken", "they are those of the training molecules")


def _test_errors(model: Model, molecules: Molecules, split: Split, say: Say) -> Link:
    say(f"predicting {len(split.test):,} test molecules")
    errors, _ = residuals(model.members, model.targets, molecules.select(split.test))
    found = np.nanmean(np.abs(errors), axis=0)
    for target, mae in zip(model.targets, found, strict=True):
        recorded = model.description.tested[target.name].mae
        if abs(mae - recorded) > SAME * abs(recorded):
            detail = f"{target.name} has {mae:.6g} {target.unit}, {recorded:.6g} was recorded"
            return Link("test errors", "", "broken", detail)
    return Link("test errors", "", "unbroken", f"made again for {len(split.test):,} molecules")


# --- Predictions ---------------------------------------------------------------------------------


def _prediction_links(path: Path) -> Iterator[Link]:
    said = _read_record(path)
    here = file_hash(path)
    yield _equal("predictions", str(said["output_hash"]), here, "file")
    folder = Path(said["model_folder"])
    try:
        model = read_model(folder).select(said["targets"])
    except InputError as error:
        yield Link("model", short(said["model"]), "unknown", str(error))
        return
    digest = model.digest
    yield _equal("model", str(said["model"]), digest, "model")
    source = MoleculeSource.model_validate(said["source"])
    try:
        hashes = [file_hash(file) for file in source_files(source)]
    except InputError as error:
        yield Link("molecules", "", "unknown", str(error))
        return
    both = [" ".join(map(str, hashes)) for hashes in (said["source_hashes"], hashes)]
    yield _equal("molecules", both[0], both[1], "molecules")
    if digest == said["model"] and both[0] == both[1]:
        yield _repeated(path, said, model, source)


def _repeated(path: Path, said: dict[str, Any], model: Model, source: MoleculeSource) -> Link:
    """Predict some molecules of the first part again."""
    levels = tuple(float(name) / 100 for name in said["levels"])
    units = dict(zip(said["targets"], said["units"], strict=True))
    job = Job(source, path, Path(said["model_folder"]), levels, said["on_error"], units)
    part = next(read_parts(source, wanted_of(job)))
    columns = Columns.of(in_units(model.targets, units), levels)
    values = columns.values(part_rows(model, job, part, 0))[:_REPEATED]
    written = FORMATS[path.suffix.casefold()].read(path, columns, len(values))
    scale = np.nanmax(np.abs(values), axis=0, initial=1e-300)
    wrong = ~np.isclose(values, written, rtol=SAME, atol=0, equal_nan=True)
    wrong &= ~(np.abs(values - written) <= SAME * scale)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        detail = (
            f"molecule {row} (counted from 0) has {written[row, column]:.6g} for "
            f"{columns.names[column]}, {values[row, column]:.6g} is predicted now"
        )
        return Link("values", "", "broken", detail)
    return Link("values", "", "unbroken", f"{len(values):,} of them were predicted again")


def _read_record(path: Path) -> dict[str, Any]:
    record = record_of(path)
    try:
        said = json.loads(record.read_text("utf-8"))
        if said["format"] != RECORD_FORMAT:
            raise InputError(
                f"{record}: format must be {RECORD_FORMAT}, got {one_line(str(said['format']))}"
            )
        needed = ("output_hash", "model", "model_folder", "source", "source_hashes", "levels")
        for key in (*needed, "targets", "units", "on_error"):
            said[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record} must be the record of predictions: {one_line(str(error))}"
        ) from None
    return dict(said)
