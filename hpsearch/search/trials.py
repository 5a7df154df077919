"""The trials of a study: their rows in Optuna's tables and their folders on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch import store
from hpsearch.runs import checkpoint
from hpsearch.search.start import ORIGIN_KEY, KnownTrial, not_enqueued
from hpsearch.store import PAUSED, STAGE
from hpsearch.system.errors import HpsearchError

Result = TypeVar("Result")

KEPT_WEIGHTS = 5
"""Number of best complete trials whose weights stay on the disk.

The weights of a network of Table 3 take 40 to 150 MB. Those of the other trials are removed.
"""

RUNGS = "rungs"
"""The attribute with the epochs after which a trial pauses."""

_GONE = (KeyError, UpdateFinishedTrialError)
"""Raised for a row that somebody has deleted or ended."""


@final
class TrialRows:
    """The rows of Optuna's study called ``name``, which is created if it does not exist.

    Every call waits for an unavailable database. Rows are written through Optuna's storage and
    their ids, not with ``Study.tell`` and ``Trial.report``. Those look the trial's number up in a
    cache, which does not notice deletions. And of two values for an epoch, ``report`` stores the
    first, while our table of epochs stores the second.
    """

    def __init__(self, where: store.Store, name: str, sampler: optuna.samplers.BaseSampler) -> None:
        self.name = name
        self._store = where
        self._storage = where.optuna_storage
        self._study = where.wait(
            lambda: optuna.create_study(
                storage=where.optuna_storage,
                study_name=name,
                direction="minimize",
                sampler=sampler,
                # Our own rule stops trials early: see rungs.py.
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        )

    def describe(self, values: Mapping[str, Any]) -> None:
        """Set attributes of the study, for Optuna's dashboard."""
        for key, value in values.items():
            self._wait(partial(self._study.set_user_attr, key, value))

    def states(self) -> list[store.TrialState]:
        """Return the present state of every row.

        Raises:
            HpsearchError: the study was deleted.
        """
        return self._found(self._store.trial_states(self.name))

    def open(self, expected: Sequence[int] | None) -> store.OpenTrials:
        """Return the number of rows in each state, and the RUNNING ones.

        Args:
            expected: ids of the rows that should be RUNNING. If they are, they are not returned.
                ``None`` if that is not known.

        Raises:
            HpsearchError: the study was deleted.
        """
        return self._found(self._store.open_trials(self.name, expected))

    def _found(self, result: Result | None) -> Result:
        if result is None:
            raise HpsearchError(
                f"the study '{self.name}' was deleted from the store {self._store.label} while it "
                "was searched; launch it under another name"
            )
        return result

    def running_attributes(self, *keys: str) -> dict[int, dict[str, Any]]:
        """Return those attributes of the RUNNING rows that are in ``keys``, by the rows' ids."""
        return self._store.running_attributes(self.name, keys)

    def read(self, trial_id: int) -> FrozenTrial | None:
        """Return a complete row; ``None`` if it was deleted."""
        try:
            return self._wait(lambda: self._storage.get_trial(trial_id))
        except KeyError:
            return None

    def enqueue(self, known: Sequence[KnownTrial]) -> list[KnownTrial]:
        """Enqueue the known trials that the study does not have yet, and return them.

        They are enqueued in one transaction. Trials that are there already are not enqueued again,
        so a repeated launch changes nothing.
        """

        def attempt() -> list[KnownTrial]:
            # Read again for every attempt: if only the reply to a commit was lost, all are there.
            missing = not_enqueued(self._store, self.name, known)
            with self._store.one_transaction():
                for trial in missing:
                    self._study.enqueue_trial(
                        trial.parameters, {store.ORIGIN: trial.origin, ORIGIN_KEY: trial.key}
                    )
            return missing

        return self._wait(attempt)

    def ask(self, *, enqueued: bool) -> Trial:
        """Return a new RUNNING row, whose parameters are not sampled yet.

        Args:
            enqueued: whether there may be a trial enqueued by hand. Only then does Optuna look for
                one, because it reads every changed row for that.
        """
        if enqueued:
            return self._wait(self._study.ask)
        return self._wait(
            lambda: Trial(self._study, self._study._storage.create_new_trial(self._study._study_id))
        )

    def reopen(self, trial_id: int) -> Trial | None:
        """Return a RUNNING row to sample its missing parameters; ``None`` if it was deleted.

        Parameters that were sampled before keep their stored values.
        """
        # Optuna refuses to sample for a row that this process has not read.
        self._wait(lambda: self._study.get_trials(deepcopy=False))
        try:
            return self._wait(lambda: Trial(self._study, trial_id))
        except _GONE:
            return None

    def draw(self, trial: Trial, suggest: Callable[[Trial], Result]) -> Result | None:
        """Return ``suggest(trial)`` and store its parameters in one transaction.

        Returns ``None`` if the row was deleted. If the transaction is repeated, ``suggest`` is
        called with another object for the same row.

        Raises:
            ValueError: ``suggest`` refused the sampled parameters, which are stored nevertheless.
        """
        fresh = [trial]

        def attempt() -> Result | ValueError:
            # A new object for every repetition: a trial remembers its parameters after a rollback.
            # And if only the reply to a commit was lost, the stored values must be used.
            current = fresh.pop() if fresh else Trial(self._study, trial._trial_id)
            # The sampler may take seconds, so it runs before the transaction: on SQLite that would
            # block all other writers.
            _ = current.relative_params
            with self._store.one_transaction():
                try:
                    return suggest(current)
                except ValueError as error:
                    return error

        try:
            result = self._wait(attempt)
        except _GONE:
            return None
        if isinstance(result, ValueError):
            raise result
        return result

    def report(self, trial_id: int, epoch: int, loss: float) -> None:
        """Set the row's intermediate value after ``epoch``."""
        self._quietly(lambda: self._storage.set_trial_intermediate_value(trial_id, epoch, loss))

    def annotate(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Set attributes of the row, in one transaction."""

        def write() -> None:
            with self._store.one_transaction():
                for key, value in values.items():
                    self._storage.set_trial_user_attr(trial_id, key, value)

        self._quietly(write)

    def complete(self, trial_id: int, value: float) -> None:
        """Set the row to COMPLETE with ``value``, unless it has ended already."""
        self._quietly(
            lambda: self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])
        )

    def end_pruned(self, trial_id: int, value: float) -> None:
        """Set a paused row to PRUNED with its lowest loss, unless it has ended already."""
        self.annotate(trial_id, {PAUSED: None, STAGE: "stopped at its rung"})
        self._quietly(
            lambda: self._storage.set_trial_state_values(trial_id, TrialState.PRUNED, [value])
        )

    def fail(self, trial_id: int) -> None:
        """Set the row to FAIL, unless it has ended already."""
        self._quietly(lambda: self._storage.set_trial_state_values(trial_id, TrialState.FAIL))

    def fail_because(self, trial_id: int, why: Mapping[str, Any]) -> None:
        """Set the attributes that say why, then set the row to FAIL.

        If the launch dies between the two, the next launch sets the row to FAIL.
        """
        self.annotate(trial_id, why)
        self.fail(trial_id)

    def _quietly(self, action: Callable[[], object]) -> None:
        try:
            self._wait(action)
        except _GONE:
            # Somebody deleted or ended the row on purpose; the next count takes it into account.
            return

    def _wait(self, action: Callable[[], Result]) -> Result:
        return self._store.wait(action)


@final
class TrialFiles:
    """The folders of a study's trials, one for each number.

    - A trial that may be resumed keeps its folder.
    - A complete trial among the :data:`KEPT_WEIGHTS` best keeps its best weights.
    - The files of all other trials are removed.
    """

    def __init__(self, where: store.StoreReader, study: str, folder: Path) -> None:
        """Set the folder; nothing is read or removed.

        Args:
            where: the store of the study.
            study: the study's name.
            folder: the folder of the trials' folders.
        """
        self._store = where
        self._study = study
        self._folder = folder
        self._kept: set[int] = set()

    def directory(self, key: str) -> Path:
        """Return the folder of the trial whose number is ``key``."""
        return self._folder / key

    def remove_unneeded(self, rows: Sequence[store.TrialState]) -> None:
        """Remove files that no row needs, from launches that died before they removed them.

        Args:
            rows: the present states of the study's rows.
        """
        self._kept = self._best()
        # If two rows have the same number, a running one decides.
        by_progress = sorted(rows, key=lambda row: row.state in ("RUNNING", "WAITING"))
        states = {str(row.number): row.state for row in by_progress}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            # Folders without a row, and those of trials that may be resumed, stay.
            ended = states.get(folder.name) in ("COMPLETE", "FAIL", "PRUNED")
            if ended and not folder.is_symlink():
                checkpoint.discard(folder, keep_best=int(folder.name) in self._kept)

    def trial_ended(self, key: str) -> None:
        """Remove the trial's checkpoints, and weights that are no longer among the best."""
        before, self._kept = self._kept, self._best()
        for number in before - self._kept:
            checkpoint.discard(self._folder / str(number), keep_best=False)
        checkpoint.discard(self.directory(key), keep_best=int(key) in self._kept)

    def remove(self, number: int) -> None:
        """Remove all files of the trial."""
        checkpoint.discard(self._folder / str(number), keep_best=False)

    def _best(self) -> set[int]:
        return self._store.best_trials(self._study, KEPT_WEIGHTS)
