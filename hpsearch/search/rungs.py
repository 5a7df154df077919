"""The rule of early stopping: which paused trial goes on, and which is stopped for good.

It follows asynchronous successive halving (Li et al., arXiv:1810.05934) in its form with promotion:
every trial pauses at each rung. Of the trials that have reached a rung, the best third goes on, at
once and in any order of arrival. A trial that waits may still be promoted when others have come.

The rule is a function of the losses at the rungs and of their order. So a launch, `hpsearch verify`
and `hpsearch replay` use the same code, and every decision can be checked from the stored rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

from hpsearch.config.rungs import Rungs
from hpsearch.store import Decision

TRAINED_AGAIN = 1e-3
"""Relative difference between a loss and that of the same epochs trained again elsewhere.

A paused trial whose checkpoint is lost is trained again. On the same machine the losses are equal,
on another one they differ by rounding, which grows from step to step.
"""


@dataclass(frozen=True)
class Place:
    """The place of a paused trial among all trials that have reached its rung.

    Attributes:
        rung: the rung, from 0.
        better: number of trials that are better by more than the tolerance.
        trials: number of trials that have reached the rung, this one included.
        go_on: number of places from which a trial goes on.
    """

    rung: int
    better: int
    trials: int
    go_on: int

    @property
    def goes_on(self) -> bool:
        """Whether the trial goes on."""
        return self.better < self.go_on

    def __str__(self) -> str:
        return f"place {self.better + 1} of {self.trials}, {self.go_on} go on"


@dataclass
class _Trial:
    """What is known of a trial.

    Attributes:
        losses: its lowest loss so far at each rung that it has reached.
        promoted: number of its promotions; equal to the number of losses while it trains.
        ended: whether it has a verdict.
    """

    losses: list[float] = field(default_factory=list)
    promoted: int = 0
    ended: bool = False

    @property
    def is_paused(self) -> bool:
        return not self.ended and len(self.losses) > self.promoted


@dataclass
class _Rung:
    """The losses at a rung.

    Attributes:
        losses: of all trials that have reached it and not failed, sorted.
        paused: loss, order of arrival and key of those that wait, sorted.
    """

    losses: list[float] = field(default_factory=list)
    paused: list[tuple[float, int, str]] = field(default_factory=list)


@final
class Ladder:
    """The trials of a study on their rungs.

    Args:
        rungs: the rule's numbers.
    """

    def __init__(self, rungs: Rungs) -> None:
        self._rule = rungs
        self._rungs = [_Rung() for _ in range(rungs.count)]
        self._trials: dict[str, _Trial] = {}
        self._arrivals = 0

    # --- What has happened ------------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        """Record a stored decision.

        Raises:
            ValueError: the trial cannot pause, or go on, now.
        """
        key, loss = decision.key, decision.loss
        match decision.kind:
            case "pause":
                if loss is None or decision.rung != self.reached(key) or self.has_ended(key):
                    raise ValueError
                self.pause(key, loss)
            case "promotion":
                if not self.is_paused(key) or decision.rung != self.reached(key) - 1:
                    raise ValueError
                self.promote(key)
            case "complete":
                if loss is None:
                    raise ValueError
                self.complete(key, loss)
            case "pruned":
                if not self.is_paused(key):
                    raise ValueError
                self.prune(key)
            case "failed":
                self.fail(key)

    def pause(self, key: str, loss: float) -> None:
        """Record that a trial has paused at its next rung.

        Args:
            key: of the trial.
            loss: its lowest validation loss so far.
        """
        trial = self._trials.setdefault(key, _Trial())
        rung = self._rungs[len(trial.losses)]
        trial.losses.append(loss)
        insort(rung.losses, loss)
        self._arrivals += 1
        insort(rung.paused, (loss, self._arrivals, key))

    def promote(self, key: str) -> None:
        """Record that a paused trial goes on."""
        self._leave(key)
        self._trials[key].promoted += 1

    def complete(self, key: str, loss: float) -> None:
        """Record a complete trial; it counts at the rungs that it ended before, too."""
        self._leave(key)
        trial = self._trials.setdefault(key, _Trial())
        if trial.ended:
            return
        for rung in self._rungs[len(trial.losses) :]:
            trial.losses.append(loss)
            insort(rung.losses, loss)
        trial.ended = True

    def prune(self, key: str) -> None:
        """Record that a trial is stopped for good; it still counts at its rungs."""
        self._leave(key)
        self._trials.setdefault(key, _Trial()).ended = True

    def fail(self, key: str) -> None:
        """Record a failed trial; it counts at no rung."""
        self._leave(key)
        trial = self._trials.pop(key, _Trial())
        for rung, loss in zip(self._rungs, trial.losses, strict=False):
            del rung.losses[bisect_left(rung.losses, loss)]

    def _leave(self, key: str) -> None:
        trial = self._trials.get(key)
        if trial is None or not trial.is_paused:
            return
        waiting = self._rungs[len(trial.losses) - 1].paused
        start = bisect_left(waiting, (trial.losses[-1],))
        del waiting[next(n for n in range(start, len(waiting)) if waiting[n][2] == key)]

    # --- What follows -----------------------------------------------------------------------------

    def reached(self, key: str) -> int:
        """Return the number of rungs that a trial has reached."""
        return len(self._trials[key].losses) if key in self._trials else 0

    def judged(self, key: str) -> tuple[float, ...]:
        """Return the lowest loss so far by which a trial was judged at each of its rungs."""
        return tuple(self._trials[key].losses) if key in self._trials else ()

    @property
    def paused(self) -> list[str]:
        """The trials that wait, those of the highest rung first, each rung's best first."""
        return [key for rung in reversed(self._rungs) for _, _, key in rung.paused]

    def has_ended(self, key: str) -> bool:
        """Return whether the trial has a verdict."""
        return key in self._trials and self._trials[key].ended

    def is_paused(self, key: str) -> bool:
        """Return whether the trial waits at a rung."""
        return key in self._trials and self._trials[key].is_paused

    def place(self, key: str, *, last: bool) -> Place:
        """Return the place of a paused trial.

        Args:
            key: of the trial.
            last: whether no further trial will be drawn. Then the best trials go on in any case.
        """
        trial = self._trials[key]
        return self._place(len(trial.losses) - 1, trial.losses[-1], last=last)

    def next(self, *, last: bool) -> str | None:
        """Return the paused trial to promote now, or ``None``: the best of the highest rung.

        Args:
            last: as for :meth:`place`. The trials that go on in any case come after all others,
                because better ones may still come from a lower rung.
        """
        for in_any_case in (False, True) if last else (False,):
            for number in reversed(range(len(self._rungs))):
                for loss, _, key in self._rungs[number].paused[:1]:
                    # If the best one does not go on, no other one of its rung does.
                    if self._place(number, loss, last=in_any_case).goes_on:
                        return key
        return None

    def hopeless(self, wanted: int) -> Iterator[str]:
        """Yield the paused trials that can no longer be promoted.

        Args:
            wanted: number of trials that the study will have.
        """
        for number, rung in enumerate(self._rungs):
            most = max(wanted, len(rung.losses))
            enough = max(most // self._rule.reduction, self._rule.always_finish)
            for loss, _, key in reversed(rung.paused):
                if self._better(number, loss) < enough:
                    break
                yield key

    def _place(self, number: int, loss: float, *, last: bool) -> Place:
        trials = len(self._rungs[number].losses)
        go_on = trials // self._rule.reduction
        if last:
            go_on = max(go_on, self._rule.always_finish)
        return Place(number, self._better(number, loss), trials, go_on)

    def _better(self, number: int, loss: float) -> int:
        """Return how many losses at the rung are lower by more than the tolerance."""
        return bisect_left(self._rungs[number].losses, loss - self._rule.tolerance * abs(loss))


@dataclass(frozen=True)
class Part:
    """A part of the training of several trials, from one pause to the next.

    Attributes:
        start: epoch after which it begins.
        end: its last epoch.
        trials: number of trials that are trained from ``start`` to ``end``.
    """

    start: int
    end: int
    trials: int


def expected_parts(rungs: Rungs, epochs: Sequence[int], most: int, trials: int) -> list[Part]:
    """Return the parts of a search whose losses have no ties.

    Args:
        rungs: the rule's numbers.
        epochs: the epochs after which the trials pause.
        most: epochs of a complete trial.
        trials: number of trials that are drawn.
    """
    parts: list[Part] = []
    for start, end in pairwise((0, *epochs, most)):
        parts.append(Part(start, end, trials))
        trials = min(max(trials // rungs.reduction, rungs.always_finish), trials)
    return parts


def expected_epochs(parts: Iterable[Part]) -> int:
    """Return the epochs of all trials together."""
    return sum((part.end - part.start) * part.trials for part in parts)


def most_paused(rungs: Rungs, trials: int) -> int:
    """Return the most trials that wait at once in a search of ``trials``, without ties."""
    waiting = max(trials // rungs.reduction, rungs.always_finish)
    return min(rungs.count * waiting, trials)
