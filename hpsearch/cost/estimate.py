"""The time left until the last run ends, estimated from the epochs so far."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

FIRST_RUN_SECONDS = 5.0
"""Assumed seconds of a run's start and test together, until the first run ends."""


def makespan(free: Iterable[float], seconds: Iterable[float]) -> float:
    """Return the time at which the last run ends.

    Args:
        free: for each place, the time at which it becomes free.
        seconds: for each waiting run, its length. Each takes the first free place, in this order.
    """
    places = list(free)
    heapq.heapify(places)
    for run_seconds in seconds:
        heapq.heapreplace(places, places[0] + run_seconds)
    return max(places)


@dataclass
class _Run:
    """A waiting or running run.

    Attributes:
        total: the epochs to which it is trained now: its most, or those of its next rung.
        cost: cost of an epoch, relative to the other runs.
        most: the most epochs of the run.
        is_any: whether it stands for any run; then a new run replaces it if it fails.
        usual: mean number of epochs of a run, for the run that replaces it.
        began: time at which its worker had built it.
        reported: time at which its last epoch ended.
        done: number of trained epochs.
        seconds: seconds of each of its epochs in this launch.
    """

    total: float
    cost: float
    most: float = 0.0
    is_any: bool = False
    usual: float = 0.0
    began: float = 0.0
    reported: float = 0.0
    done: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Epochs still to train."""
        return max(self.total - self.done, 0)


def promotion(epoch: int) -> str:
    """Return the key of a run that goes on after ``epoch``, whichever it will be."""
    return f"promotion after {epoch}"


RunState = Literal["waiting", "running", "ended"]


@dataclass(frozen=True)
class RunSoFar:
    """A run as recorded in the store.

    Attributes:
        epochs: the most epochs of the run; the mean of all runs if the run is not yet known.
        cost: cost of an epoch, relative to the other runs.
        state: waiting, running or ended.
        seconds: seconds of each recorded epoch.
        silent: seconds since its last epoch ended, or since its start.
    """

    epochs: float
    cost: float
    state: RunState
    seconds: tuple[float, ...] = ()
    silent: float = 0.0


def left_by_record(runs: Iterable[RunSoFar]) -> float | None:
    """Return the seconds until the last of ``runs`` ends, from their records.

    The number of runs at a time is assumed not to change. Returns ``None`` before the first epoch,
    and if no run is running.
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
    """The time left, by a simulation of the rest of the launch.

    A waiting run takes the first place that becomes free. Its epochs are assumed to take:

    - the mean of its own epochs; without any,
    - the mean of the epochs of runs with the same cost; without any,
    - a time in proportion to the cost.

    Runs that stop early or fail end sooner, so the result is usually an upper bound.

    Args:
        runs: key, epochs and relative cost of an epoch of every run of the launch, in the order of
            their starts. The key ``None`` means any run; if that run fails, a new one follows. Its
            epochs are then the mean of all runs. The key of :func:`promotion` means a run that goes
            on from a rung.
        rungs: the epochs after which every run pauses; empty if none does.
    """

    def __init__(
        self, runs: Iterable[tuple[str | None, float, float]], rungs: Sequence[int] = ()
    ) -> None:
        self._rungs = tuple(rungs)
        self._waiting = [
            (key, _Run(total, cost, total, key is None, total)) for key, total, cost in runs
        ]
        self._running: dict[str, _Run] = {}
        self._seconds: dict[float, list[float]] = {}
        self._overheads: list[float] = []
        self._places = 1
        self._began: float | None = None
        self._results: list[tuple[float, float]] = []

    def started(self, key: str, done: int, now: float, epochs: int = 0) -> None:
        """Record that a run was built, or resumed after the epoch ``done``.

        Args:
            key: the run's key.
            done: number of its trained epochs.
            now: monotonic seconds.
            epochs: the most epochs of the run; 0 if unknown.
        """
        # Counted from the first start, because Ray's own start belongs to no run.
        self._began = now if self._began is None else self._began
        goes_on = done in self._rungs and key not in self._running
        run = self._running.get(key) or self._taken((promotion(done),) if goes_on else (key, None))
        run.began = run.reported = now
        run.done = done
        run.most = epochs or run.most
        # A run with rungs is only a part of a run: up to its next pause.
        run.total = next((rung for rung in self._rungs if rung > done), run.most)
        run.seconds.clear()
        self._running[key] = run
        self._places = max(self._places, len(self._running))

    def epochs(self, key: str) -> int:
        """Return the most epochs of a running run."""
        return round(self._running[key].most) if key in self._running else 0

    def _taken(self, keys: Sequence[str | None]) -> _Run:
        for wanted in keys:
            for index, (waiting, run) in enumerate(self._waiting):
                if waiting == wanted:
                    del self._waiting[index]
                    return run
        return _Run(0, 1.0)

    def epoch(self, key: str, seconds: float, now: float) -> None:
        """Record the end of an epoch."""
        run = self._running.get(key)
        if run is None:
            return
        run.done += 1
        run.seconds.append(seconds)
        run.reported = now
        self._seconds.setdefault(run.cost, []).append(seconds)

    def replay(self, key: str, run: RunSoFar) -> None:
        """Record a run that began earlier; the present time is 0."""
        self.started(key, 0, -run.silent)
        for seconds in run.seconds:
            self.epoch(key, seconds, -run.silent)
        if run.state == "ended":
            # Not by `finished`: the time of its start and test is unknown.
            del self._running[key]

    def finished(self, key: str, now: float, *, failed: bool = False) -> None:
        """Record the end of a run."""
        run = self._running.pop(key, None)
        if run is None:
            return
        if run.seconds:
            self._overheads.append(max(now - run.began - sum(run.seconds), 0.0))
        if failed and run.is_any:
            self._waiting.append((None, _Run(run.usual, run.cost, run.usual, True, run.usual)))

    def left(self, now: float) -> float | None:
        """Return the seconds until the last run ends; ``None`` before the first epoch has ended."""
        if not self._seconds:
            return None
        overhead = fmean(self._overheads) if self._overheads else FIRST_RUN_SECONDS
        # Once for all runs: a large study has a hundred thousand epochs.
        usual = {cost: fmean(seconds) for cost, seconds in self._seconds.items()}
        free = [
            max(run.left * _epoch_seconds(run, usual) - (now - run.reported), 0.0) + overhead
            for run in self._running.values()
        ]
        free += [0.0] * (self._places - len(free))
        waiting = (run.left * _epoch_seconds(run, usual) + overhead for _, run in self._waiting)
        seconds = makespan(free, waiting)
        self._results.append((now, seconds))
        return seconds

    def errors(self, now: float) -> tuple[float, float] | None:
        """Return the relative errors of the first result and of the result at half the time.

        Positive: the launch took less time. ``None`` if there are no results to check.
        """
        if self._began is None or len(self._results) < 2:
            return None
        half = self._began + (now - self._began) / 2
        later = [result for result in self._results if result[0] >= half] or self._results[-1:]
        checked = (self._results[0], later[0])
        if any(now <= when for when, _ in checked):
            return None
        first, second = ((seconds - (now - when)) / (now - when) for when, seconds in checked)
        return first, second


def _epoch_seconds(run: _Run, usual: Mapping[float, float]) -> float:
    """Return the seconds that an epoch of the run probably takes.

    Args:
        run: the run.
        usual: mean seconds of an epoch by its cost.
    """
    if run.seconds:
        return fmean(run.seconds)
    if run.cost in usual:
        return usual[run.cost]
    return run.cost * fmean(seconds / cost for cost, seconds in usual.items())
