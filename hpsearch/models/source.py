"""The runs of a store whose kept weights make a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpsearch.models.build import KeptRun
from hpsearch.models.description import Origin
from hpsearch.search.study import Study
from hpsearch.store import Experiment, StoreReader
from hpsearch.system.errors import InputError, nearest, one_line


def runs_of(store: StoreReader, name: str | None, keys: Sequence[str]) -> list[KeptRun]:
    """Return the runs that ``keys`` name; without keys, the winner of a study.

    Args:
        store: the store.
        name: of the study or the ablation; ``None`` for the one launched last.
        keys: of a study, the numbers of trials. Of an ablation, ``L1Net/mu/0`` for a cell,
            ``L1Net/mu`` for all its repeats and ``L1Net`` for all targets.

    Raises:
        InputError: there is no such experiment or complete run, or an ablation has no keys.
        HpsearchError: the study has no winner.
    """
    experiment = store.find(name)
    if experiment.kind == "study":
        study = Study.open(store, experiment.name)
        if not keys:
            provenance = study.winner().provenance
            assert provenance is not None
            keys = [str(provenance.trial)]
        done = [str(trial.number) for trial in study.records(facts=False, parameters=False)
                if trial.state == "COMPLETE"]  # fmt: skip
    else:
        results = store.results(experiment.id)
        done = list(results.loc[results["state"] == "complete", "key"])
        if not keys:
            arms = dict.fromkeys(key.partition("/")[0] for key in done)
            raise InputError(
                f"an ablation has several models: name one with --run, such as --run "
                f"{next(iter(arms), 'L1Net')}/TARGET; complete are {_shown(done)}"
            )
    chosen = [key for wanted in keys for key in _matching(experiment, wanted, done)]
    return [_kept(experiment, row) for row in _rows(store, experiment, list(dict.fromkeys(chosen)))]


def _matching(experiment: Experiment, wanted: str, done: Sequence[str]) -> list[str]:
    found = [key for key in done if key == wanted or key.startswith(f"{wanted}/")]
    if not found:
        what = "a complete trial" if experiment.kind == "study" else "a complete cell"
        raise InputError(
            f"--run must be {what} of {experiment.name}, got '{one_line(wanted)}'; "
            f"{nearest(wanted, done) if len(done) < 200 else f'complete are {_shown(done)}'}"
        )
    return found


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 8:,} more" if len(keys) > 8 else ""
    return (", ".join(keys[:8]) or "none") + more


def _rows(store: StoreReader, experiment: Experiment, keys: list[str]) -> list[dict[Any, Any]]:
    found: list[dict[Any, Any]] = store.runs(experiment.id, keys).to_dict("records")
    rows = {row["key"]: row for row in found}
    return [rows[key] for key in keys if key in rows]


def _kept(experiment: Experiment, row: dict[Any, Any]) -> KeptRun:
    origin = Origin(
        kind=experiment.kind,
        experiment=experiment.name,
        key=str(row["key"]),
        fingerprint=row["fingerprint"],
        epoch=0,
    )
    return KeptRun(origin, Path(row["directory"]))
