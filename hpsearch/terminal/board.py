"""The live table of the running trials on a terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpsearch.cost.estimate import TimeLeft
from hpsearch.report.text import duration, share
from hpsearch.runs.messages import EpochMetrics, Outcome, RunFacts
from hpsearch.terminal.progress import LIVE_COLUMNS, Progress, live_cells

REDRAWN_PER_SECOND = 2

_AROUND = 5
"""Lines of the terminal that are not rows of the table."""


@final
class Screen:
    """A terminal that prints lines above the live table.

    Attributes:
        console: Rich's console, which also draws the table.
    """

    def __init__(self) -> None:
        self.console = Console()

    def print_line(self, line: str) -> None:
        """Print a line unchanged; the terminal breaks it if it is too long."""
        self.console.print(Text(line), soft_wrap=True)


@dataclass
class _Row:
    facts: RunFacts
    epochs: int
    metrics: EpochMetrics | None = None
    began: float = 0.0


@final
class Board(Progress):
    """`Progress` for a terminal: starts and epochs update the table, ends are lines above it.

    Use it as a context manager. The table is drawn while the context is open, then erased.
    """

    def __init__(
        self, noun: str, estimate: TimeLeft, *, console: Console | None = None, **known: Any
    ) -> None:
        super().__init__(noun, estimate, **known)
        self._rows: dict[str, _Row] = {}
        self._time_left: tuple[float, float] | None = None
        self._console = console or Console()
        self._live = Live(
            console=self._console,
            get_renderable=self.draw,
            refresh_per_second=REDRAWN_PER_SECOND,
            transient=True,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def print_line(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(Text(line), soft_wrap=True)

    def started(self, key: str, facts: RunFacts) -> None:
        """Add a run that has started."""
        super().started(key, facts)
        self._rows[key] = _Row(facts, self.epochs(key), began=time.monotonic())

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """Update a run after an epoch."""
        super().epoch(key, metrics)
        if key in self._rows:
            self._rows[key].metrics = metrics
            self._rows[key].began = time.monotonic()
        self._estimate_time_left()

    def paused(self, key: str, epoch: int) -> None:
        """Remove a run that waits at a rung."""
        super().paused(key, epoch)
        self._rows.pop(key, None)
        self._estimate_time_left()

    def finished(self, key: str, outcome: Outcome) -> None:
        """Remove a run that has ended."""
        super().finished(key, outcome)
        self._rows.pop(key, None)
        self._estimate_time_left()

    def _estimate_time_left(self) -> None:
        # Not at every drawing: the estimate stores each answer, to compare it with the real end.
        seconds = self.seconds_left
        self._time_left = None if seconds is None else (time.monotonic(), seconds)

    def draw(self) -> RenderableType:
        """Return the table and the line under it."""
        return Group(self._table(), Text(self._summary(), overflow="ellipsis", no_wrap=True))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        table.add_column(self.noun, justify="right", no_wrap=True)
        *numbers, last = LIVE_COLUMNS
        for name in numbers:
            table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
        table.add_column(last, no_wrap=True, overflow="ellipsis")
        shown = max(self._console.height - _AROUND, 1)
        for key, row in list(self._rows.items())[:shown]:
            table.add_row(self.named(key), *self._cells(row))
        for _ in range(not self._rows):
            table.add_row("", "starting", "", "", "", "", "")
        if len(self._rows) > shown:
            table.add_row("", f"{len(self._rows) - shown} more", "", "", "", "", "")
        return table

    @staticmethod
    def _cells(row: _Row) -> tuple[str, ...]:
        facts, metrics = row.facts, row.metrics
        done, loss = facts.resumed_from, None
        seconds = f"{time.monotonic() - row.began:.0f} s so far"
        if metrics is not None:
            done, loss, seconds = metrics.epoch, metrics.validation_loss, f"{metrics.seconds:.1f}"
        epoch, where = f"{done}/{row.epochs}", f"{facts.device} {facts.host}"
        return live_cells(epoch, loss, facts.zero_output_loss, seconds, facts.weights, where)

    def _summary(self) -> str:
        parts = [self.counts_text]
        if self.best is not None:
            loss, key = self.best
            facts = self._facts.get(key)
            part = "" if facts is None else f", {share(loss, facts.zero_output_loss)}"
            parts.append(f"best loss {loss:,.4g}{part} ({self.noun} {key})")
        if self._time_left is not None:
            when, seconds = self._time_left
            left = max(seconds - (time.monotonic() - when), 0.0)
            parts.append(f"about {duration(left)} left")
        return "; ".join(part for part in parts if part)
