"""A search or an ablation on Ray, from the start of the cluster to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from hpsearch.errors import HpsearchError
from hpsearch.executor.attempts import Event
from hpsearch.executor.cluster import cluster, machines_up, scratch_folder
from hpsearch.executor.driver import Driver, Stop
from hpsearch.executor.failures import one_line
from hpsearch.executor.placement import NO_LIMIT, Placement
from hpsearch.executor.ray_private import memory_kills_as_lost_workers
from hpsearch.executor.signals import end_at_signals, restored_handlers
from hpsearch.executor.worker import Worker
from hpsearch.runs.messages import Work, from_json


def train(
    work: Work, placement: Placement, on_event: Callable[[Event], None], scratch: Path | None
) -> None:
    """What :func:`hpsearch.executor.run` does, once ray is imported."""
    driver = Driver(work, on_event, placement)
    with (
        restored_handlers(),
        scratch_folder(scratch) as folder,
        cluster(placement.address, folder, placement.cpus_per_run) as on_signal,
        memory_kills_as_lost_workers(),
    ):
        end_at_signals(driver, on_signal)
        placement.require_room(machines_up())
        try:
            _tuner(driver, folder).fit()
        except Stop as stop:
            raise stop.error from None
        except (HpsearchError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise HpsearchError(f"Ray Tune failed: {one_line(error)}") from error


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
            # Without a limit the driver's own holds, which moves with the cluster; but with no
            # number here Tune would let workers start only one after the other.
            max_concurrent_trials=placement.max_concurrent or NO_LIMIT,
            reuse_actors=True,
            trial_dirname_creator=trial_directory,
        ),
        run_config=RunConfig(
            name="runs",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0),
            # A class Trainable is saved at its end unless told otherwise; a run saves itself.
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[DriverCallback(driver)],
            verbose=0,
        ),
    )


class WorkSearcher(Searcher):  # type: ignore[misc]
    """Tune's searcher: suggests what the Work assigns.

    It and :class:`DriverCallback` pickle as nothing, since Tune writes either to disk and the Work
    may hold a store's URL.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What a new trial of Tune's trains; nothing when there is none, or no room, now."""
        if self._driver.finished:
            return str(Searcher.FINISHED)
        return self._driver.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: :class:`DriverCallback` is called with the trial and its error."""

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: there is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class DriverCallback(Callback):  # type: ignore[misc]
    """Tune's callback: passes on to the driver what the workers report."""

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
        self._driver.reported(trial.trial_id, from_json(result["report"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its last report was that it has ended."""
        self._driver.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its worker raised, or is gone."""
        self._driver.lost(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def trial_directory(trial: Any) -> str:
    """A short name for the folder that Tune makes for a trial."""
    return str(trial.trial_id)
