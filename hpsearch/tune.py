"""Ray Tune as a stateless executor: trains the assignments of any ``Work`` on Ray's workers.

The only module that imports ray. Tune chooses where a run goes and notices when its process dies;
it remembers nothing: every call makes a fresh ``Tuner`` whose files are removed at the end, and
what continues a run is the run's own checkpoint folder. The ``Work`` stays in the driver's process:
it is asked by a searcher and told by a callback, which both pickle as nothing, since Tune writes
either to disk and the ``Work`` may hold a store's URL.

A worker tells the driver about a run in reports, one a step: what it is (:class:`RunFacts`, with
the epochs of an earlier launch), each epoch, and how it ended.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch import credentials
from hpsearch.attempts import Attempt, next_attempt, verdict
from hpsearch.errors import HpsearchError, InputError, disk_full
from hpsearch.process import forget_peak, peak_memory, prepare_worker, worker_environment
from hpsearch.runs import (
    Assignment,
    Completion,
    EpochMetrics,
    Failure,
    FailureKind,
    Outcome,
    RunFacts,
    Work,
)

if TYPE_CHECKING:
    from hpsearch.data.molecule import Molecules

# Ray reads most of these while it is imported.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    # `uv run` would make Ray pack and upload the working folder.
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    # Ray prints the death of a worker even where the workers' own output is switched off.
    RAY_DEDUP_LOGS_SKIP_REGEX=".",
    # Short of memory, Ray would kill several workers at once and not only the newest.
    RAY_worker_killing_policy_by_group="true",
    # Tune's own result files and messages: the Work keeps the results, the caller prints.
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    # Tune would wait up to 15 s for the epochs in progress; :func:`_end_at_signals` ends at once.
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # Snapshots of Tune's state, from which nothing is ever restored.
    TUNE_GLOBAL_CHECKPOINT_S=str(10**9),
)

import ray
from ray import cloudpickle
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import (
    Callback,
    CheckpointConfig,
    FailureConfig,
    PlacementGroupFactory,
    RunConfig,
    Trainable,
    TuneConfig,
    Tuner,
)
from ray.tune.search import Searcher


@dataclass(frozen=True)
class Started:
    """A worker has built the run's network and data, or continues from its checkpoint."""

    key: str
    facts: RunFacts


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of the run has ended."""

    key: str
    metrics: EpochMetrics


@dataclass(frozen=True)
class Retried:
    """The run failed and is tried again, from its last checkpoint."""

    key: str
    failure: Failure
    attempt: Attempt


@dataclass(frozen=True)
class Finished:
    """The run has ended, well or not."""

    key: str
    outcome: Outcome


Event = Started | EpochEnded | Retried | Finished
"""What a caller may print while the runs go on; the Work has been told already."""


def run(
    work: Work,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    max_concurrent: int | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    device: str | None = None,
    address: str | None = None,
    scratch: Path | None = None,
    deadline_seconds: float | None = None,
) -> None:
    """Trains what ``work`` assigns until ``work.finished``.

    Args:
        work: the assignments, and where their results go; called from this thread only.
        on_event: told of every start, epoch and end, after ``work`` has been.
        max_concurrent: most runs at a time; ``None`` takes as many as the cluster has room for.
        cpus_per_run: CPU cores of a run; a fraction shares a core.
        gpus_per_run: GPUs of a run; a fraction shares a GPU, above one it must be whole.
        device: torch's device in the worker; ``None`` takes ``cuda`` where runs are given GPUs
            and ``cpu`` elsewhere.
        address: ``host:port`` of a running Ray cluster, or ``auto``; ``None`` starts one on this
            machine and ends it afterwards.
        scratch: folder for Ray's temporary files; the system's when ``None``, and ``/tmp`` where
            the path is too long for Ray's sockets.
        deadline_seconds: longest silence of a run, an epoch's length say, after which its worker
            is killed as hanging; ``None`` waits for ever.

    A run that is short of memory, or whose worker dies or hangs, is tried again as
    `hpsearch.attempts` has it before ``work`` hears of a failure.

    Raises:
        InputError: a run needs more than any machine of the cluster has, or the cluster cannot
            be reached. Nothing has been asked of ``work``.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came, its number is the argument; the workers
            are down, their runs have not been finished.
        HpsearchError: Ray itself failed.
        Exception: whatever ``work`` or ``on_event`` raised, once the workers are down.
    """
    _check_request(max_concurrent, cpus_per_run, gpus_per_run, deadline_seconds, device)
    place = _Place(cpus_per_run, gpus_per_run)
    driver = _Driver(work, on_event, place, deadline_seconds)
    with (
        _handlers_put_back(),
        _scratch(scratch) as folder,
        _cluster(address, folder, cpus_per_run) as see_to_the_end,
        _memory_kills_are_deaths(),
    ):
        _end_at_signals(driver, see_to_the_end)
        place.check(_machines())
        tuner = Tuner(
            _Worker,
            param_space={
                "cpus": cpus_per_run,
                "gpus": gpus_per_run,
                "threads": cpus_per_run,
                "device": device_of(device, gpus_per_run),
            },
            tune_config=TuneConfig(
                search_alg=_Asking(driver),
                num_samples=-1,
                # Without a limit the driver's own holds, which moves with the cluster; but with no
                # number here Tune would let workers start only one after the other.
                max_concurrent_trials=max_concurrent or _NO_LIMIT,
                reuse_actors=True,
                trial_dirname_creator=_trial_directory,
            ),
            run_config=RunConfig(
                name="runs",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=0),
                # A class Trainable is saved at its end unless told otherwise; a run saves itself.
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Telling(driver)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except _Stop as stop:
            raise stop.error from None
        except (HpsearchError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise HpsearchError(f"Ray Tune failed: {_one_line(error)}") from error


def device_of(device: str | None, gpus_per_run: float) -> str:
    """torch's device in the worker: what was asked for, else what the run was given."""
    return device or ("cuda" if gpus_per_run > 0 else "cpu")


