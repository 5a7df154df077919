"""The driver's side of the executor: it starts runs and gives the workers' reports to the Work."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, assert_never

from hpsearch.executor.attempts import Attempt, Event, Retried, final_failure, next_attempt
from hpsearch.executor.cluster import free_resources, machines_up, unusable_for_temporary_files
from hpsearch.executor.failures import failure_from_tune, tune_error
from hpsearch.executor.placement import Placement
from hpsearch.executor.ray_private import kill_worker
from hpsearch.runs.messages import (
    Assignment,
    EpochEnded,
    Failure,
    Finished,
    Outcome,
    Paused,
    Report,
    Started,
    Work,
)
from hpsearch.system.errors import HpsearchError


class Stop(BaseException):
    """Carries an error through Tune, which would catch or change an ``Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class ActiveRun:
    """A run that the driver has given to Tune.

    Attributes:
        assignment: the network to train.
        attempt: the current attempt.
        failures: the failures of earlier attempts.
        had_neighbours: whether other runs trained at the same time, in an attempt not made alone.
        needs: the resources of a run that must be alone; empty for other runs.
        trial: Tune's record of the run; ``None`` until a worker has started it.
        last_report: time of the worker's last report (monotonic seconds).
        finished: whether the Work has received the outcome.
        overdue: whether the worker sent no report in time and was killed.
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


_BLOCKED_SECONDS = 5.0
"""If two checks are further apart than this, the driver itself was blocked."""


_FOLDER_SECONDS = 5.0
"""Time between two checks of the folder for temporary files."""


@dataclass
class Driver:
    """Gives runs of the Work to Tune, and the workers' reports to the Work.

    Attributes:
        work: assigns the runs and receives their results.
        on_event: called for each event after the Work.
        placement: what each run is given, and how many runs train at a time.
        interrupted: number of the signal that came; 0 if none has.
        folder: for temporary files; ``None`` if it need not be checked.
    """

    work: Work
    on_event: Callable[[Event], None]
    placement: Placement
    interrupted: int = 0
    folder: Path | None = None
    _runs: dict[str, ActiveRun] = field(default_factory=dict)
    _to_retry: list[ActiveRun] = field(default_factory=list)
    _ask_again: float = 0.0
    _checked: float = field(default_factory=time.monotonic)
    _asks_work: bool = False
    _folder_checked: float = field(default_factory=time.monotonic)

    @property
    def ray_is_silent_for(self) -> float:
        """Seconds since Ray last gave back control; 0 while the Work is called."""
        return 0.0 if self._asks_work else time.monotonic() - self._checked

    @contextmanager
    def _asking_work(self) -> Iterator[None]:
        """Call the Work, whose errors pass through Tune."""
        self._asks_work = True
        try:
            with passing_errors():
                yield
        finally:
            self._checked, self._asks_work = time.monotonic(), False

    def next(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next run for Tune; ``None`` if there is no run or no room now."""
        self.check()
        if not self._room():
            return None
        run = self._to_retry.pop(0) if self._to_retry else self._next_of_work()
        if run is None:
            return None
        self._runs[trial_id] = run
        for active in self._runs.values():
            if not active.attempt.alone:
                active.had_neighbours = active.had_neighbours or len(self._runs) > 1
        # As text, because Tune searches nested dictionaries for values to sample.
        config: dict[str, Any] = {"assignment": json.dumps(run.assignment.to_dict())}
        if run.attempt.alone:
            run.needs = self.placement.alone(machines_up())
            config |= {"cpus": run.needs["CPU"], "gpus": run.needs["GPU"]}
        return config

    def _next_of_work(self) -> ActiveRun | None:
        if time.monotonic() < self._ask_again:
            return None
        with self._asking_work():
            assignment = self.work.next()
        if assignment is None:
            # Tune asks ten times a second, and the Work may have to read a database. So it is
            # asked again after a second, or when a run ends.
            self._ask_again = time.monotonic() + 1.0
            return None
        return ActiveRun(assignment)

    @property
    def finished(self) -> bool:
        """Whether no run is active and none is left to start."""
        if self._runs or self._to_retry:
            return False
        with self._asking_work():
            return self.work.finished

    def placed(self, trial: Any) -> None:
        """Record that a worker has started the run."""
        run = self._runs[trial.trial_id]
        run.trial, run.last_report = trial, time.monotonic()

    def reported(self, trial_id: str, report: Report) -> None:
        """Give a worker's report to the Work."""
        run = self._runs[trial_id]
        run.last_report = time.monotonic()
        with self._asking_work():
            match report:
                case Started():
                    self.work.started(run.key, report.facts)
                    for earlier in report.epochs:
                        self.work.epoch(run.key, earlier)
                    self.on_event(report)
                case EpochEnded():
                    self.work.epoch(run.key, report.metrics)
                    self.on_event(report)
                case Paused():
                    run.finished = True
                    self.work.paused(run.key, report.epoch)
                    self.on_event(report)
                case Finished():
                    self._finish(run, report.outcome)
                case _:
                    assert_never(report)

    def ended(self, trial_id: str) -> None:
        """Record that Tune has ended the run; its worker is free."""
        self._runs.pop(trial_id, None)
        self._ask_again = 0.0

    def lost(self, trial: Any) -> None:
        """Handle an error of Tune: the worker died, or ended after it had reported a failure."""
        run = self._runs.get(trial.trial_id)
        if run and not run.finished:
            failure = failure_from_tune(*tune_error(trial))
            if run.overdue:
                failure = Failure(
                    "hung",
                    f"the run sent no report for {self.placement.deadline_seconds:g} s, so its "
                    "worker was killed",
                )
            with self._asking_work():
                self._finish(run, failure)
        self.ended(trial.trial_id)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` after a signal, and kill workers that hang.

        Raises:
            Stop: Ray cannot start a worker.
        """
        if self.interrupted:
            raise KeyboardInterrupt(self.interrupted)
        # No report could arrive while this process was blocked or suspended, so that time does
        # not count.
        now = time.monotonic()
        blocked, self._checked = now - self._checked, now
        if blocked > _BLOCKED_SECONDS:
            for run in self._runs.values():
                run.last_report += blocked
        self._check_folder(now)
        if self.placement.deadline_seconds is None:
            return
        for run in self._runs.values():
            silent = time.monotonic() - run.last_report
            if run.trial and not run.overdue and silent > self.placement.deadline_seconds:
                run.overdue = True
                kill_worker(run.trial)

    def _check_folder(self, now: float) -> None:
        """End the launch if a run waits and no temporary file can be written.

        Ray cannot start a worker then, and would try for ever without a word.

        Raises:
            Stop: the disk is full, or the folder cannot be written.
        """
        waits = any(not run.trial for run in self._runs.values())
        if self.folder is None or not waits or now - self._folder_checked < _FOLDER_SECONDS:
            return
        self._folder_checked = now
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(bytes(4096))
        except OSError as error:
            raise Stop(unusable_for_temporary_files(self.folder.parent, error)) from None

    def _finish(self, run: ActiveRun, outcome: Outcome) -> None:
        run.finished = True
        if isinstance(outcome, Failure):
            failures = (*run.failures, outcome)
            size = run.assignment.config.training.batch_size
            attempt = next_attempt(failures, size, was_alone=not run.had_neighbours)
            if attempt is not None:
                self._retry(run, failures, attempt)
                return
            outcome = final_failure(failures)
        self.work.finish(run.key, outcome)
        self.on_event(Finished(run.key, outcome))

    def _retry(self, run: ActiveRun, failures: tuple[Failure, ...], attempt: Attempt) -> None:
        self.work.retried(run.key, failures[-1])
        self.on_event(Retried(run.key, failures[-1], attempt))
        assignment = replace(run.assignment, pieces=attempt.pieces)
        # Once a run has had neighbours, running alone is tried only once.
        self._to_retry.append(ActiveRun(assignment, attempt, failures, run.had_neighbours))

    def _room(self) -> bool:
        """Whether another run could start at once.

        A run that is taken from the Work is a RUNNING row in the store, so it should not wait in
        Ray's queue. On a shared cluster one run may wait there, to reserve a place.

        Raises:
            Stop: no machine is left that could train a run.
        """
        unplaced = [run for run in self._runs.values() if not run.trial]
        if unplaced or not self._runs:
            self._require_machine(unplaced)
        if len(self._runs) >= self.placement.places(machines_up()):
            return False
        if any(run.attempt.alone for run in unplaced):
            # Another run would take the place that this one waits for.
            return False
        if any(run.attempt.alone for run in self._runs.values()):
            return self._free_places() >= 1
        return not unplaced or len(unplaced) < self._free_places()

    def _free_places(self) -> int:
        """Return about how many runs could start now; other users may share the cluster."""
        return self.placement.fitting(free_resources())

    def _require_machine(self, unplaced: list[ActiveRun]) -> None:
        """End the launch if a run would wait for ever, because its machine is gone.

        Raises:
            Stop: no machine is large enough for a run.
        """
        machines = machines_up()
        wanted = [run.needs for run in unplaced if run.needs]
        for needs in wanted or [self.placement.resources]:
            if not any(all(m.get(k, 0.0) >= v for k, v in needs.items()) for m in machines):
                size = " and ".join(f"{value:g} {name}s" for name, value in needs.items() if value)
                reason = (
                    f"no machine of the Ray cluster has {size} for a run any more: a machine or "
                    "its raylet has died; run the same command again to continue"
                )
                raise Stop(HpsearchError(reason))


@contextmanager
def passing_errors() -> Iterator[None]:
    """Wrap errors of the Work in `Stop`, so that they pass through Tune."""
    try:
        yield
    except Exception as error:
        raise Stop(error) from error
