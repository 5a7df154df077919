"""The time left until the last run ends, estimated from the epochs seen so far."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import mean
from typing import Literal

FIRST_RUN_SECONDS = 5.0
"""Assumed seconds of a run's start and test together, until one run has ended."""


def makespan(free: Iterable[float], seconds: Iterable[float]) -> float:
    """When the last run ends.

    Args:
        free: when each place becomes free.
        seconds: of the runs that wait, in the order in which they take the first free place.
    """
    places = list(free)
    heapq.heapify(places)
    for each in seconds:
        heapq.heapreplace(places, places[0] + each)
    return max(places)


@dataclass
class _Run:
    """A run that is waiting or under way.

    Attributes:
        total: epochs of the run, at most.
        cost: of an epoch, relative to the other runs'.
        began: when its worker had built it.
        spoke: when its last epoch ended.
        done: epochs trained.
        seconds: of its epochs in this launch.
        is_any: whether it stood for any run, so that another comes in its place if it fails.
        usual: epochs of any run, before this one had said its own.
    """

    total: float
    cost: float
    is_any: bool = False
    usual: float = 0.0
    began: float = 0.0
    spoke: float = 0.0
    done: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Epochs still to train."""
        return max(self.total - self.done, 0)


RunState = Literal["waiting", "running", "ended"]


@dataclass(frozen=True)
class RunSoFar:
    """A run as the store has it.

    Attributes:
        epochs: of the run, at most; the average of all where it is not known which run comes.
        cost: of an epoch, relative to the other runs'.
        state: waiting, running or ended.
        seconds: of its recorded epochs.
        silent: seconds since the last of these, or since its start.
    """

    epochs: float
    cost: float
    state: RunState
    seconds: tuple[float, ...] = ()
    silent: float = 0.0


def left_by_record(runs: Iterable[RunSoFar]) -> float | None:
    """Seconds until the last of ``runs`` ends, from what a store has of them.

    As many runs as now are assumed to run side by side until the end. ``None`` before the first
    epoch and where nothing runs.
    """
    named = {str(number): run for number, run in enumerate(runs)}
    estimate = TimeLeft((key, run.epochs, run.cost) for key, run in named.items())
    for state in ("ended", "running"):
        for key, run in named.items():
            if run.state == state:
                estimate.replay(key, run)
    if not any(run.state == "running" for run in named.values()):
        return None
    return estimate.left(0.0)


class TimeLeft:
    """Plays the rest of the launch: a run that waits takes the first place that becomes free.

    A run's next epochs are assumed to take as long as its own did on average. Before it has any,
    they take as long as those of runs of the same cost; before there are any, their time is in
    proportion to the cost. Runs that stop early or fail leave sooner, so the estimate is mostly an
    upper bound.

    Args:
        runs: key, epochs and relative cost of an epoch of every run of the launch, in the order of
            their starts. A key of ``None`` means any run, and another one if that fails; its
            epochs are then what runs have on average.
    """

    def __init__(self, runs: Iterable[tuple[str | None, float, float]]) -> None:
        self._waiting = [(key, _Run(total, cost, key is None, total)) for key, total, cost in runs]
        self._running: dict[str, _Run] = {}
        self._seconds: dict[float, list[float]] = {}
        self._beside: list[float] = []
        self._places = 1
        self._began: float | None = None
        self._said: list[tuple[float, float]] = []

    def started(self, key: str, done: int, now: float, epochs: int = 0) -> None:
        """A run has been built, or goes on after its epoch ``done``.

        Args:
            key: the run's.
            done: epochs that it has.
            now: monotonic seconds.
            epochs: that it has in all, at most; 0 where it does not say.
        """
        # The first start ends the time that Ray takes to come up, which is no run's.
        self._began = now if self._began is None else self._began
        run = self._running.get(key) or self._taken(key)
        run.began = run.spoke = now
        run.done = done
        run.total = epochs or run.total
        run.seconds.clear()
        self._running[key] = run
        self._places = max(self._places, len(self._running))

    def epochs(self, key: str) -> int:
        """Epochs of a run under way, at most."""
        return round(self._running[key].total) if key in self._running else 0

    def _taken(self, key: str) -> _Run:
        for wanted in (key, None):
            for index, (waiting, run) in enumerate(self._waiting):
                if waiting == wanted:
                    del self._waiting[index]
                    return run
        return _Run(0, 1.0)

    def epoch(self, key: str, seconds: float, now: float) -> None:
        """An epoch has ended."""
        run = self._running.get(key)
        if run is None:
            return
        run.done += 1
        run.seconds.append(seconds)
        run.spoke = now
        self._seconds.setdefault(run.cost, []).append(seconds)

    def replay(self, key: str, run: RunSoFar) -> None:
        """Takes in a run that began earlier; the time now is 0."""
        self.started(key, 0, -run.silent)
        for seconds in run.seconds:
            self.epoch(key, seconds, -run.silent)
        if run.state == "ended":
            # Nothing is known of its time beside the epochs, so not by `finished`.
            del self._running[key]

    def finished(self, key: str, now: float, *, failed: bool = False) -> None:
        """A run has ended, well or not."""
        run = self._running.pop(key, None)
        if run is None:
            return
        if run.seconds:
            self._beside.append(max(now - run.began - sum(run.seconds), 0.0))
        if failed and run.is_any:
            self._waiting.append((None, _Run(run.usual, run.cost, True, run.usual)))

    def left(self, now: float) -> float | None:
        """Seconds until the last run ends; ``None`` before the first epoch has."""
        if not self._seconds:
            return None
        beside = mean(self._beside) if self._beside else FIRST_RUN_SECONDS
        free = [
            max(run.left * self._epoch_seconds(run) - (now - run.spoke), 0.0) + beside
            for run in self._running.values()
        ]
        free += [0.0] * (self._places - len(free))
        waiting = (run.left * self._epoch_seconds(run) + beside for _, run in self._waiting)
        seconds = makespan(free, waiting)
        self._said.append((now, seconds))
        return seconds

    def _epoch_seconds(self, run: _Run) -> float:
        if run.seconds:
            return mean(run.seconds)
        if run.cost in self._seconds:
            return mean(self._seconds[run.cost])
        per_cost = [mean(seconds) / cost for cost, seconds in self._seconds.items()]
        return run.cost * mean(per_cost)

    def errors(self, now: float) -> tuple[float, float] | None:
        """How far the first estimate and the one half-way were off, of the time then left.

        Positive: it took less time than estimated. ``None`` where there was none to check.
        """
        if self._began is None or len(self._said) < 2:
            return None
        half = self._began + (now - self._began) / 2
        later = [said for said in self._said if said[0] >= half] or self._said[-1:]
        checked = (self._said[0], later[0])
        if any(now <= when for when, _ in checked):
            return None
        first, second = ((seconds - (now - when)) / (now - when) for when, seconds in checked)
        return first, second
