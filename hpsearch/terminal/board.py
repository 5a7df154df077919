"""What a launch shows on a terminal: the running trials as a table, drawn anew in its place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpsearch.cost.estimate import TimeLeft
from hpsearch.report.text import duration
from hpsearch.runs.messages import EpochMetrics, Outcome, RunFacts
from hpsearch.terminal.progress import LIVE_COLUMNS, Progress, live_cells

REDRAWN_PER_SECOND = 2

_AROUND = 5
"""Lines of the terminal that are not rows of the table."""


@final
class Screen:
    """A terminal that prints lines, above a table while there is one.

    Attributes:
        console: Rich's, on which the table is drawn.
    """

    def __init__(self) -> None:
        self.console = Console()

    def print_line(self, line: str) -> None:
        """Print a line as it is; the terminal breaks it where it is too long."""
        self.console.print(Text(line), soft_wrap=True)


@dataclass
class _Row:
    facts: RunFacts
    epochs: int
    metrics: EpochMetrics | None = None
    began: float = 0.0


@final
class Board(Progress):
    """`Progress` for a terminal: starts and epochs change the table, ends are lines above it.

    To be used as a context: it is drawn while the context is open and leaves nothing behind.
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
        """Print a line above the table; printed otherwise it would run into it."""
        self._console.print(Text(line), soft_wrap=True)

    def started(self, key: str, facts: RunFacts) -> None:
        """A run has been built."""
        super().started(key, facts)
        self._rows[key] = _Row(facts, self.epochs(key), began=time.monotonic())

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """An epoch has ended."""
        super().epoch(key, metrics)
        if key in self._rows:
            self._rows[key].metrics = metrics
            self._rows[key].began = time.monotonic()
        self._look_ahead()

    def finished(self, key: str, outcome: Outcome) -> None:
        """A run has ended."""
        super().finished(key, outcome)
        self._rows.pop(key, None)
        self._look_ahead()

    def _look_ahead(self) -> None:
        # Not at every drawing: the estimate keeps what it has said, to be held against the end.
        seconds = self.seconds_left
        self._time_left = None if seconds is None else (time.monotonic(), seconds)

    def draw(self) -> RenderableType:
        """The table and the line under it."""
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
            table.add_row(key, *self._cells(row))
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
            parts.append(f"best {self.best[0]:,.4g} ({self.noun} {self.best[1]})")
        if self._time_left is not None:
            when, seconds = self._time_left
            left = max(seconds - (time.monotonic() - when), 0.0)
            parts.append(f"about {duration(left)} left")
        return "; ".join(part for part in parts if part)