_NO_LIMIT = 100_000

_HELD_UP_SECONDS = 5.0
"""Longest time between two looks of a driver that is not held up."""


def check_placement(
    *,
    max_concurrent: int | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    device: str | None = None,
    address: str | None = None,
    deadline_seconds: float | None = None,
) -> int:
    """Refuses what :func:`run` would refuse; for callers that write something before they run.

    Args:
        max_concurrent: as for :func:`run`.
        cpus_per_run: as for :func:`run`.
        gpus_per_run: as for :func:`run`.
        device: as for :func:`run`.
        address: as for :func:`run`; ``None`` counts what this machine has.
        deadline_seconds: as for :func:`run`.

    Returns:
        How many runs would go on side by side.

    Raises:
        InputError: as :func:`run`.
    """
    _check_request(max_concurrent, cpus_per_run, gpus_per_run, deadline_seconds, device)
    place = _Place(cpus_per_run, gpus_per_run)
    if address is None:
        # What Ray will count when it starts, which takes seconds.
        machines = [ResourceAndLabelSpec().resolve(is_head=True).to_resource_dict()]
        place.check(machines)
    else:
        with (
            _handlers_put_back(),
            _scratch(None) as folder,
            _cluster(address, folder, cpus_per_run),
        ):
            machines = _machines()
            place.check(machines)
    return min(sum(place.fitting(machine) for machine in machines), max_concurrent or _NO_LIMIT)


# The driver's side


class _Stop(BaseException):
    """Carries an error of the Work through Tune, which swallows or rewrites an ``Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class _Place:
    """What one run occupies.

    Attributes:
        cpus: CPU cores.
        gpus: GPUs.
    """

    cpus: float
    gpus: float

    def fitting(self, resources: dict[str, float]) -> int:
        """How many runs fit beside each other into ``resources``."""
        cpu_places = math.floor(resources.get("CPU", 0.0) / self.cpus + 1e-6)
        if self.gpus == 0:
            return cpu_places
        return min(cpu_places, math.floor(resources.get("GPU", 0.0) / self.gpus + 1e-6))

    def whole(self) -> dict[str, float]:
        """What a run occupies that shall be alone: its GPU, or a machine's cores."""
        if self.gpus > 0:
            return {"cpus": self.cpus, "gpus": max(self.gpus, 1.0)}
        cores = [m.get("CPU", 0.0) for m in _machines() if self.fitting(m)]
        return {"cpus": max(cores, default=self.cpus), "gpus": 0.0}

    def count(self) -> int:
        """How many runs fit into the machines that are up."""
        return sum(self.fitting(machine) for machine in _machines())

    def free(self) -> int:
        """About how many runs could start now; others may use the cluster too."""
        return self.fitting(ray.available_resources())

    def check(self, machines: list[dict[str, float]]) -> None:
        """Refuses a run that would wait for ever.

        Raises:
            InputError: none of the machines is large enough.
        """
        if any(self.fitting(machine) for machine in machines):
            return
        sizes = sorted({(m.get("CPU", 0.0), m.get("GPU", 0.0)) for m in machines}, reverse=True)
        found = " or ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sizes)
        raise InputError(
            f"a run must fit into one machine; it was given {self.cpus:g} CPUs and "
            f"{self.gpus:g} GPUs, but Ray's machines have {found or 'nothing'}; give a run less "
            "(--cpus-per-trial, --cpus-per-run, --gpus-per-trial, --gpus-per-run)"
        )


