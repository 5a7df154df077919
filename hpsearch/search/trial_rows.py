"""A study's rows in Optuna: asked, told and annotated, whatever others do to them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch import store
from hpsearch.errors import HpsearchError

Result = TypeVar("Result")

_GONE = (KeyError, UpdateFinishedTrialError)
"""Raised for a row that someone has deleted, or told, since it was asked."""


@final
class TrialRows:
    """Optuna's study called ``name``, made if need be, through a store that waits.

    Rows are written by Optuna's storage under their own key rather than by ``Study.tell`` and
    ``Trial.report``: those look a number up in a memory that a deletion does not reach, and
    ``report`` keeps the first of two values where our table of epochs keeps the second.
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
        """Every row as it stands.

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

    def ask(self, *, in_line: bool) -> Trial:
        """A row, RUNNING, whose parameters are still to be drawn.

        Args:
            in_line: whether a row that someone put in line may wait. Optuna looks for one by
                reading every row that has changed, so it is not asked where there is none.
        """
        if in_line:
            return self._wait(self._study.ask)
        return self._wait(
            lambda: Trial(self._study, self._study._storage.create_new_trial(self._study._study_id))
        )

    def reopen(self, trial_id: int) -> Trial | None:
        """A RUNNING row, to draw what is missing of it; ``None`` if it is gone.

        What has been drawn stays: asking again for a parameter gives the stored value.
        """
        # Optuna refuses to draw for a row that it has not met in this process.
        self._wait(lambda: self._study.get_trials(deepcopy=False))
        try:
            return self._wait(lambda: Trial(self._study, trial_id))
        except _GONE:
            return None

    def draw(self, trial: Trial, suggest: Callable[[Trial], Result]) -> Result | None:
        """``suggest(trial)``, its parameters stored together; ``None`` if the row is gone.

        Where it has to be repeated, ``suggest`` is given another object for the same row.

        Raises:
            ValueError: ``suggest`` refused what was drawn, which is stored all the same.
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
            # Whoever deleted or told the row had their reason; the next look counts what stands.
            return

    def _wait(self, action: Callable[[], Result]) -> Result:
        return self._store.wait(action)
