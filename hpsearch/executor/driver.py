"""Stands between the Work and Tune: starts the next runs, and passes on what workers report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from hpsearch.errors import HpsearchError
from hpsearch.executor.attempts import Attempt, Event, Retried, next_attempt, verdict
from hpsearch.executor.cluster import free_resources, machines_up
from hpsearch.executor.failures import failure_from_tune, tune_error
from hpsearch.executor.placement import Placement
from hpsearch.executor.ray_private import kill_worker
from hpsearch.runs.messages import (
    Assignment,
    EpochEnded,
    Failure,
    Finished,
    Outcome,
    Report,
    Started,
    Work,
)


class Stop(BaseException):
    """Carries an error of the Work through Tune, which swallows or rewrites an ``Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class ActiveRun:
    """A run that the driver has handed to Tune.

    Attributes:
        assignment: what is run.
        attempt: how.
        failures: of the attempts before.
        had_neighbours: whether another run went on beside an attempt that was not to be alone.
        needs: what a machine must have for a run that is to be alone; empty for another.
        trial: Tune's record, from the moment a worker has taken the run.
        last_report: when the worker last reported (monotonic seconds).
        finished: whether the Work has been given the outcome.
        overdue: whether its worker was killed for its silence.
    """

    assignment: Assignment
    attempt: Attempt = field(default_factory=Attempt)
    failures: tuple[Failure, ...] = ()
    had_neighbours: bool = False
    needs: dict[str, float] = field(default_factory=dict)
    trial: Any = None
    last_report: float = 0.0
    finished: bool = False
    overdue: bool = False

    @property
    def key(self) -> str:
        """The assignment's key."""
        return self.assignment.key


_HELD_UP_SECONDS = 5.0
"""Longest time between two checks of a driver that is not held up."""