def _machines() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass
class _Flight:
    """A run that Tune has and the driver waits for.

    Attributes:
        assignment: what is run.
        attempt: how.
        failures: of the attempts before.
        company: whether another run was under way beside its first attempt.
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


@dataclass
class _Driver:
    """Stands between the Work and Tune: who is asked when, and who is told what."""

    work: Work
    on_event: Callable[[Event], None]
    place: _Place
    deadline_seconds: float | None
    interrupted: int = 0
    _flights: dict[str, _Flight] = field(default_factory=dict)
    _again: list[_Flight] = field(default_factory=list)
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
            if one.attempt.number == 1:
                one.company = one.company or len(self._flights) > 1
        # Text, because Tune looks into nested dictionaries for values to resolve.
        config: dict[str, Any] = {"assignment": json.dumps(flight.assignment.to_dict())}
        if flight.attempt.alone:
            config |= (whole := self.place.whole())
            flight.needs = {"CPU": whole["cpus"], "GPU": whole["gpus"]}
        return config

    def _asked(self) -> _Flight | None:
        if time.monotonic() < self._ask_again:
            return None
        with _passing_errors():
            assignment = self.work.next()
        if assignment is None:
            # Only the end of a run changes the answer, as far as this process can know; but Tune
            # asks ten times a second, and the Work may have to look into a database.
            self._ask_again = time.monotonic() + 1.0
            return None
        return _Flight(assignment)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to start and nothing runs."""
        if self._flights or self._again:
            return False
        with _passing_errors():
            return self.work.finished

    def placed(self, trial: Any) -> None:
        """A worker takes the run up."""
        flight = self._flights[trial.trial_id]
        flight.trial, flight.heard = trial, time.monotonic()

    def told(self, trial_id: str, report: dict[str, Any]) -> None:
        """A worker has spoken."""
        flight = self._flights[trial_id]
        flight.heard = time.monotonic()
        with _passing_errors():
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
            failure = _loss(*_tune_error(trial))
            if flight.overdue:
                failure = Failure(
                    "hung",
                    f"the run was silent for {self.deadline_seconds:g} s, so its worker was killed",
                )
            with _passing_errors():
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

    def _finish(self, flight: _Flight, outcome: Outcome) -> None:
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

    def _retry(self, flight: _Flight, failures: tuple[Failure, ...], attempt: Attempt) -> None:
        self.work.retried(flight.key, failures[-1])
        self.on_event(Retried(flight.key, failures[-1], attempt))
        assignment = replace(flight.assignment, pieces=attempt.pieces)
        # Still in company if it ever was: what was no remedy once is none later.
        self._again.append(_Flight(assignment, attempt, failures, flight.company))

    def _room(self) -> bool:
        """Whether a run that is asked for now would get a place at once.

        An asked run is a RUNNING row of the study, so it should not wait in Ray's queue. On a
        cluster that others use as well, one may: that is how a place is reserved.

        Raises:
            _Stop: there is no machine any more, so no run would ever get a place.
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

    def _require_machine(self, unplaced: list[_Flight]) -> None:
        """Ends the launch where a run would wait for a machine that is gone, without a word.

        Raises:
            _Stop: no machine is as large as what a run needs.
        """
        machines = _machines()
        wanted = [flight.needs for flight in unplaced if flight.needs]
        for needs in wanted or [{"CPU": self.place.cpus, "GPU": self.place.gpus}]:
            if not any(all(m.get(k, 0.0) >= v for k, v in needs.items()) for m in machines):
                size = " and ".join(f"{value:g} {name}s" for name, value in needs.items() if value)
                reason = (
                    f"no machine of Ray's is left that has {size} for a run: one has died, or its "
                    "raylet; the same command goes on"
                )
                raise _Stop(HpsearchError(reason))


@contextmanager
def _passing_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Stop(error) from error


class _Asking(Searcher):  # type: ignore[misc]
    """Tune's searcher: hands on what the Work assigns."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._driver.finished:
            return str(Searcher.FINISHED)
        return self._driver.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: :class:`_Telling` hears of it with the trial's error."""

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: there is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Telling(Callback):  # type: ignore[misc]
    """Tune's callback: tells the driver what the workers report."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self._driver.check()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._driver.placed(trial)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._driver.told(trial.trial_id, json.loads(result["report"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._driver.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._driver.lost(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _trial_directory(trial: Any) -> str:
    return str(trial.trial_id)


def _tune_error(trial: Any) -> tuple[str, bool]:
    """The error with which Tune gave up ``trial``, and whether it was raised in the worker.

    Read from the trial's folder, where Tune has just put it and whence callbacks are to take it.
    """
    text, raised = "", False
    with suppress(OSError):
        text = Path(trial.error_file).read_text()
        # A heading with the number of the failure and the time.
        text = text.partition("\n")[2].strip()
    with suppress(Exception), Path(trial.pickled_error_file).open("rb") as file:
        raised = isinstance(cloudpickle.load(file), RayTaskError)
    return text, raised


def _loss(text: str, raised: bool) -> Failure:
    """The failure behind an error that reached Tune instead of a report."""
    if raised:
        return Failure("exception", _last_line(text), text)
    # No more of Ray's text than needed: it lists the machine's processes with their arguments, and
    # among these may be a store's URL.
    if "running low on memory" in text:
        used = re.search(r"\S+ used / \S+ limit", text)
        return Failure(
            "out_of_memory",
            "Ray killed the worker because its machine ran low on memory"
            + (f" ({used.group()})" if used else ""),
        )
    detail = text.partition("Worker exit detail:")[2] or text
    # Ray goes on to list what may have happened, the same list for every death.
    detail = " ".join(detail.partition("Some common causes include")[0].split())
    return Failure("worker_lost", f"the worker process died: {detail or 'Ray gives no reason'}")


@contextmanager
def _memory_kills_are_deaths() -> Iterator[None]:
    """Has Tune take a worker killed for its machine's memory as it takes any dead worker.

    Ray 2.60 raises an error of another family for such a kill, at which Tune's actor manager gives
    up the whole experiment and with it the neighbours.
    """
    original = RayActorManager._actor_task_failed

    def actor_task_failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=str(exception))
        original(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = actor_task_failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original


# The worker's side


class _RetiredError(Exception):
    """The worker must not take another run."""


class _Worker(Trainable):  # type: ignore[misc]
    """A process that trains one assignment after another; a step is one report."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        bundle = {"CPU": config["cpus"]}
        if config["gpus"] > 0:
            bundle["GPU"] = config["gpus"]
        return PlacementGroupFactory([bundle])

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Nothing slow here, torch's import least of all: a worker that is free takes the run of
        # one that is still starting, and Tune then ends the latter, which would leave runs shorter
        # than a start to a single worker.
        assignment = Assignment.from_dict(json.loads(new_config["assignment"]))
        self._reports: Iterator[dict[str, Any]] = _reports(
            assignment, new_config["threads"], new_config["device"]
        )
        return True

    def step(self) -> dict[str, Any]:
        report = next(self._reports, None)
        if report is None:
            raise _RetiredError
        # After a failure the process may be spoilt (a CUDA error stays, memory is in pieces), so
        # it says so and, asked to go on, leaves. A divergence harms nothing.
        spoilt = "failure" in report and report["failure"]["kind"] != "diverged"
        ended = "completion" in report or "failure" in report
        if ended:
            # Frees the network now: the process may stay idle while others share its GPU.
            self._reports = iter(())
        return {"report": json.dumps(report), "done": ended and not spoilt}


