"""The early stopping of a study: every decision is stored before it takes effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from hpsearch.config.run import TrialConfig
from hpsearch.config.rungs import Rungs
from hpsearch.cost.model import CostModel
from hpsearch.search.rungs import Ladder, Place
from hpsearch.store import Decision, DecisionKind, Store
from hpsearch.system.errors import HpsearchError


@final
class EarlyStopping:
    """Decides which trials of a study pause, go on and are stopped.

    The decisions follow from stored rows, which only the driver with the lease writes. So the
    trials are read once, when a launch begins.

    Args:
        rungs: the study's rungs.
        store: the store, with the lease on the study.
        experiment_id: of the study.
        model: the cost model, needed for rungs in seconds.

    Raises:
        HpsearchError: a stored decision cannot follow from those before it.
    """

    def __init__(
        self, rungs: Rungs, store: Store, experiment_id: int, model: CostModel | None
    ) -> None:
        self._rungs = rungs
        self._store = store
        self._experiment_id = experiment_id
        self._model = model
        self._ladder = Ladder(rungs)
        self._pruned: dict[str, float] = {}
        for decision in store.decisions(experiment_id):
            self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        try:
            self._ladder.apply(decision)
        except (ValueError, LookupError):
            raise HpsearchError(
                f"the stored decisions must follow from each other, got a {decision.kind} of trial "
                f"{decision.key} at rung {decision.rung + 1} as number {decision.sequence}; "
                "hpsearch verify names the damage; restore a backup of the store"
            ) from None
        if decision.kind == "pruned" and decision.loss is not None:
            self._pruned[decision.key] = decision.loss

    # --- Where trials stand -----------------------------------------------------------------------

    @property
    def paused(self) -> list[str]:
        """The keys of the paused trials."""
        return self._ladder.paused

    def was_pruned(self, key: str) -> bool:
        """Return whether the trial was stopped."""
        return key in self._pruned

    def pruned_loss(self, key: str) -> float:
        """Return the lowest loss of a trial that was stopped."""
        return self._pruned[key]

    def judged(self, key: str) -> tuple[float, ...]:
        """Return the lowest loss so far by which a trial was judged at each of its rungs."""
        return self._ladder.judged(key)

    def rung_epochs(self, config: TrialConfig) -> tuple[int, ...]:
        """Return the epochs after which a new trial pauses."""
        seconds = None
        if self._rungs.seconds is not None:
            assert self._model is not None, "a launch with rungs in seconds has timings"
            seconds = self._model.timing(config).epoch_seconds
        return self._rungs.epochs_of(config.training.epochs, seconds)

    def until(self, key: str, epochs: Sequence[int]) -> int | None:
        """Return the epoch after which the trial pauses next; ``None`` trains it to its end.

        Args:
            key: of the trial.
            epochs: the epochs of its rungs.
        """
        reached = self._ladder.reached(key)
        return epochs[reached] if reached < len(epochs) else None

    def next(self, *, last: bool) -> tuple[str, Place] | None:
        """Return the paused trial that goes on now, and its place; ``None`` if none does.

        Args:
            last: whether no further trial will be drawn.
        """
        key = self._ladder.next(last=last)
        return None if key is None else (key, self._ladder.place(key, last=last))

    def hopeless(self, wanted: int) -> list[str]:
        """Return the paused trials that cannot go on any more, in a study of ``wanted`` trials."""
        return list(self._ladder.hopeless(wanted))

    # --- Decisions --------------------------------------------------------------------------------

    def pause(self, key: str) -> int:
        """Record that a trial has paused after its last epoch; return its rung."""
        rung = self._ladder.reached(key)
        self._record(key, "pause", rung)
        return rung

    def promote(self, key: str) -> None:
        """Record that a paused trial goes on."""
        self._record(key, "promotion", self._ladder.reached(key) - 1)

    def end(self, key: str, kind: DecisionKind) -> None:
        """Record a trial's verdict: ``complete``, ``pruned`` or ``failed``."""
        reached = self._ladder.reached(key)
        # A failed trial that reached no rung counts nowhere.
        if not self._ladder.has_ended(key) and (reached or kind != "failed"):
            self._record(key, kind, reached)

    def _record(self, key: str, kind: DecisionKind, rung: int) -> None:
        run_id = self._store.run_id(self._experiment_id, key)
        assert run_id is not None, "a trial has a run before it is trained"
        curve = self._store.curve(run_id)
        epoch, loss = curve.epochs, curve.best_validation_loss
        self._store.record_decision(run_id, kind, rung, epoch, loss)
        self._apply(Decision(0, key, kind, rung, epoch, loss))