@dataclass
class Driver:
    """Stands between the Work and Tune.

    Attributes:
        work: the assignments, and where their results go.
        on_event: called after the Work has been.
        placement: where runs are placed.
        interrupted: number of the signal that came; 0 while none has.
    """

    work: Work
    on_event: Callable[[Event], None]
    placement: Placement
    interrupted: int = 0
    _runs: dict[str, ActiveRun] = field(default_factory=dict)
    _to_retry: list[ActiveRun] = field(default_factory=list)
    _ask_again: float = 0.0
    _checked: float = field(default_factory=time.monotonic)

    def next(self, trial_id: str) -> dict[str, Any] | None:
        """A new trial's configuration, or ``None`` when there is none, or no room, now."""
        self.check()
        if not self._room():
            return None
        run = self._to_retry.pop(0) if self._to_retry else self._asked()
        if run is None:
            return None
        self._runs[trial_id] = run
        for each in self._runs.values():
            if not each.attempt.alone:
                each.had_neighbours = each.had_neighbours or len(self._runs) > 1
        # Text, because Tune looks into nested dictionaries for values to resolve.
        config: dict[str, Any] = {"assignment": json.dumps(run.assignment.to_dict())}
        if run.attempt.alone:
            run.needs = self.placement.alone(machines_up())
            config |= {"cpus": run.needs["CPU"], "gpus": run.needs["GPU"]}
        return config

    def _asked(self) -> ActiveRun | None:
        if time.monotonic() < self._ask_again:
            return None
        with passing_errors():
            assignment = self.work.next()
        if assignment is None:
            # Only the end of a run changes the answer, as far as this process can know; but Tune
            # asks ten times a second, and the Work may have to look into a database.
            self._ask_again = time.monotonic() + 1.0
            return None
        return ActiveRun(assignment)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to start and nothing runs."""
        if self._runs or self._to_retry:
            return False
        with passing_errors():
            return self.work.finished

    def placed(self, trial: Any) -> None:
        """A worker takes the run up."""
        run = self._runs[trial.trial_id]
        run.trial, run.last_report = trial, time.monotonic()

    def reported(self, trial_id: str, report: Report) -> None:
        """A worker has reported."""
        run = self._runs[trial_id]
        run.last_report = time.monotonic()
        with passing_errors():
            match report:
                case Started():
                    self.work.started(run.key, report.facts)
                    for earlier in report.epochs:
                        self.work.epoch(run.key, earlier)
                    self.on_event(report)
                case EpochEnded():
                    self.work.epoch(run.key, report.metrics)
                    self.on_event(report)
                case Finished():
                    self._finish(run, report.outcome)
                case _:
                    assert_never(report)

    def ended(self, trial_id: str) -> None:
        """Tune is done with the run and its worker is free."""
        self._runs.pop(trial_id, None)
        self._ask_again = 0.0

    def lost(self, trial: Any) -> None:
        """Tune's error path: the worker died, or retired after a failure that it had reported."""
        run = self._runs.get(trial.trial_id)
        if run and not run.finished:
            failure = failure_from_tune(*tune_error(trial))
            if run.overdue:
                failure = Failure(
                    "hung",
                    f"the run was silent for {self.placement.deadline_seconds:g} s, so its worker "
                    "was killed",
                )
            with passing_errors():
                self._finish(run, failure)
        self.ended(trial.trial_id)

    def check(self) -> None:
        """Raise the interrupt that came, and kill workers that hang."""
        if self.interrupted:
            raise KeyboardInterrupt(self.interrupted)
        # While this process was itself held up, by its database or by a person, no worker's report
        # could arrive.
        now = time.monotonic()
        held_up, self._checked = now - self._checked, now
        if held_up > _HELD_UP_SECONDS:
            for run in self._runs.values():
                run.last_report += held_up
        if self.placement.deadline_seconds is None:
            return
        for run in self._runs.values():
            silent = time.monotonic() - run.last_report
            if run.trial and not run.overdue and silent > self.placement.deadline_seconds:
                run.overdue = True
                kill_worker(run.trial)

    def _finish(self, run: ActiveRun, outcome: Outcome) -> None:
        run.finished = True
        if isinstance(outcome, Failure):
            failures = (*run.failures, outcome)
            size = run.assignment.config.training.batch_size
            attempt = next_attempt(failures, size, was_alone=not run.had_neighbours)
            if attempt is not None:
                self._retry(run, failures, attempt)
                return
            outcome = verdict(failures)
        self.work.finish(run.key, outcome)
        self.on_event(Finished(run.key, outcome))

    def _retry(self, run: ActiveRun, failures: tuple[Failure, ...], attempt: Attempt) -> None:
        self.work.retried(run.key, failures[-1])
        self.on_event(Retried(run.key, failures[-1], attempt))
        assignment = replace(run.assignment, pieces=attempt.pieces)
        # Once a run has had neighbours, running alone is tried only once.
        self._to_retry.append(ActiveRun(assignment, attempt, failures, run.had_neighbours))

    def _room(self) -> bool:
        """Whether a run that is asked for now would get a place at once.

        An asked run is a RUNNING row of the study, so it should not wait in Ray's queue. On a
        cluster that others use as well, one may: that is how a place is reserved.

        Raises:
            Stop: there is no machine any more, so no run would ever get a place.
        """
        unplaced = [run for run in self._runs.values() if not run.trial]
        if unplaced or not self._runs:
            self._require_machine(unplaced)
        if len(self._runs) >= self.placement.places(machines_up()):
            return False
        if any(run.attempt.alone for run in unplaced):
            # Whatever started now would take the place that it waits for.
            return False
        if any(run.attempt.alone for run in self._runs.values()):
            return self._free_places() >= 1
        return not unplaced or len(unplaced) < self._free_places()

    def _free_places(self) -> int:
        """About how many runs could start now; others may use the cluster too."""
        return self.placement.fitting(free_resources())

    def _require_machine(self, unplaced: list[ActiveRun]) -> None:
        """End the launch where a run would wait for a machine that is gone.

        Raises:
            Stop: no machine is as large as what a run needs.
        """
        machines = machines_up()
        wanted = [run.needs for run in unplaced if run.needs]
        for needs in wanted or [self.placement.resources]:
            if not any(all(m.get(k, 0.0) >= v for k, v in needs.items()) for m in machines):
                size = " and ".join(f"{value:g} {name}s" for name, value in needs.items() if value)
                reason = (
                    f"no machine of Ray's is left that has {size} for a run: one has died, or its "
                    "raylet; the same command goes on"
                )
                raise Stop(HpsearchError(reason))


@contextmanager
def passing_errors() -> Iterator[None]:
    """Wraps an error of the Work, so that it gets through Tune."""
    try:
        yield
    except Exception as error:
        raise Stop(error) from error
