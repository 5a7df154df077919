"""What a launch prints while runs go on: one line per event, an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

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
    """Prints a run's events and estimates when the last run will have ended.

    The estimate takes the mean seconds of the epochs seen so far for those that are left; it knows
    nothing of runs that stop early or fail, so it is an upper bound more often than not.

    Args:
        noun: what a run is called, ``trial`` or ``run``.
        epochs_left: epochs that the launch has still to train, at most.
        say: prints one line.
        best: lowest validation loss of earlier launches and its run's key; ``None`` for none.

    Attributes:
        best: lowest validation loss of a complete run so far, and its key.
    """

    def __init__(
        self,
        noun: str,
        epochs_left: int,
        say: Callable[[str], None] = lambda line: None,
        best: tuple[float, str] | None = None,
    ) -> None:
        self._noun = noun
        self._say = say
        self._epochs_left = epochs_left
        self._epochs_seen = 0
        self._began: float | None = None
        self._facts: dict[str, RunFacts] = {}
        self.best = best

    def started(self, key: str, facts: RunFacts) -> None:
        """A run has been built."""
        # The first start ends the time that Ray takes to come up, which is no measure of an epoch.
        self._began = self._began or time.monotonic()
        self._facts[key] = facts
        after = f", goes on after epoch {facts.resumed_from}" if facts.resumed_from else ""
        bad = f"; damaged and passed over: {', '.join(facts.damaged)}" if facts.damaged else ""
        self._say(
            f"{self._noun} {key}: started, {facts.weights:,} weights on {facts.device}{after}{bad}"
        )

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """An epoch has ended."""
        self._epochs_seen += 1
        self._epochs_left = max(self._epochs_left - 1, 0)
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
        if isinstance(outcome, Failure):
            self._say(f"{self._noun} {key}: failed ({outcome.kind}): {outcome.message}")
            return
        self._say(f"{self._noun} {key}: {_completed(outcome)}{self._compare(key, outcome)}")

    def _compare(self, key: str, outcome: Completion) -> str:
        if outcome.test_maes:
            return ""
        mine = (outcome.best_validation_loss, key)
        self.best = mine if self.best is None else min(self.best, mine)
        if self.best == mine:
            return ", the best so far"
        return f" (best so far {self.best[0]:,.4g}, {self._noun} {self.best[1]})"

    def _left(self) -> str:
        if self._began is None or self._epochs_left == 0:
            return ""
        # Wall-clock seconds per epoch of all runs together, so concurrency is counted in.
        rate = (time.monotonic() - self._began) / self._epochs_seen
        return f", about {duration(rate * self._epochs_left)} left"


def _completed(outcome: Completion) -> str:
    text = (
        f"complete after {outcome.epochs} epochs, best validation loss "
        f"{outcome.best_validation_loss:,.4g} at epoch {outcome.best_epoch}"
    )
    return text + (f", test MAE {error_text(outcome.test_maes)}" if outcome.test_maes else "")
