"""How a study or an ablation stands, as its store has it: what its launch shows, from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from hpsearch.ablation import STATES, cell_table, relative_cost
from hpsearch.config.run import TrialConfig
from hpsearch.config.targets import target
from hpsearch.cost.estimate import RunSoFar, left_by_record
from hpsearch.errors import InputError
from hpsearch.search import Held, Study
from hpsearch.store import Experiment, Holder, Store
from hpsearch.store.recorded import RecordedRun, recorded_runs
from hpsearch.terminal.columns import columns, hanging
from hpsearch.terminal.progress import LIVE_COLUMNS, duration, live_cells


@final
@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    Attributes:
        key: of the run.
        kind: of the failure.
        message: one line.
        traceback: the worker's; empty where there is none, as of a divergence.
    """

    key: str
    kind: str
    message: str
    traceback: str


@final
@dataclass(frozen=True)
class Standing:
    """How an experiment stands.

    Attributes:
        kind: ``study`` or ``ablation``.
        name: of the experiment.
        noun: what a run of it is called.
        counts: runs by state.
        summary: the counts in words.
        holder: who drives it, or did when it died; ``None`` for nobody.
        best: lowest validation loss of a complete trial and its number; ``None`` for none, and for
            an ablation, whose losses are not of one kind.
        seconds_left: until the last run ends; ``None`` where nobody drives it or no epoch has.
        live: the runs that are under way, or interrupted where nobody drives it.
        failures: of the runs that failed, the first one first.
        rows: every run, for scripts.
        ended: every run that has ended, as a table: heading and rows; the last column is a text.
        held: how right a search's quote was; ``None`` where there was none.
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
    ended: tuple[tuple[str, ...], ...]
    held: Held | None = None

    @property
    def is_driven(self) -> bool:
        """Whether a launch that is alive drives it."""
        return self.holder is not None and self.holder.drives

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
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
            **({"quote_error": self.held.to_dict()} if self.held is not None else {}),
            "seconds_left": self.seconds_left,
            {"study": "trials", "ablation": "cells"}[self.kind]: self.rows,
        }


def standing(store: Store, name: str | None = None) -> Standing:
    """How the study or the ablation called ``name`` stands; without it, the one launched last.

    Raises:
        InputError: there is nothing of that name.
        HpsearchError: a study's trials were deleted or renamed outside hpsearch.
    """
    experiment = _find(store, name)
    if experiment.kind == "study":
        return _of_study(store, Study.open(store, experiment.name))
    return _of_ablation(store, experiment)


def _find(store: Store, name: str | None) -> Experiment:
    all_of_them = store.experiments()
    if all_of_them.empty:
        raise InputError(f"the store {store.label} holds no study; `hpsearch launch` makes one")
    found = all_of_them if name is None else all_of_them[all_of_them["name"] == name]
    if found.empty:
        names = ", ".join(all_of_them["name"])
        raise InputError(
            "a study or an ablation must be one of those in the store "
            f"{store.label}: {names}; got '{name}'"
        )
    last = found.iloc[-1]
    experiment = store.experiment(last["kind"], last["name"])
    assert experiment is not None
    return experiment


def _of_study(store: Store, study: Study) -> Standing:
    trials, counts = study.trials(), study.counts()
    runs = recorded_runs(store, study.experiment_id)
    records = json.loads(trials.to_json(orient="records", date_format="iso", double_precision=15))
    ended = [row for row in records if row["state"] not in ("RUNNING", "WAITING")]
    return Standing(
        kind="study",
        name=study.name,
        noun="trial",
        counts=vars(counts),
        summary=str(counts),
        holder=study.holder(),
        best=study.best(),
        seconds_left=study.seconds_left(),
        live=tuple(
            runs[str(row["number"])]
            for row in records
            if row["state"] == "RUNNING" and str(row["number"]) in runs
        ),
        failures=tuple(
            FailedRun(
                str(row["number"]),
                row["failure"] or "failed",
                row["failure_reason"] or "told without a reason",
                row["failure_traceback"] or "",
            )
            for row in ended
            # What was refused or given up was never trained to a failure.
            if row["state"] == "FAIL" and row["failure"] not in ("refused", "given_up")
        ),
        rows=[row | _live_values(runs.get(str(row["number"]))) for row in records],
        ended=(
            ("trial", "state", "epochs", "best loss", "s/epoch", "weights", ""),
            *(_ended_trial(row) for row in ended),
        ),
        held=study.held(),
    )


def _ended_trial(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["number"]),
        "refused" if row["failure"] == "refused" else row["state"].lower(),
        str(row["epochs"]),
        _number(row["best_loss"], ",.4g"),
        _number(row["seconds_per_epoch"], ".1f"),
        _number(row["weights"], ",.0f"),
        row["failure_reason"] or "",
    )


def _of_ablation(store: Store, experiment: Experiment) -> Standing:
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
    driven = holder is not None and holder.drives
    return Standing(
        kind="ablation",
        name=experiment.name,
        noun="run",
        counts=counts,
        summary=", ".join([f"{counts['complete']} of {len(cells)} complete", *parts]),
        holder=holder,
        best=None,
        seconds_left=_seconds_left(states, runs) if driven else None,
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
        ended=(
            ("run", "state", "epochs", "test MAE", "unit", "weights", ""),
            *(_ended_cell(row) for row in records if row["state"] in ("complete", "failed")),
        ),
    )


def _ended_cell(row: dict[str, Any]) -> tuple[str, ...]:
    is_failed = row["state"] == "failed"
    return (
        row["key"],
        row["state"],
        _number(row["epochs"], ".0f"),
        _number(row["test_mae"], ",.4g"),
        target(row["target"]).unit,
        _number(row["weights"], ",.0f"),
        (row["reason"] or "") if is_failed else "",
    )


def _seconds_left(states: dict[str, str], runs: dict[str, RecordedRun]) -> float | None:
    known = {"complete": "ended", "failed": "ended", "running": "running", "waiting": "waiting"}
    found = []
    for key, run in runs.items():
        network = TrialConfig.from_dict(dict(run.configuration)).network
        cost = float(relative_cost(network))
        state: Any = known[states[key]]
        found.append(RunSoFar(run.epochs, cost, state, run.seconds, run.silent_seconds))
    return left_by_record(found)


def _live_values(run: RecordedRun | None) -> dict[str, Any]:
    """What the live table shows of a run, for scripts."""
    return {
        "most_epochs": None if run is None else run.epochs,
        "last_epoch": None if run is None else run.epoch,
        "last_loss": None if run is None else run.loss,
        "last_seconds": None if run is None or not run.seconds else run.seconds[-1],
        "zero_output_loss": None if run is None else run.zero_output_loss,
        "host": None if run is None else run.host,
        "device": None if run is None else run.device,
    }


# --- As lines -------------------------------------------------------------------------------------


def status_lines(of: Standing, where: str, again: str, width: int | None = None) -> Iterator[str]:
    """The standing for a person.

    Args:
        of: what is printed.
        where: the store's label.
        again: the command that printed it, without options.
        width: columns of the terminal; ``None`` where nothing has to fit.
    """
    first = f"{of.kind} {of.name} in {where}: {of.summary}"
    quote = None if of.held is None else str(of.held)
    for line in (first, _driver_line(of), _progress_line(of), quote):
        if line is not None:
            yield from hanging("", line, width)
    if of.live:
        yield ""
        rows = [(of.noun, *LIVE_COLUMNS), *map(_live_row, of.live)]
        yield from columns(rows, width, left=_left(of))
    if len(of.ended) > 1:
        yield from [""] * bool(of.live)
        yield from _ended_lines(of, width)
    if any(failure.traceback for failure in of.failures):
        # On a line of its own, to be copied whole from a narrow terminal.
        yield "the traceback of the first failure:"
        yield f"  {again} --traceback"


def traceback_lines(of: Standing) -> Iterator[str]:
    """The first failure that has a traceback, with it."""
    number = len(of.failures)
    first = next((failure for failure in of.failures if failure.traceback), None)
    if first is None:
        why = f"none of the {number} that failed has one: a divergence is no error of the code"
        yield f"{of.kind} {of.name}: no traceback; {why if number else 'no run failed'}"
        return
    yield f"{of.noun} {first.key} failed ({first.kind}): {first.message}"
    yield first.traceback.rstrip()


def _driver_line(of: Standing) -> str | None:
    """Who drives it; or that nobody does, where runs wait for it."""
    if of.is_driven:
        return f"driven by {of.holder}"
    if not of.counts["running"]:
        return None
    was = f"; {of.holder} ended or fell silent" if of.holder else ""
    return (
        f"nobody drives it{was}: what is said to be running is interrupted, and goes on from its "
        "last checkpoint with the next launch"
    )


def _progress_line(of: Standing) -> str | None:
    """The best trial so far and the time left; ``None`` before there is either."""
    parts = []
    if of.best is not None:
        parts.append(f"best so far {of.best[0]:,.4g}, trial {of.best[1]}")
    if of.seconds_left is not None:
        parts.append(f"about {duration(of.seconds_left)} left")
    return "; ".join(parts) or None


def _left(of: Standing) -> tuple[int, ...]:
    """The first column, where it holds names and no numbers."""
    return (0,) if of.kind == "ablation" else ()


def _live_row(run: RecordedRun) -> tuple[str, ...]:
    if run.weights is None:
        return (run.key, "starting", *[""] * (len(LIVE_COLUMNS) - 1))
    seconds = f"{run.seconds[-1]:.1f}" if run.seconds else "-"
    where = f"{run.device} {run.host}"
    zero = run.zero_output_loss
    done = f"{run.epoch}/{run.epochs}"
    return (run.key, *live_cells(done, run.loss, zero, seconds, run.weights, where))


LEAST_REASON = 36
"""Columns from which a reason stands beside its row; with fewer it comes below."""


def _ended_lines(of: Standing, width: int | None) -> Iterator[str]:
    head, *lines = columns([row[:-1] for row in of.ended], None, left=(*_left(of), 1))
    yield head
    beside = max(map(len, lines))
    for line, (*_, reason) in zip(lines, of.ended[1:], strict=True):
        if not reason or width is None or width - beside - 2 >= LEAST_REASON:
            yield from hanging(f"{line:{beside}}  ", reason, width)
        else:
            yield line
            yield from hanging(f"{'':6}", reason, width)


def _number(value: Any, form: str) -> str:
    return "-" if value is None or pd.isna(value) else format(float(value), form)