def _reports(assignment: Assignment, cpus: float, device: str) -> Iterator[dict[str, Any]]:
    """Trains one run, yielding what the driver is to know of it."""
    prepare_worker(cpus)
    from hpsearch.train import NonFiniteLoss, Training

    training = None
    try:
        _check_device(device)
        is_own_peak = forget_peak(device)
        training = Training(
            assignment.config,
            _molecules(),
            Path(assignment.directory),
            device=device,
            pieces=assignment.pieces,
        )
        _check_split(assignment, training.facts)
        facts = replace(training.facts, device=training.facts.device + _gpu())
        # The driver that heard of the earlier epochs may have died before it wrote them down.
        yield {"facts": asdict(facts), "epochs": [asdict(e) for e in training.history]}
        while not training.finished:
            yield {"epoch": asdict(training.run_epoch())}
        completion = training.complete(assignment.evaluate_test)
        peak = peak_memory(device) if is_own_peak else None
        yield {"completion": asdict(replace(completion, peak_memory_bytes=peak))}
    except NonFiniteLoss as error:
        failure = Failure("diverged", str(error), epoch=error.epoch, step=error.step)
        yield {"failure": asdict(failure)}
    except Exception as error:
        epoch = training.epochs_done + 1 if training else None
        kind, message = _diagnosis(error)
        yield {"failure": asdict(Failure(kind, message, traceback.format_exc(), epoch))}


