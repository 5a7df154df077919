"""The status of a study or an ablation, read from the store: what its launch shows."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, final

from hpsearch.ablation.cells import STATES, cell_table
from hpsearch.config.architecture import relative_work
from hpsearch.config.run import TrialConfig
from hpsearch.cost.accuracy import QuoteAccuracy
from hpsearch.cost.estimate import RunSoFar, RunState, left_by_record
from hpsearch.search.study import Counts, Study
from hpsearch.store import Experiment, StoreReader
from hpsearch.store.lease import Holder
from hpsearch.store.recorded import RecordedRun, recorded_runs


@final
@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    Attributes:
        key: of the run.
        kind: of the failure.
        message: one line.
        traceback: the worker's; empty if there is none, for example after a divergence.
    """

    key: str
    kind: str
    message: str
    traceback: str


@final
@dataclass(frozen=True)
class Status:
    """The status of an experiment.

    Attributes:
        kind: ``study`` or ``ablation``.
        name: of the experiment.
        noun: the word for one of its runs, ``trial`` or ``run``.
        counts: number of runs in each state.
        summary: the counts in words.
        holder: the driver, which may have died; ``None`` if there is none.
        best: lowest validation loss of a complete trial and its number; ``None`` if there is none,
            and for an ablation, whose runs have different targets.
        seconds_left: until the last run ends; ``None`` without a live driver or before an epoch.
        live: the running runs; without a live driver, the interrupted ones.
        failures: the failed runs, in the order in which they failed.
        rows: every run, for scripts.
        quote_accuracy: the error of a search's estimate; ``None`` if it had no estimate.
        best_zero_output: the loss of predicting zero in the best trial; ``None`` if not known.
    """

    kind: str
    name: str
    noun: str
    counts: dict[str, int]
    summary: str
    holder: Holder | None
    best: tuple[float, str] | None
    seconds_left: float | None
    live: tuple[RecordedRun, ...]
    failures: tuple[FailedRun, ...]
    rows: list[dict[str, Any]]
    quote_accuracy: QuoteAccuracy | None = None
    best_zero_output: float | None = None

    @property
    def is_driven(self) -> bool:
        """Whether a live driver owns the experiment."""
        return _is_driven(self.holder)

    def to_dict(self) -> dict[str, Any]:
        """Return the form for JSON."""
        driver = None
        if self.holder is not None and self.holder.drives:
            since = self.holder.since.isoformat(timespec="seconds")
            driver = {"host": self.holder.host, "process": self.holder.process, "since": since}
        best = self.best and {"loss": self.best[0], "trial": int(self.best[1])}
        return {
            self.kind: self.name,
            "counts": self.counts,
            "driver": driver,
            **({"best": best} if self.kind == "study" else {}),
            **({"quote_error": accuracy.to_dict()} if (accuracy := self.quote_accuracy) else {}),
            "seconds_left": self.seconds_left,
            {"study": "trials", "ablation": "cells"}[self.kind]: self.rows,
        }


def _is_driven(holder: Holder | None) -> bool:
    return holder is not None and holder.drives


def read_status(store: StoreReader, name: str | None = None) -> Status:
    """Return the status of the study or ablation called ``name``, by default the last launched one.

    Raises:
        InputError: the store has no experiment of that name.
        HpsearchError: a study's trials were deleted or renamed outside hpsearch.
    """
    experiment = store.find(name)
    if experiment.kind == "study":
        return _of_study(store, Study.open(store, experiment.name))
    return _of_ablation(store, experiment)


def _of_study(store: StoreReader, study: Study) -> Status:
    trials, counts = study.trials(), study.counts()
    runs = recorded_runs(store, study.experiment_id)
    records = json.loads(trials.to_json(orient="records", date_format="iso", double_precision=15))
    holder, best = study.holder(), study.best()
    of_best = None if best is None else runs.get(best[1])
    running = [str(row["number"]) for row in records if row["state"] == "RUNNING"]
    return Status(
        kind="study",
        name=study.name,
        noun="trial",
        counts=vars(counts),
        summary=str(counts),
        holder=holder,
        best=best,
        seconds_left=_study_seconds_left(counts, runs, running) if _is_driven(holder) else None,
        live=tuple(runs[key] for key in running if key in runs),
        failures=tuple(
            FailedRun(
                str(row["number"]),
                row["failure"] or "failed",
                row["failure_reason"] or "ended without a reason",
                row["failure_traceback"] or "",
            )
            for row in records
            # A trial that was refused or given up did not fail in training.
            if row["state"] == "FAIL" and row["failure"] not in ("refused", "given_up")
        ),
        rows=[row | _live_values(runs.get(str(row["number"]))) for row in records],
        quote_accuracy=study.quote_accuracy(),
        best_zero_output=None if of_best is None else of_best.zero_output_loss,
    )


