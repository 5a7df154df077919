"""Stands between the Work and Tune: who is asked when, and who is told what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from hpsearch.errors import HpsearchError
from hpsearch.executor.attempts import Attempt, next_attempt, verdict
from hpsearch.executor.events import EpochEnded, Event, Finished, Retried, Started
from hpsearch.executor.failures import loss_of, tune_error
from hpsearch.executor.placement import Place, machines_up
from hpsearch.runs.messages import (
    Assignment,
    Completion,
    EpochMetrics,
    Failure,
    Outcome,
    RunFacts,
    Work,
)


class Stop(BaseException):
    """Carries an error of the Work through Tune, which swallows or rewrites an ``Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Flight:
    """A run that Tune has and the driver waits for.

    Attributes:
        assignment: what is run.
        attempt: how.
        failures: of the attempts before.
        company: whether another run was under way beside an attempt that was not to be alone.
        needs: what a machine must have in all for a run that is to be alone.
        trial: Tune's record, from the moment a worker has taken the run.
        heard: when the worker last spoke (monotonic seconds).
        finished: whether the Work knows the outcome.
        overdue: whether its worker was killed for its silence.
    """

    assignment: Assignment
    attempt: Attempt = field(default_factory=Attempt)
    failures: tuple[Failure, ...] = ()
    company: bool = False
    needs: dict[str, float] = field(default_factory=dict)
    trial: Any = None
    heard: float = 0.0
    finished: bool = False
    overdue: bool = False

    @property
    def key(self) -> str:
        """The assignment's key."""
        return self.assignment.key


_HELD_UP_SECONDS = 5.0
"""Longest time between two looks of a driver that is not held up."""