@functools.cache
def _molecules() -> Molecules:
    """The molecules, opened once in a process: its runs, and those of others, share the pages."""
    from hpsearch.data import qm9

    return qm9.load()


def _gpu() -> str:
    """Which GPU Ray has given to this process, for the run's record; nothing without one."""
    context = ray.get_runtime_context()
    identifiers = context.get_accelerator_ids().get("GPU", [])
    if not identifiers:
        return ""
    return f", GPU {'+'.join(identifiers)} of node {context.get_node_id()[:8]}"


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"the run was given a GPU, but torch sees no CUDA device on {socket.gethostname()}; "
            "install a build of torch for its GPU, or run on the CPU (--device cpu)"
        )


def _check_split(assignment: Assignment, facts: RunFacts) -> None:
    if assignment.expected_split not in (None, facts.split_hash):
        raise InputError(
            f"the run must use the split {assignment.expected_split}, but its data configuration "
            f"gives the split {facts.split_hash} on this machine; the molecules, the split file or "
            "the code that cuts the split have changed"
        )


def _diagnosis(error: Exception) -> tuple[FailureKind, str]:
    """Kind and one-line message of an exception that ended a run."""
    kind: FailureKind = "exception"
    if disk_full(error):
        kind = "disk_full"
    elif _short_of_memory(error):
        kind = "out_of_memory"
    said = _one_line(error)
    return kind, said if isinstance(error, HpsearchError) else f"{type(error).__name__}: {said}"


def _short_of_memory(error: BaseException | None) -> bool:
    """Whether ``error``, or what it was raised for, is a want of memory."""
    import torch

    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        # torch raises a plain RuntimeError when the host's memory does not suffice.
        text = str(error).lower()
        if isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


_OUT_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    # What oneDNN says; where it means another thing, the tries for want of memory are few.
    "could not create a primitive",
)


# The cluster and its temporary files


def _check_request(
    max_concurrent: int | None,
    cpus: float,
    gpus: float,
    deadline_seconds: float | None,
    device: str | None,
) -> None:
    if device not in (None, "cpu", "cuda"):
        raise InputError(
            f"the device must be cpu or cuda, got '{device}'; leave it out for cuda where runs are "
            "given GPUs"
        )
    if device == "cuda" and gpus == 0:
        raise InputError(
            "a run on cuda must be given a GPU or a part of one, got 0 GPUs; give it some "
            "(--gpus-per-trial, --gpus-per-run)"
        )
    if max_concurrent is not None and max_concurrent < 1:
        raise InputError(f"the runs at a time must be at least 1; got {max_concurrent}")
    if not 0 < cpus < math.inf:
        raise InputError(f"the CPUs of a run must be above 0; got {cpus:g}")
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
        raise InputError(
            f"the GPUs of a run must be 0, a fraction of one or a whole number; got {gpus:g}"
        )
    if deadline_seconds is not None and not deadline_seconds > 0:
        raise InputError(f"the deadline of an epoch must be above 0 s; got {deadline_seconds:g}")


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """A fresh folder, removed at the end; its path is short enough for Ray's sockets."""
    parent = parent or Path(tempfile.gettempdir())
    # A socket's path may have 107 bytes, of which Ray's own names take up to 70.
    if len(os.fsencode(parent.resolve())) > 26:
        parent = Path("/tmp")
    try:
        folder = Path(tempfile.mkdtemp(prefix="hps", dir=parent))
    except OSError as error:
        raise InputError(
            f"the folder for temporary files, {parent}, must be writable: {error.strerror}"
        ) from None
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Removes ``folder``, which a process of Ray's that is ending may still write into."""
    for _ in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.25)


