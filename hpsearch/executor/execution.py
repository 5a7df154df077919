"""A search or an ablation on Ray, from the start of the cluster to its end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from hpsearch.executor.attempts import Event
from hpsearch.executor.cluster import (
    cluster,
    machines_up,
    scratch_folder,
    unusable_for_temporary_files,
    writing_failed,
)
from hpsearch.executor.driver import Driver, Stop
from hpsearch.executor.failures import one_line
from hpsearch.executor.placement import NO_LIMIT, Placement
from hpsearch.executor.ray_private import memory_kills_as_lost_workers
from hpsearch.executor.signals import ended_by_signals, restored_handlers
from hpsearch.executor.worker import Worker
from hpsearch.runs.messages import Work, from_json
from hpsearch.system.errors import HpsearchError


def train(
    work: Work, placement: Placement, on_event: Callable[[Event], None], scratch: Path | None
) -> None:
    """Do the work of :func:`hpsearch.executor.run`, in a module that imports ray."""
    driver = Driver(work, on_event, placement)
    with (
        restored_handlers(),
        scratch_folder(scratch) as folder,
        cluster(placement.address, folder, placement.cpus_per_run) as on_signal,
        memory_kills_as_lost_workers(),
    ):
        driver.folder = folder
        try:
            with ended_by_signals(driver, on_signal), _silence_reported(driver):
                placement.require_room(machines_up())
                _tuner(driver, folder).fit()
        except Stop as stop:
            raise stop.error from None
        except (HpsearchError, KeyboardInterrupt):
            raise
        except Exception as error:
            if (unwritten := writing_failed(error)) is not None:
                raise unusable_for_temporary_files(folder.parent, unwritten) from error
            raise HpsearchError(f"Ray Tune failed: {one_line(error)}") from error


_SILENT_SECONDS = 30.0
"""A longer silence of Ray is reported."""


@contextmanager
def _silence_reported(driver: Driver) -> Iterator[None]:
    """Report if Ray does not return from a call: its servers may hang, or be stopped."""
    ended = threading.Event()

    def watch() -> None:
        said, looked = False, time.monotonic()
        while not ended.wait(_SILENT_SECONDS / 30):
            # After a longer pause this process was suspended itself, so Ray had no time to answer.
            suspended = time.monotonic() - looked > _SILENT_SECONDS / 2
            looked = time.monotonic()
            silent = driver.ray_is_silent_for > _SILENT_SECONDS and not suspended
            if silent and not said:
                with suppress(OSError):
                    os.write(2, _SILENT_WORDS.encode())
            said = silent

    thread = threading.Thread(target=watch, daemon=True, name="silence of Ray")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


_SILENT_WORDS = (
    f"hpsearch: Ray has not responded for {_SILENT_SECONDS:.0f} s; the launch waits for it; end it "
    "with Ctrl-C, and the same command continues\n"
)


def _tuner(driver: Driver, folder: Path) -> Tuner:
    placement = driver.placement
    return Tuner(
        Worker,
        param_space={
            "cpus": placement.cpus_per_run,
            "gpus": placement.gpus_per_run,
            "threads": placement.cpus_per_run,
            "device": placement.torch_device,
        },
        tune_config=TuneConfig(
            search_alg=WorkSearcher(driver),
            num_samples=-1,
            # Without a user's limit, `Driver.next` limits the runs by the size of the cluster.
            # Tune still needs a number: without one it starts workers one after another.
            max_concurrent_trials=placement.max_concurrent or NO_LIMIT,
            reuse_actors=True,
            trial_dirname_creator=trial_directory,
        ),
        run_config=RunConfig(
            name="runs",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0),
            # A run writes its own checkpoints.
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[DriverCallback(driver)],
            verbose=0,
        ),
    )


class WorkSearcher(Searcher):  # type: ignore[misc]
    """Tune's searcher: it suggests the runs that the Work assigns.

    Its pickle, and that of :class:`DriverCallback`, is empty: Tune writes both to disk, and the
    Work may contain a store's URL.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next run; ``None`` if there is no run or no room now."""
        if self._driver.finished:
            return str(Searcher.FINISHED)
        return self._driver.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: :class:`DriverCallback` receives the trial and its error."""

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: there is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class DriverCallback(Callback):  # type: ignore[misc]
    """Tune's callback: it gives the workers' reports to the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """Check for signals and hanging workers, several times a second."""
        self._driver.check()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record that a worker has started the run."""
        self._driver.placed(trial)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass on the report of a step."""
        self._driver.reported(trial.trial_id, from_json(result["report"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record the end of a run, after its last report."""
        self._driver.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record that the worker raised an error or died."""
        self._driver.lost(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def trial_directory(trial: Any) -> str:
    """Return a short name for the folder that Tune makes for a trial."""
    return str(trial.trial_id)