def _of_ablation(store: StoreReader, experiment: Experiment) -> Status:
    cells, holder = cell_table(store, experiment.id), store.holder(experiment.id)
    runs = recorded_runs(store, experiment.id)
    results = store.results(experiment.id).set_index("key")
    states = {str(key): str(state) for key, state in zip(cells["key"], cells["state"], strict=True)}
    counts: dict[str, int] = {state: list(states.values()).count(state) for state in STATES}
    parts = [f"{number} {name}" for name, number in counts.items() if number and name != "complete"]
    records = json.loads(cells.to_json(orient="records", double_precision=15))
    failures = []
    for key in results[results["state"] == "failed"].sort_values("finished_at").index:
        if states[key] == "failed":
            result = results.loc[key]
            kind, message, traceback = (
                str(result[f"failure_{what}"] or "") for what in ("kind", "message", "traceback")
            )
            failures.append(FailedRun(str(key), kind, message, traceback))
    tracebacks = {failure.key: failure for failure in failures}
    return Status(
        kind="ablation",
        name=experiment.name,
        noun="run",
        counts=counts,
        summary=", ".join([f"{counts['complete']} of {len(cells)} complete", *parts]),
        holder=holder,
        best=None,
        seconds_left=_ablation_seconds_left(states, runs) if _is_driven(holder) else None,
        live=tuple(runs[key] for key, state in states.items() if state == "running"),
        failures=tuple(failures),
        rows=[
            row
            | _live_values(runs.get(row["key"]))
            | {
                "failure": failed.kind if (failed := tracebacks.get(row["key"])) else None,
                "failure_traceback": failed.traceback if failed else None,
            }
            for row in records
        ],
    )


def _study_seconds_left(
    counts: Counts, runs: Mapping[str, RecordedRun], running: Container[str]
) -> float | None:
    """Return the time left, if trials to come have as many epochs as the others on average."""
    usual = mean(run.epochs for run in runs.values()) if runs else 0.0
    missing = counts.wanted - counts.complete - counts.pruned - counts.running
    begun = (
        _so_far(run, 1.0, "running" if key in running else "ended") for key, run in runs.items()
    )
    return left_by_record([*begun, *[RunSoFar(usual, 1.0, "waiting")] * max(missing, 0)])


_RUN_STATES: Mapping[str, RunState] = {
    "complete": "ended",
    "failed": "ended",
    "running": "running",
    "waiting": "waiting",
}


def _ablation_seconds_left(
    states: Mapping[str, str], runs: Mapping[str, RecordedRun]
) -> float | None:
    return left_by_record(
        _so_far(run, _work_of(run), _RUN_STATES[states[key]]) for key, run in runs.items()
    )


def _work_of(run: RecordedRun) -> float:
    return relative_work(TrialConfig.from_dict(dict(run.configuration)))


def _so_far(run: RecordedRun, cost: float, state: RunState) -> RunSoFar:
    return RunSoFar(run.epochs, cost, state, run.seconds, run.silent_seconds)


def _live_values(run: RecordedRun | None) -> dict[str, Any]:
    """Return the values that the live table shows of a run, for scripts."""
    return {
        "most_epochs": None if run is None else run.epochs,
        "last_epoch": None if run is None else run.epoch,
        "last_loss": None if run is None else run.loss,
        "last_seconds": None if run is None or not run.seconds else run.seconds[-1],
        "zero_output_loss": None if run is None else run.zero_output_loss,
        "host": None if run is None else run.host,
        "device": None if run is None else run.device,
    }