@contextmanager
def _cluster(address: str | None, folder: Path, cpus: float) -> Iterator[Callable[[int], None]]:
    """Ray, connected to ``address`` or started on this machine, and left again.

    Yields:
        What a handler of signals calls, with the number, to have this process end in any case.
    """
    over = threading.Event()
    see_to_the_end = functools.partial(_see_to_the_end, folder, over)
    try:
        soon = functools.partial(see_to_the_end, grace_seconds=_STARTING_GRACE_SECONDS)
        with _signals_wait(soon):
            _connect(address, folder, cpus)
        yield see_to_the_end
    finally:
        _ignore_signals()
        ray.shutdown()
        _see_off(folder)
        over.set()


def _connect(address: str | None, folder: Path, cpus: float) -> None:
    environment = {**worker_environment(cpus), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    own: dict[str, Any] = {}
    if address is None:
        own = {
            "include_dashboard": False,
            "_temp_dir": str(folder),
            # The smallest that Ray takes: reports are short texts, data does not pass through.
            "object_store_memory": 80 * 2**20,
        }
        # What torch and others write beside their work goes when the cluster goes.
        environment["TMPDIR"] = str(folder)
    _check_reachable(address)
    try:
        # Ray's processes inherit the environment, and the workers inherit theirs.
        with credentials.withheld(), _without_rays_handlers():
            ray.init(
                address=address or "local",
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
                **own,
            )
    except Exception as error:  # Ray raises the plain class where its servers do not come up
        if address is None:
            raise HpsearchError(f"Ray could not be started: {_one_line(error)}") from error
        raise _unreachable(address, error) from None


def _processes_of(folder: Path) -> list[int]:
    """Every process of the cluster in ``folder`` that has not ended, whoever its parent is by now.

    Known by the logs there that it has open; names and environments are overwritten by some.
    """
    inside = f"{folder}/"
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) != os.getpid() and any(
            file.startswith(inside) for file in _open_files(entry)
        ):
            found.append(int(entry.name))
    return found


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # it has ended, or is another user's
        for file in (process / "fd").iterdir():
            with suppress(OSError):  # it has been closed
                yield str(file.readlink())


def _kill_all(folder: Path) -> None:
    for process in _processes_of(folder):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _see_off(folder: Path) -> None:
    """Kills what a cluster that was shut down leaves behind.

    An agent whose raylet was killed looks for the head of the cluster for another minute.
    """
    deadline = time.monotonic() + _LEAVING_SECONDS
    while _processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    _kill_all(folder)


_LEAVING_SECONDS = 3.0


def _check_reachable(address: str | None) -> None:
    """Tries the address for some seconds; Ray would go on trying for more than five minutes."""
    if address is not None and address.startswith("ray://"):
        raise InputError(
            f"the address must be host:port of the cluster's head, or auto; got '{address}', "
            "a Ray client's address, which cannot run a search"
        )
    host, _, port = (address or "").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"no Ray cluster answers at '{address}': {_one_line(error)}; start one with "
        "`ray start --head`, or leave the address out"
    )


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; a batch system or ``kill``; a terminal that closes."""


@contextmanager
def _handlers_put_back() -> Iterator[None]:
    """Undoes at the end what Ray, Tune and :func:`_end_at_signals` did to signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in (*_SIGNALS, signal.SIGUSR1)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _end_at_signals(driver: _Driver, see_to_the_end: Callable[[int], None]) -> None:
    """Turns the first signal to end into an interrupt between two calls of the Work.

    A second one interrupts at once; ``see_to_the_end`` runs beside from the first on. To be called
    once Ray is up: its own handler of SIGTERM prints a stack and leaves its processes and files
    behind.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def at_once(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    def between_calls(number: int, frame: Any) -> None:
        driver.interrupted = number
        signal.signal(number, at_once)
        threading.Thread(target=see_to_the_end, args=(number,), daemon=True).start()

    for name in _SIGNALS:
        # `nohup` has SIGHUP ignored, and it should stay so.
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, between_calls)


@contextmanager
def _signals_wait(see_to_the_end: Callable[[int], None]) -> Iterator[None]:
    """Has a signal interrupt after the few seconds in which Ray starts; a second one, at once.

    Interrupted in the middle, Ray's libraries may wait a minute for a server that never came up,
    and then end the process themselves. Where the signal went to the servers as well, the start
    fails, and that is no error to tell. ``see_to_the_end`` runs beside from the first signal on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt(number)

    before = {name: signal.getsignal(name) for name in _SIGNALS}
    waited = [name for name, handler in before.items() if handler is not signal.SIG_IGN]
    for name in waited:
        signal.signal(name, note)
    try:
        with _told_at_once(waited, see_to_the_end), _kept(signal.SIGTERM):
            yield
    except Exception:
        if not came:
            raise
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    if came:
        raise KeyboardInterrupt(came[0])