@dataclass
class Driver:
    """Stands between the Work and Tune: who is asked when, and who is told what."""

    work: Work
    on_event: Callable[[Event], None]
    place: Place
    deadline_seconds: float | None
    interrupted: int = 0
    _flights: dict[str, Flight] = field(default_factory=dict)
    _again: list[Flight] = field(default_factory=list)
    _ask_again: float = 0.0
    _checked: float = field(default_factory=time.monotonic)

    def next(self, trial_id: str) -> dict[str, Any] | None:
        """A new trial's configuration, or ``None`` when there is none, or no room, now."""
        self.check()
        if not self._room():
            return None
        flight = self._again.pop(0) if self._again else self._asked()
        if flight is None:
            return None
        self._flights[trial_id] = flight
        for one in self._flights.values():
            if not one.attempt.alone:
                one.company = one.company or len(self._flights) > 1
        # Text, because Tune looks into nested dictionaries for values to resolve.
        config: dict[str, Any] = {"assignment": json.dumps(flight.assignment.to_dict())}
        if flight.attempt.alone:
            config |= (whole := self.place.whole())
            flight.needs = {"CPU": whole["cpus"], "GPU": whole["gpus"]}
        return config

    def _asked(self) -> Flight | None:
        if time.monotonic() < self._ask_again:
            return None
        with passing_errors():
            assignment = self.work.next()
        if assignment is None:
            # Only the end of a run changes the answer, as far as this process can know; but Tune
            # asks ten times a second, and the Work may have to look into a database.
            self._ask_again = time.monotonic() + 1.0
            return None
        return Flight(assignment)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to start and nothing runs."""
        if self._flights or self._again:
            return False
        with passing_errors():
            return self.work.finished

    def placed(self, trial: Any) -> None:
        """A worker takes the run up."""
        flight = self._flights[trial.trial_id]
        flight.trial, flight.heard = trial, time.monotonic()

    def told(self, trial_id: str, report: dict[str, Any]) -> None:
        """A worker has spoken."""
        flight = self._flights[trial_id]
        flight.heard = time.monotonic()
        with passing_errors():
            if "facts" in report:
                facts = RunFacts(**report["facts"])
                self.work.started(flight.key, facts)
                for earlier in report["epochs"]:
                    self.work.epoch(flight.key, EpochMetrics(**earlier))
                self.on_event(Started(flight.key, facts))
            elif "epoch" in report:
                metrics = EpochMetrics(**report["epoch"])
                self.work.epoch(flight.key, metrics)
                self.on_event(EpochEnded(flight.key, metrics))
            elif "completion" in report:
                self._finish(flight, Completion(**report["completion"]))
            else:
                self._finish(flight, Failure(**report["failure"]))

    def ended(self, trial_id: str) -> None:
        """Tune is done with the run and its worker is free."""
        self._flights.pop(trial_id, None)
        self._ask_again = 0.0

    def lost(self, trial: Any) -> None:
        """Tune's error path: the worker died, or retired after a failure that it had reported."""
        flight = self._flights.get(trial.trial_id)
        if flight and not flight.finished:
            failure = loss_of(*tune_error(trial))
            if flight.overdue:
                failure = Failure(
                    "hung",
                    f"the run was silent for {self.deadline_seconds:g} s, so its worker was killed",
                )
            with passing_errors():
                self._finish(flight, failure)
        self.ended(trial.trial_id)

    def check(self) -> None:
        """Raises the interrupt that came, and kills workers that hang."""
        if self.interrupted:
            raise KeyboardInterrupt(self.interrupted)
        # While this process was itself held up, by its database or by a person, no worker's word
        # could be heard.
        now = time.monotonic()
        held_up, self._checked = now - self._checked, now
        if held_up > _HELD_UP_SECONDS:
            for flight in self._flights.values():
                flight.heard += held_up
        if self.deadline_seconds is None:
            return
        for flight in self._flights.values():
            silent = time.monotonic() - flight.heard
            if flight.trial and not flight.overdue and silent > self.deadline_seconds:
                flight.overdue = True
                ray.kill(flight.trial.temporary_state.ray_actor)

    def _finish(self, flight: Flight, outcome: Outcome) -> None:
        flight.finished = True
        if isinstance(outcome, Failure):
            failures = (*flight.failures, outcome)
            size = flight.assignment.config.training.batch_size
            attempt = next_attempt(failures, size, was_alone=not flight.company)
            if attempt is not None:
                self._retry(flight, failures, attempt)
                return
            outcome = verdict(failures)
        self.work.finish(flight.key, outcome)
        self.on_event(Finished(flight.key, outcome))

    def _retry(self, flight: Flight, failures: tuple[Failure, ...], attempt: Attempt) -> None:
        self.work.retried(flight.key, failures[-1])
        self.on_event(Retried(flight.key, failures[-1], attempt))
        assignment = replace(flight.assignment, pieces=attempt.pieces)
        # Still in company if it ever was: what was no remedy once is none later.
        self._again.append(Flight(assignment, attempt, failures, flight.company))

    def _room(self) -> bool:
        """Whether a run that is asked for now would get a place at once.

        An asked run is a RUNNING row of the study, so it should not wait in Ray's queue. On a
        cluster that others use as well, one may: that is how a place is reserved.

        Raises:
            Stop: there is no machine any more, so no run would ever get a place.
        """
        unplaced = [flight for flight in self._flights.values() if not flight.trial]
        if unplaced or not self._flights:
            self._require_machine(unplaced)
        if len(self._flights) >= self.place.count():
            return False
        if any(flight.attempt.alone for flight in unplaced):
            # Whatever started now would take the place that it waits for.
            return False
        if any(flight.attempt.alone for flight in self._flights.values()):
            return self.place.free() >= 1
        waiting = sum(flight.trial is None for flight in self._flights.values())
        return waiting == 0 or waiting < self.place.free()

    def _require_machine(self, unplaced: list[Flight]) -> None:
        """Ends the launch where a run would wait for a machine that is gone, without a word.

        Raises:
            Stop: no machine is as large as what a run needs.
        """
        machines = machines_up()
        wanted = [flight.needs for flight in unplaced if flight.needs]
        for needs in wanted or [{"CPU": self.place.cpus, "GPU": self.place.gpus}]:
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
