"""What Tune calls: a searcher and a callback without state of their own, which ask the driver."""

from __future__ import annotations

import json
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from hpsearch.executor.driver import Driver


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