@contextmanager
def _told_at_once(numbers: list[signal.Signals], tell: Callable[[int], None]) -> Iterator[None]:
    """Calls ``tell`` in a thread when the first of the signals comes.

    A handler would have to wait until the main thread is back from a call of Ray's.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        is_told = False
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while came := pipe.read(1):
                if came[0] in numbers and not is_told:
                    is_told = True
                    tell(came[0])

    threading.Thread(target=listen, daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


_LOOKS_SECONDS = 0.002


@contextmanager
def _kept(number: signal.Signals) -> Iterator[None]:
    """Puts the process's handler of a signal back as soon as a library has replaced it.

    While it connects Ray installs one in C that prints a stack and aborts, on whichever thread the
    signal comes, and so leaves its processes and files behind.
    """
    libc = ctypes.CDLL(None)
    ours = ctypes.create_string_buffer(1024)  # a struct sigaction, which has some 150 bytes
    libc.sigaction(int(number), None, ours)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(_LOOKS_SECONDS):
            libc.sigaction(int(number), ours, None)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


_GRACE_SECONDS = 10.0
"""Between a signal and the next step of :func:`_see_to_the_end`."""

_STARTING_GRACE_SECONDS = 4.0
"""The same while Ray starts, when there is nothing yet that takes long to end."""


def _see_to_the_end(
    folder: Path, over: threading.Event, number: int, grace_seconds: float | None = None
) -> None:
    """Ends this process where the interrupt does not: at once first, then by force.

    Where the signal came to Ray's own processes as well, as a batch system sends it, a call of
    Ray's may wait a minute for a server that is gone. Nothing is lost: every record is a
    transaction.
    """
    grace_seconds = grace_seconds or _GRACE_SECONDS
    if over.wait(grace_seconds):
        return
    os.kill(os.getpid(), number)
    if over.wait(grace_seconds):
        return
    words = "hpsearch: interrupted; Ray did not answer and was killed; the same command goes on\n"
    with suppress(OSError):
        os.write(2, words.encode())
    _kill_all(folder)
    _remove(folder)
    os._exit(128 + number)


def _ignore_signals() -> None:
    """Lets no signal interrupt the few seconds in which processes and files are removed."""
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            # Not SIG_IGN, which processes that are started meanwhile would inherit.
            signal.signal(name, lambda number, frame: None)


@contextmanager
def _without_rays_handlers() -> Iterator[None]:
    """Keeps the signal handlers that there are while Ray starts.

    Ray's own of SIGTERM, one in Python and, once it connects, one in C that prints a stack and
    aborts, would leave the command without its message and its temporary files in place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    worker, utilities = ray._private.worker, ray._private.utils
    connect, set_handler = worker.connect, utilities.set_sigterm_handler

    def connect_and_put_back(*arguments: Any, **options: Any) -> Any:
        handlers = {name: signal.getsignal(name) for name in _SIGNALS}
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return connect(*arguments, **options)
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    worker.connect, utilities.set_sigterm_handler = connect_and_put_back, lambda handler: None
    try:
        yield
    finally:
        worker.connect, utilities.set_sigterm_handler = connect, set_handler


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "Ray gives no reason"
