"""The status of a study or an ablation, read from the store: what its launch shows."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, final

from hpsearch.cost.accuracy import QuoteAccuracy
from hpsearch.cost.estimate import RunSoFar, RunState, left_by_record
from hpsearch.search.study import Counts, Study, table_columns, table_row
from hpsearch.store import ORIGIN, Experiment, RecordedRun, StoreReader, TrialRecord
from hpsearch.store.lease import Holder

MOST_ENDED = 200
"""Most ended trials that a person is shown."""


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
        rows: every run with all that is known, or those that a person is shown.
        quote_accuracy: the error of a search's estimate; ``None`` if it had no estimate.
        best_zero_output: the loss of predicting zero in the best trial; ``None`` if not known.
        left_out: number of ended runs that are not among the rows.
        origins: where known configurations come from, by the keys of their runs.
        units: the unit of the errors of each target of an ablation.
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
    left_out: int = 0
    origins: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_driven(self) -> bool:
        """Whether a live driver owns the experiment."""
        return is_driven(self.holder)

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


def is_driven(holder: Holder | None) -> bool:
    """Return whether ``holder`` is a live driver."""
    return holder is not None and holder.drives


def read_status(store: StoreReader, name: str | None = None, *, complete: bool = True) -> Status:
    """Return the status of the study or ablation called ``name``, by default the last launched one.

    Args:
        store: the store.
        name: of the study or ablation.
        complete: whether the rows are all runs of a study, with their parameters. Otherwise they
            are those that a person is shown: at most :data:`MOST_ENDED` ended trials.

    Raises:
        InputError: the store has no experiment of that name.
        HpsearchError: a study's trials were deleted or renamed outside hpsearch.
    """
    experiment = store.find(name)
    if experiment.kind == "study":
        # The parts of the status agree, and no part is read twice.
        store = store.snapshot()
        return _of_study(store, Study.open(store, experiment.name), complete=complete)
    return _of_ablation(store, experiment)


def _of_study(store: StoreReader, study: Study, *, complete: bool) -> Status:
    trials, counts = study.records(parameters=complete), study.counts()
    holder, best = study.holder(), study.best(trials)
    running = [str(trial.number) for trial in trials if trial.state == "RUNNING"]
    # The time left follows from the epochs of all runs.
    needed = None if complete or is_driven(holder) else running
    runs = store.recorded_runs(study.experiment_id, needed)
    columns, shown = table_columns(trials), trials
    if not complete:
        ended = [trial for trial in trials if trial.state not in ("RUNNING", "WAITING")]
        shown = ended[-MOST_ENDED:]
    return Status(
        kind="study",
        name=study.name,
        noun="trial",
        counts=vars(counts),
        summary=str(counts),
        holder=holder,
        best=best,
        seconds_left=_study_seconds_left(study, counts, runs, running)
        if is_driven(holder)
        else None,
        live=tuple(runs[key] for key in running if key in runs),
        failures=tuple(
            _failed_run(trial)
            for trial in trials
            # A trial that was refused or given up did not fail in training.
            if trial.state == "FAIL" and trial.facts.get("failure") not in ("refused", "given_up")
        ),
        rows=[_trial_values(trial, columns, runs.get(str(trial.number))) for trial in shown],
        quote_accuracy=study.quote_accuracy(trials),
        best_zero_output=None if best is None else _zero_output_loss(trials, int(best[1])),
        left_out=0 if complete else len(ended) - len(shown),
        origins={str(t.number): t.facts[ORIGIN] for t in trials if ORIGIN in t.facts},
    )


def _zero_output_loss(trials: Iterable[TrialRecord], number: int) -> float | None:
    known = (trial.facts.get("zero_output_loss") for trial in trials if trial.number == number)
    return next(known, None)


def _failed_run(trial: TrialRecord) -> FailedRun:
    known = trial.facts.get
    return FailedRun(
        str(trial.number),
        known("failure") or "failed",
        known("failure_reason") or "ended without a reason",
        known("failure_traceback") or "",
    )


def _trial_values(
    trial: TrialRecord, columns: Iterable[str], run: RecordedRun | None
) -> dict[str, Any]:
    """Return the values of a trial, for scripts."""
    known = table_row(trial)
    row = {name: known.get(name) for name in columns}
    for name in ("started", "ended"):
        when = known[name]
        row[name] = None if when is None else when.isoformat(timespec="milliseconds")
    return row | _live_values(run)


def _of_ablation(store: StoreReader, experiment: Experiment) -> Status:
    # Imported here, because it loads pandas, which the status of a study does not need.
    from hpsearch.ablation.cells import STATES, cell_table

    cells, holder = cell_table(store, experiment.id), store.holder(experiment.id)
    runs = store.recorded_runs(experiment.id)
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
        seconds_left=(
            _ablation_seconds_left(store, experiment, states, runs) if is_driven(holder) else None
        ),
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
        units={target.name: target.unit for target in experiment.targets},
    )


def _study_seconds_left(
    study: Study, counts: Counts, runs: Mapping[str, RecordedRun], running: Collection[str]
) -> float | None:
    """Return the time left, if trials to come have as many epochs as the others on average."""
    rungs = study.provenance.get("rungs")
    if rungs is not None and runs:
        return left_by_record(_planned_rest(rungs, counts.wanted, runs, running))
    usual = mean(run.epochs for run in runs.values()) if runs else 0.0
    missing = counts.wanted - counts.complete - counts.pruned - counts.paused - counts.running
    begun = (
        _so_far(run, 1.0, "running" if key in running else "ended") for key, run in runs.items()
    )
    return left_by_record([*begun, *[RunSoFar(usual, 1.0, "waiting")] * max(missing, 0)])


def _planned_rest(
    recorded: Mapping[str, Any],
    wanted: int,
    runs: Mapping[str, RecordedRun],
    running: Collection[str],
) -> Iterator[RunSoFar]:
    """Yield the runs of a study with rungs, and as many parts as the plan's epochs still need."""
    # Imported here, because they load pydantic, which the status of most studies does not need.
    from hpsearch.config.rungs import Rungs
    from hpsearch.search.rungs import expected_epochs, expected_parts

    rungs, most = Rungs.model_validate(recorded), max(run.epochs for run in runs.values())
    known = [run.mean_seconds for run in runs.values() if run.mean_seconds]
    if rungs.seconds is not None and not known:
        return
    ends = (*rungs.epochs_of(most, mean(known) if known else None), most)
    planned = expected_epochs(expected_parts(rungs, ends[:-1], most, wanted))
    rest = planned - sum(run.epoch for run in runs.values())
    for key, run in runs.items():
        end = next((end for end in ends if end > run.epoch), most)
        if key in running:
            rest -= end - run.epoch
        yield _so_far(run, 1.0, "running" if key in running else "ended", end)
    # A part that begins now has as many epochs as the first one.
    yield from [RunSoFar(ends[0], 1.0, "waiting")] * max(round(rest / ends[0]), 0)


