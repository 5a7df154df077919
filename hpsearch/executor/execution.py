"""A search or an ablation on Ray, from the cluster's start to its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from hpsearch.errors import HpsearchError
from hpsearch.executor.cluster import cluster, scratch_folder
from hpsearch.executor.driver import Driver, Stop
from hpsearch.executor.events import Event
from hpsearch.executor.failures import one_line
from hpsearch.executor.placement import NO_LIMIT, Place, check_request, device_of, machines_up
from hpsearch.executor.ray_private import memory_kills_are_deaths
from hpsearch.executor.signals import end_at_signals, handlers_put_back
from hpsearch.executor.worker import Worker
from hpsearch.runs.messages import Work


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
    `hpsearch.executor.attempts` has it before ``work`` hears of a failure.

    Raises:
        InputError: a run needs more than any machine of the cluster has, or the cluster cannot
            be reached. Nothing has been asked of ``work``.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came, its number is the argument; the workers
            are down, their runs have not been finished.
        HpsearchError: Ray itself failed.
        Exception: whatever ``work`` or ``on_event`` raised, once the workers are down.
    """
    check_request(max_concurrent, cpus_per_run, gpus_per_run, deadline_seconds, device)
    place = Place(cpus_per_run, gpus_per_run)
    driver = Driver(work, on_event, place, deadline_seconds)
    with (
        handlers_put_back(),
        scratch_folder(scratch) as folder,
        cluster(address, folder, cpus_per_run) as see_to_the_end,
        memory_kills_are_deaths(),
    ):
        end_at_signals(driver, see_to_the_end)
        place.check(machines_up())
        tuner = Tuner(
            Worker,
            param_space={
                "cpus": cpus_per_run,
                "gpus": gpus_per_run,
                "threads": cpus_per_run,
                "device": device_of(device, gpus_per_run),
            },
            tune_config=TuneConfig(
                search_alg=Asking(driver),
                num_samples=-1,
                # Without a limit the driver's own holds, which moves with the cluster; but with no
                # number here Tune would let workers start only one after the other.
                max_concurrent_trials=max_concurrent or NO_LIMIT,
                reuse_actors=True,
                trial_dirname_creator=trial_directory,
            ),
            run_config=RunConfig(
                name="runs",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=0),
                # A class Trainable is saved at its end unless told otherwise; a run saves itself.
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=[Telling(driver)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Stop as stop:
            raise stop.error from None
        except (HpsearchError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise HpsearchError(f"Ray Tune failed: {one_line(error)}") from error


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
    check_request(max_concurrent, cpus_per_run, gpus_per_run, deadline_seconds, device)
    place = Place(cpus_per_run, gpus_per_run)
    if address is None:
        # What Ray will count when it starts, which takes seconds.
        machines = [ResourceAndLabelSpec().resolve(is_head=True).to_resource_dict()]
        place.check(machines)
    else:
        with (
            handlers_put_back(),
            scratch_folder(None) as folder,
            cluster(address, folder, cpus_per_run),
        ):
            machines = machines_up()
            place.check(machines)
    return min(sum(place.fitting(machine) for machine in machines), max_concurrent or NO_LIMIT)


class Asking(Searcher):  # type: ignore[misc]
    """Tune's searcher: hands on what the Work assigns."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What a new trial of Tune's trains; nothing when there is none, or no room, now."""
        if self._driver.finished:
            return str(Searcher.FINISHED)
        return self._driver.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: :class:`Telling` hears of it with the trial's error."""

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: there is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Telling(Callback):  # type: ignore[misc]
    """Tune's callback: tells the driver what the workers report."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """Several times a second: time to look for interrupts and for what hangs."""
        self._driver.check()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A worker has it."""
        self._driver.placed(trial)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A step has ended, which is a report."""
        self._driver.told(trial.trial_id, json.loads(result["report"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its last report said so."""
        self._driver.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its worker raised, or is gone."""
        self._driver.lost(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def trial_directory(trial: Any) -> str:
    """A short name for the folder that Tune makes for a trial."""
    return str(trial.trial_id)
