"""A study's trials as they are kept: their rows in Optuna and their folders on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch import store
from hpsearch.errors import HpsearchError
from hpsearch.runs import checkpoint

Result = TypeVar("Result")

KEPT_WEIGHTS = 5
"""So many complete trials, the best ones, keep the weights of their best epoch: 40 to 150 MB each
for a network of Table 3. The others' are removed when better trials replace them."""

_GONE = (KeyError, UpdateFinishedTrialError)
"""Raised for a row that someone has deleted or ended since it was made."""


@final
class TrialRows:
    """The rows of Optuna's study called ``name``, which is made if it does not exist.

    Every call waits for a database that is busy or away. Rows are written by Optuna's storage under
    their own key rather than by ``Study.tell`` and ``Trial.report``: those look a number up in a
    memory that a deletion does not reach, and ``report`` keeps the first of two values where our
    table of epochs keeps the second.
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
                # Every trial is trained to its end: the paper's search stops none early.
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        )

    def describe(self, values: Mapping[str, Any]) -> None:
        """Set attributes of the study, which its dashboards show."""
        for key, value in values.items():
            self._wait(partial(self._study.set_user_attr, key, value))

    def states(self) -> list[store.TrialState]:
        """Every row as it is now.

        Raises:
            HpsearchError: the study itself is gone.
        """
        found = self._store.trial_states(self.name)
        if found is None:
            raise HpsearchError(
                f"the study '{self.name}' was deleted from the store {self._store.label} while it "
                "was searched; launch it under another name"
            )
        return found

    def read(self, trial_id: int) -> FrozenTrial | None:
        """All of one row; ``None`` if it is gone."""
        try:
            return self._wait(lambda: self._storage.get_trial(trial_id))
        except KeyError:
            return None

    def ask(self, *, enqueued: bool) -> Trial:
        """A new RUNNING row, whose parameters are still to be drawn.

        Args:
            enqueued: whether rows that someone put in line may be waiting. Optuna looks for one by
                reading every row that has changed, so it looks only where this is true.
        """
        if enqueued:
            return self._wait(self._study.ask)
        return self._wait(
            lambda: Trial(self._study, self._study._storage.create_new_trial(self._study._study_id))
        )

    def reopen(self, trial_id: int) -> Trial | None:
        """A RUNNING row whose remaining parameters can be drawn; ``None`` if it is gone.

        Parameters that were drawn keep their stored values.
        """
        # Optuna refuses to draw for a row that it has not met in this process.
        self._wait(lambda: self._study.get_trials(deepcopy=False))
        try:
            return self._wait(lambda: Trial(self._study, trial_id))
        except _GONE:
            return None

    def draw(self, trial: Trial, suggest: Callable[[Trial], Result]) -> Result | None:
        """``suggest(trial)``, whose parameters are stored together; ``None`` if the row is gone.

        A repeated attempt gives ``suggest`` another object for the same row.

        Raises:
            ValueError: ``suggest`` refused the drawn parameters; they are stored all the same.
        """
        fresh = [trial]

        def attempt() -> Result | ValueError:
            # A trial remembers what it has drawn, even where that was rolled back; and of a commit
            # whose answer was lost, the values that stand are the stored ones.
            drawn = fresh.pop() if fresh else Trial(self._study, trial._trial_id)
            # The sampler's work, up to seconds, before the transaction: on SQLite it would keep
            # everyone else from writing.
            _ = drawn.relative_params
            with self._store.one_transaction():
                try:
                    return suggest(drawn)
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
        """Set the row's value after ``epoch``."""
        self._quietly(lambda: self._storage.set_trial_intermediate_value(trial_id, epoch, loss))

    def annotate(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Set attributes of the row, all or none."""

        def write() -> None:
            with self._store.one_transaction():
                for key, value in values.items():
                    self._storage.set_trial_user_attr(trial_id, key, value)

        self._quietly(write)

    def complete(self, trial_id: int, value: float) -> None:
        """End the row with ``value``; one that has ended stays as it is."""
        self._quietly(
            lambda: self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])
        )

    def fail(self, trial_id: int) -> None:
        """End the row without a value; one that has ended stays as it is."""
        self._quietly(lambda: self._storage.set_trial_state_values(trial_id, TrialState.FAIL))

    def fail_because(self, trial_id: int, why: Mapping[str, Any]) -> None:
        """Set attributes that say why, then end the row without a value.

        A row that says why and is still RUNNING belongs to a launch that died in between: the next
        one ends it.
        """
        self.annotate(trial_id, why)
        self.fail(trial_id)

    def _quietly(self, action: Callable[[], object]) -> None:
        try:
            self._wait(action)
        except _GONE:
            # Whoever deleted or ended the row had their reason; the next count reads what is there.
            return

    def _wait(self, action: Callable[[], Result]) -> Result:
        return self._store.wait(action)


@final
class TrialFiles:
    """The folders of one study's trials, one for each number.

    A trial that may still go on keeps its whole folder; a complete one keeps its best weights while
    it is among the :data:`KEPT_WEIGHTS` best; every other trial keeps nothing.
    """

    def __init__(self, where: store.StoreReader, study: str, folder: Path) -> None:
        """Name the folders; nothing is read or removed.

        Args:
            where: holds the study.
            study: its name.
            folder: holds the trials' folders.
        """
        self._store = where
        self._study = study
        self._folder = folder
        self._kept: set[int] = set()

    def directory(self, key: str) -> Path:
        """The folder of the trial whose number is ``key``."""
        return self._folder / key

    def remove_unneeded(self, rows: Sequence[store.TrialState]) -> None:
        """Remove files that no row needs any more: those of launches that died before they did.

        Args:
            rows: of the study, as they are now.
        """
        self._kept = self._best()
        # Of two rows with one number, the one that goes on decides.
        by_progress = sorted(rows, key=lambda row: row.state in ("RUNNING", "WAITING"))
        states = {str(row.number): row.state for row in by_progress}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            # What has no row, or one that may still be continued, is left alone.
            ended = states.get(folder.name) in ("COMPLETE", "FAIL", "PRUNED")
            if ended and not folder.is_symlink():
                checkpoint.discard(folder, keep_best=int(folder.name) in self._kept)

    def trial_ended(self, key: str) -> None:
        """Remove what the trial needed to go on, and weights that are not among the best now."""
        before, self._kept = self._kept, self._best()
        for number in before - self._kept:
            checkpoint.discard(self._folder / str(number), keep_best=False)
        checkpoint.discard(self.directory(key), keep_best=int(key) in self._kept)

    def remove(self, number: int) -> None:
        """Remove all that the trial left."""
        checkpoint.discard(self._folder / str(number), keep_best=False)

    def _best(self) -> set[int]:
        return self._store.best_trials(self._study, KEPT_WEIGHTS)