_RUN_STATES: Mapping[str, RunState] = {
    "complete": "ended",
    "failed": "ended",
    "running": "running",
    "waiting": "waiting",
}


def _ablation_seconds_left(
    store: StoreReader,
    experiment: Experiment,
    states: Mapping[str, str],
    runs: Mapping[str, RecordedRun],
) -> float | None:
    # Imported here, because they load pydantic, which the status of a study does not need.
    from hpsearch.config.architecture import relative_work
    from hpsearch.config.run import TrialConfig

    stored = store.runs(experiment.id)
    costs = {
        str(key): relative_work(TrialConfig.from_dict(configuration))
        for key, configuration in zip(stored["key"], stored["configuration"], strict=True)
    }
    return left_by_record(
        _so_far(run, costs[key], _RUN_STATES[states[key]]) for key, run in runs.items()
    )


def _so_far(run: RecordedRun, cost: float, state: RunState, end: int | None = None) -> RunSoFar:
    # The mean for each epoch: the estimate uses no more of them.
    seconds = (run.mean_seconds or 0.0,) * run.timed
    return RunSoFar(end or run.epochs, cost, state, seconds, run.silent_seconds)


def _live_values(run: RecordedRun | None) -> dict[str, Any]:
    """Return the values that the live table shows of a run, for scripts."""
    return {
        "most_epochs": None if run is None else run.epochs,
        "last_epoch": None if run is None else run.epoch,
        "last_loss": None if run is None else run.loss,
        "last_seconds": None if run is None else run.last_seconds,
        "zero_output_loss": None if run is None else run.zero_output_loss,
        "host": None if run is None else run.host,
        "device": None if run is None else run.device,
    }
