"""What a launch prints while runs go on: one line per event, an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from hpsearch.estimate import Estimate
from hpsearch.runs import Completion, EpochMetrics, Failure, Outcome, RunFacts
from hpsearch.targets import target


def duration(seconds: float) -> str:
    """``seconds`` as a person says it: ``48 s``, ``3 min``, ``2.5 h``, ``4.1 d``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.1f} d"


def error_text(maes: dict[str, float]) -> str:
    """``U0 512 meV, mu 0.81 D``."""
    return ", ".join(f"{name} {mae:.3g} {target(name).unit}" for name, mae in maes.items())


def relative(loss: float, zero_output_loss: float) -> str:
    """``loss`` against that of a network whose output is zero."""
    ratio = loss / zero_output_loss
    share = f"{ratio:.1%} of" if ratio < 10 else f"{ratio:,.3g} times"
    return f"{share} zero output's"


class Progress:
    """Prints a run's events, how many have ended, and when the last one will have.

    Args:
        noun: what a run is called, ``trial`` or ``run``.
        estimate: of the launch's runs.
        total: runs in all, those of earlier launches included; 0 where it is not counted.
        done: runs that were complete before this launch.
        say: prints one line.
        best: lowest validation loss of earlier launches and its run's key; ``None`` for none.

    Attributes:
        best: lowest validation loss of a complete run so far, and its key.
    """

    def __init__(
        self,
        noun: str,
        estimate: Estimate,
        *,
        total: int = 0,
        done: int = 0,
        say: Callable[[str], None] = lambda line: None,
        best: tuple[float, str] | None = None,
    ) -> None:
        self._noun = noun
        self._say = say
        self._estimate = estimate
        self._total = total
        self._done = done
        self._failed = 0
        self._facts: dict[str, RunFacts] = {}
        self._running: set[str] = set()
        self.best = best

    def started(self, key: str, facts: RunFacts) -> None:
        """A run has been built."""
        self._estimate.started(key, facts.resumed_from, time.monotonic())
        self._facts[key] = facts
        self._running.add(key)
        after = f", goes on after epoch {facts.resumed_from}" if facts.resumed_from else ""
        bad = f"; damaged and passed over: {', '.join(facts.damaged)}" if facts.damaged else ""
        self._say(
            f"{self._noun} {key}: started, {facts.weights:,} weights on {facts.device}{after}{bad}"
        )

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """An epoch has ended."""
        self._estimate.epoch(key, metrics.seconds, time.monotonic())
        facts = self._facts.get(key)
        share = ""
        if facts is not None:
            share = f" ({relative(metrics.validation_loss, facts.zero_output_loss)})"
        self._say(
            f"{self._noun} {key}: epoch {metrics.epoch}, validation loss "
            f"{metrics.validation_loss:,.4g}{share}, {metrics.seconds:.1f} s"
            f"{self._left()}"
        )

    def retried(self, key: str, failure: Failure, how: str) -> None:
        """A run has failed and is tried again."""
        self._say(f"{self._noun} {key}: {failure.kind}: {failure.message}; goes on {how}")

    def finished(self, key: str, outcome: Outcome) -> None:
        """A run has ended."""
        self._estimate.finished(key, time.monotonic())
        self._running.discard(key)
        if isinstance(outcome, Failure):
            self._failed += 1
            ending = f"failed ({outcome.kind}): {outcome.message}"
        else:
            self._done += 1
            ending = f"{_completed(outcome)}{self._compare(key, outcome)}"
        self._say(f"{self._noun} {key}: {ending}{self._standing()}")

    def ended(self) -> None:
        """The launch has ended: how right its estimates were."""
        errors = self._estimate.errors(time.monotonic())
        if errors is not None:
            first, half = (f"{abs(e):.0%} too {'long' if e > 0 else 'short'}" for e in errors)
            self._say(f"the time left was estimated {first} at first, {half} half-way")

    def _standing(self) -> str:
        if self._total == 0:
            return ""
        failed = f", {self._failed} failed" if self._failed else ""
        return (
            f"; {self._done} of {self._total} done, {len(self._running)} running{failed}"
            f"{self._left()}"
        )

    def _compare(self, key: str, outcome: Completion) -> str:
        if outcome.test_maes:
            return ""
        mine = (outcome.best_validation_loss, key)
        self.best = mine if self.best is None else min(self.best, mine)
        if self.best == mine:
            return ", the best so far"
        return f" (best so far {self.best[0]:,.4g}, {self._noun} {self.best[1]})"

    def _left(self) -> str:
        seconds = self._estimate.left(time.monotonic())
        return "" if not seconds else f", about {duration(seconds)} left"


def _completed(outcome: Completion) -> str:
    text = (
        f"complete after {outcome.epochs} epochs, best validation loss "
        f"{outcome.best_validation_loss:,.4g} at epoch {outcome.best_epoch}"
    )
    return text + (f", test MAE {error_text(outcome.test_maes)}" if outcome.test_maes else "")
