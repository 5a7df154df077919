"""Lines for a terminal: the status of a study or an ablation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hpsearch.report.text import ZERO_OUTPUT_LEGEND, compared_loss, duration
from hpsearch.results.status import Status
from hpsearch.store import RecordedRun
from hpsearch.terminal.columns import columns, hanging
from hpsearch.terminal.progress import LIVE_COLUMNS, live_cells, named


def status_lines(of: Status, where: str, again: str, width: int | None = None) -> Iterator[str]:
    """Yield the status for a person.

    Args:
        of: the status.
        where: the store's label.
        again: the command that prints it, without options.
        width: columns of the terminal; ``None`` for no limit.
    """
    first = f"{of.kind} {of.name} in {where}: {of.summary}"
    quote = None if of.quote_accuracy is None else str(of.quote_accuracy)
    for line in (first, _driver_line(of), _progress_line(of), quote):
        if line is not None:
            yield from hanging("", line, width)
    if of.live:
        yield ""
        rows = [_live_row(run, of.origins.get(run.key)) for run in of.live]
        yield from columns([(of.noun, *LIVE_COLUMNS), *rows], width, left=_left(of))
        yield from hanging("", ZERO_OUTPUT_LEGEND, width)
    ended = ended_rows(of)
    if len(ended) > 1:
        yield from [""] * bool(of.live)
        yield from _ended_lines(ended, _left(of), width)
        if of.left_out:
            shown = len(ended) - 1
            line = f"the last {shown:,} of {shown + of.left_out:,} ended {of.noun}s; --json has all"
            yield from hanging("", line, width)
    if any(failure.traceback for failure in of.failures):
        # On a separate line, so that it can be copied from a narrow terminal.
        yield "the traceback of the first failure:"
        yield f"  {again} --traceback"


def traceback_lines(of: Status) -> Iterator[str]:
    """Yield the first failure that has a traceback, with the traceback."""
    number = len(of.failures)
    first = next((failure for failure in of.failures if failure.traceback), None)
    if first is None:
        why = f"{number} failed without one, since a divergence is no error of the code"
        yield f"{of.kind} {of.name}: no traceback; {why if number else 'no run failed'}"
        return
    yield f"{of.noun} {first.key} failed ({first.kind}): {first.message}"
    yield first.traceback.rstrip()


def _driver_line(of: Status) -> str | None:
    """Return the driver, or a line that there is none while runs wait; ``None`` otherwise."""
    if of.is_driven:
        return f"driven by {of.holder}"
    was = f" ({of.holder} ended or stopped responding)" if of.holder else ""
    if of.counts.get("paused") and not of.counts["running"]:
        return f"no launch is active{was}: paused trials wait for the next launch"
    if not of.counts["running"]:
        return None
    return (
        f"no launch is active{was}: {of.noun}s marked running are paused, and resume from their "
        "last checkpoint with the next launch"
    )


def _progress_line(of: Status) -> str | None:
    """Return the best trial so far and the time left; ``None`` if neither is known."""
    parts = []
    if of.best is not None:
        loss, trial = of.best
        zero = of.best_zero_output
        text = f"{loss:,.4g}" if zero is None else compared_loss(loss, zero)
        parts.append(f"best so far: trial {trial}, validation loss {text}")
    if of.seconds_left is not None:
        parts.append(f"about {duration(of.seconds_left)} left")
    return "; ".join(parts) or None


def _left(of: Status) -> tuple[int, ...]:
    """Return the first column if it has names, which are aligned to the left."""
    return (0,) if of.kind == "ablation" else ()


def _live_row(run: RecordedRun, origin: str | None) -> tuple[str, ...]:
    key = named(run.key, origin)
    if run.weights is None:
        return (key, "starting", *[""] * (len(LIVE_COLUMNS) - 1))
    seconds = "-" if run.last_seconds is None else f"{run.last_seconds:.1f}"
    where = f"{run.device} {run.host}"
    zero = run.zero_output_loss
    done = f"{run.epoch}/{run.epochs}"
    return (key, *live_cells(done, run.loss, zero, seconds, run.weights, where))


_TRIAL_COLUMNS = ("trial", "state", "epochs", "best loss", "s/epoch", "weights", "")
_CELL_COLUMNS = ("run", "state", "epochs", "test MAE", "unit", "weights", "")


def ended_rows(of: Status) -> list[tuple[str, ...]]:
    """Return the headings and every run that has ended, as rows; the last cell is a text."""
    if of.kind == "study":
        ended = [row for row in of.rows if row["state"] not in ("RUNNING", "WAITING")]
        return [_TRIAL_COLUMNS, *map(_ended_trial, ended)]
    ended = [row for row in of.rows if row["state"] in ("complete", "failed")]
    return [_CELL_COLUMNS, *(_ended_cell(row, of.units) for row in ended)]


def _ended_trial(row: dict[str, Any]) -> tuple[str, ...]:
    remarks = (_starts_from(row["origin"]), row["failure_reason"] or row["stage"])
    return (
        str(row["number"]),
        "refused" if row["failure"] == "refused" else row["state"].lower(),
        str(row["epochs"]),
        _number(row["best_loss"], ",.4g"),
        _number(row["seconds_per_epoch"], ".1f"),
        _number(row["weights"], ",.0f"),
        "; ".join(remark for remark in remarks if remark),
    )


def _starts_from(origin: str | None) -> str | None:
    return None if origin is None else f"starts from {origin}"


def _ended_cell(row: dict[str, Any], units: Mapping[str, str]) -> tuple[str, ...]:
    is_failed = row["state"] == "failed"
    return (
        row["key"],
        row["state"],
        _number(row["epochs"], ".0f"),
        _number(row["test_mae"], ",.4g"),
        units.get(row["target"], ""),
        _number(row["weights"], ",.0f"),
        (row["reason"] or "") if is_failed else "",
    )


def _number(value: Any, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(float(value), form)


LEAST_REASON = 36
"""Least width for a reason at the end of its row; with less room, it is printed below the row."""


def _ended_lines(
    rows: list[tuple[str, ...]], left: tuple[int, ...], width: int | None
) -> Iterator[str]:
    head, *lines = columns([row[:-1] for row in rows], None, left=(*left, 1))
    yield head
    beside = max(map(len, lines))
    for line, (*_, reason) in zip(lines, rows[1:], strict=True):
        if not reason or width is None or width - beside - 2 >= LEAST_REASON:
            yield from hanging(f"{line:{beside}}  ", reason, width)
        else:
            yield line
            yield from hanging(f"{'':6}", reason, width)
