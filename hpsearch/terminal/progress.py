"""The lines that a launch prints while runs train: one line per event, with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Self

from hpsearch.config.targets import QM9_TARGETS, Targets
from hpsearch.cost.estimate import TimeLeft
from hpsearch.report.text import duration, relative, share
from hpsearch.runs.messages import Completion, EpochMetrics, Failure, Outcome, RunFacts

A_DAY = 86_400.0


MOST_ERRORS = 12
"""Most errors in one line."""


def error_text(maes: dict[str, float], targets: Targets = QM9_TARGETS) -> str:
    """Return the errors with their units: ``U0 512 meV, mu 0.81 D``; only the first of many.

    Args:
        maes: error by target, in the unit that is reported.
        targets: the targets of the molecules.
    """
    shown = list(maes.items())[:MOST_ERRORS]
    parts = [f"{name} {mae:.3g} {targets[name].unit}" for name, mae in shown]
    more = len(maes) - len(shown)
    return ", ".join(parts) + (f" and {more} more" if more else "")


LIVE_COLUMNS = ("epoch", "loss", "of zero output", "s/epoch", "weights", "on")
"""The columns of a running run, after its key."""


def live_cells(
    epoch: str, loss: float | None, zero: float | None, seconds: str, weights: int, where: str
) -> tuple[str, ...]:
    """Return the cells of :data:`LIVE_COLUMNS`.

    Args:
        epoch: the last complete epoch, and the largest number of epochs.
        loss: the validation loss after that epoch; ``None`` before the first.
        zero: the zero output, that is the loss of predicting zero.
        seconds: of the epoch.
        weights: number of trainable weights.
        where: device and machine.
    """
    if loss is None or zero is None:
        return epoch, "-", "-", seconds, f"{weights:,}", where
    return epoch, f"{loss:,.4g}", share(loss, zero), seconds, f"{weights:,}", where


def named(key: str, origin: str | None) -> str:
    """Return the key of a run, with the origin of a known configuration in brackets."""
    return key if origin is None else f"{key} ({origin})"


class Progress:
    """Prints the events of the runs, their counts and the time left.

    Args:
        noun: the word for a run, ``trial`` or ``run``.
        estimate: estimates the time left of the launch's runs.
        total: number of runs, including those of earlier launches; 0 to print no counts.
        done: number of runs that were complete before this launch.
        say: prints one line.
        follow: prints the lines on starts and epochs; by default ``say``.
        best: lowest validation loss of earlier launches and its run's key; ``None`` for none.
        paused: keys of the runs that an earlier launch paused.
        origins: where known configurations come from, by the keys of their runs.
        compares: whether the losses of different runs can be compared, so that one is the best.
        targets: the targets of the molecules.

    Attributes:
        noun: the word for a run.
        best: lowest validation loss of a complete run so far, and its key.
    """

    def __init__(
        self,
        noun: str,
        estimate: TimeLeft,
        *,
        total: int = 0,
        done: int = 0,
        say: Callable[[str], None] = lambda line: None,
        follow: Callable[[str], None] | None = None,
        best: tuple[float, str] | None = None,
        compares: bool = True,
        paused: Iterable[str] = (),
        origins: Mapping[str, str] = MappingProxyType({}),
        targets: Targets = QM9_TARGETS,
    ) -> None:
        self.noun = noun
        self._say = say
        self._follow = follow or say
        self._estimate = estimate
        self._total = total
        self._done = done
        self._failed = 0
        self._facts: dict[str, RunFacts] = {}
        self._running: set[str] = set()
        self._paused: set[str] = set(paused)
        self.best = best
        self._compares = compares
        self._origins = origins
        self._targets = targets
        self._is_long = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing, since every line has been printed."""

    def print_line(self, line: str) -> None:
        """Print a line of the caller while runs train."""
        self._say(line)

    def started(self, key: str, facts: RunFacts) -> None:
        """Report that a run has started."""
        self._estimate.started(key, facts.resumed_from, time.monotonic(), facts.epochs)
        self._facts[key] = facts
        self._running.add(key)
        after = f", resumed from epoch {facts.resumed_from}" if facts.resumed_from else ""
        self._follow(
            f"{self.noun} {self.named(key)}: started, {facts.weights:,} weights on "
            f"{facts.device}{after}"
        )
        if facts.damaged:
            files = ", ".join(facts.damaged)
            self._say(f"{self.noun} {key}: skipped damaged files: {files}")

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """Report that an epoch has ended."""
        self._estimate.epoch(key, metrics.seconds, time.monotonic())
        seconds = self.seconds_left
        self._follow(
            f"{self.noun} {key}: epoch {metrics.epoch}, validation loss "
            f"{metrics.validation_loss:,.4g}{self._relative(key, metrics.validation_loss)}, "
            f"{metrics.seconds:.1f} s{_left(seconds)}"
        )
        if not self._is_long and (seconds or 0.0) > A_DAY:
            self._is_long = True
            self._say("this takes more than a day; --dry-run says how to shorten it")

    def retried(self, key: str, failure: Failure, how: str) -> None:
        """Report that a run has failed and is tried again."""
        self._say(f"{self.noun} {key}: {failure.kind}: {failure.message}; tried again {how}")

    def paused(self, key: str, epoch: int) -> None:
        """Report that a run waits at a rung."""
        self._estimate.finished(key, time.monotonic())
        self._running.discard(key)
        self._paused.add(key)
        self._follow(f"{self.noun} {key}: paused after epoch {epoch}")

    def promoted(self, key: str, place: str) -> None:
        """Report that a waiting run goes on."""
        self._paused.discard(key)
        self._follow(f"{self.noun} {key}: goes on {place}")

    def stopped(self, key: str, loss: float) -> None:
        """Report that a waiting run was stopped for good."""
        self._paused.discard(key)
        self._done += 1
        self._say(
            f"{self.noun} {self.named(key)}: stopped early, best validation loss {loss:,.4g}"
            f"{self._relative(key, loss)}; {self.counts_text}"
        )

    def finished(self, key: str, outcome: Outcome) -> None:
        """Report that a run has ended."""
        failed = isinstance(outcome, Failure)
        self._estimate.finished(key, time.monotonic(), failed=failed)
        self._running.discard(key)
        if isinstance(outcome, Failure):
            self._failed += 1
            ending = f"failed ({outcome.kind}): {outcome.message}"
        else:
            self._done += 1
            relative_loss = self._relative(key, outcome.best_validation_loss)
            ended = _completed(outcome, relative_loss, self._targets)
            ending = f"{ended}{self._compare(key, outcome)}"
        counts = f"; {self.counts_text}{_left(self.seconds_left)}" if self.counts_text else ""
        self._say(f"{self.noun} {self.named(key)}: {ending}{counts}")

    def ended(self) -> None:
        """Report how accurate the estimates were, at the end of the launch."""
        errors = self._estimate.errors(time.monotonic())
        if errors is not None:
            first, half = (
                f"{100 * abs(e):.0f} % too {'long' if e > 0 else 'short'}" for e in errors
            )
            self._say(f"estimate check: the time left was {first} at first, {half} at half-time")

    @property
    def counts_text(self) -> str:
        """The counts: ``3 of 10 done, 2 running, 1 failed``; empty if the runs are not counted."""
        if self._total == 0:
            return ""
        failed = f", {self._failed} failed" if self._failed else ""
        paused = f", {len(self._paused)} paused" if self._paused else ""
        return f"{self._done} of {self._total} done, {len(self._running)} running{paused}{failed}"

    def epochs(self, key: str) -> int:
        """Return the largest number of epochs of a running run."""
        return self._estimate.epochs(key)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last run ends; ``None`` before the first epoch ends."""
        return self._estimate.left(time.monotonic())

    def named(self, key: str) -> str:
        """Return the run's key, and where its configuration comes from if it is a known one."""
        return named(key, self._origins.get(key))

    def _relative(self, key: str, loss: float) -> str:
        """Return the loss relative to the zero output of the run, in brackets."""
        facts = self._facts.get(key)
        return "" if facts is None else f" ({relative(loss, facts.zero_output_loss)})"

    def _compare(self, key: str, outcome: Completion) -> str:
        if not self._compares:
            return ""
        mine = (outcome.best_validation_loss, key)
        self.best = mine if self.best is None else min(self.best, mine)
        if self.best == mine:
            return ", the best so far"
        return f" (best so far {self.best[0]:,.4g}, {self.noun} {self.best[1]})"


def _left(seconds: float | None) -> str:
    return "" if not seconds else f", about {duration(seconds)} left"


def _completed(outcome: Completion, relative_loss: str, targets: Targets) -> str:
    text = (
        f"complete after {outcome.epochs} epochs, best validation loss "
        f"{outcome.best_validation_loss:,.4g}{relative_loss} at epoch {outcome.best_epoch}"
    )
    if not outcome.test_maes:
        return text
    return f"{text}, test MAE {error_text(outcome.test_maes, targets)}"
