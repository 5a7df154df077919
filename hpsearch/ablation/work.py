"""One launch of an ablation's plan, as work for the executor."""

from __future__ import annotations

from pathlib import Path

from hpsearch.ablation.cells import STATES, CellState
from hpsearch.ablation.plan import AblationPlan, Cell, CellKey, split_name
from hpsearch.config.architecture import relative_work
from hpsearch.errors import HpsearchError, InputError
from hpsearch.runs import checkpoint
from hpsearch.runs.messages import (
    NO_VERDICTS,
    Assignment,
    Completion,
    EpochMetrics,
    Failure,
    Outcome,
    RunFacts,
)
from hpsearch.store import Experiment, Store


class Ablation:
    """One launch of a plan: a source of assignments that keeps their results (``runs.Work``).

    A cell that is complete in the store is never run again. A cell that an earlier launch left
    unfinished goes on from its folder. A cell that failed is tried again only by the next launch:
    within one launch a network that diverges would be trained for ever.

    Attributes:
        experiment: the ablation in the store.
        plan: what is to be run.
        first_failure: of this launch, that has a traceback; ``None`` while there is none.
    """

    def __init__(
        self,
        store: Store,
        experiment: Experiment,
        plan: AblationPlan,
        run_ids: dict[str, int],
        complete: set[str],
        directory: Path,
        expected_split: str | None,
    ) -> None:
        """Queue the cells that are not complete; nothing is read or written.

        Args:
            store: that drives ``experiment``.
            experiment: the ablation, as `launch_ablation` prepared it.
            plan: the cells.
            run_ids: the store's key of each cell's run, by the cell's key.
            complete: keys of the cells that need not be run again.
            directory: holds the cells' folders.
            expected_split: hash of the first repeat's split; ``None`` until a cell has made it.
        """
        self.experiment = experiment
        self.plan = plan
        self.first_failure: tuple[str, Failure] | None = None
        self._store = store
        self._run_ids = run_ids
        self._directory = directory
        self._expected_splits = {split_name(plan.vary_split, 0): expected_split}
        self._states: dict[str, CellState] = {
            str(cell.key): "complete" if str(cell.key) in complete else "waiting"
            for cell in plan.cells
        }
        # Longest first: a long run started last would leave the other places idle at the end.
        # `sorted` is stable, so among equals the first repeat and Table 1's order come first.
        self._queue = [
            cell
            for cell in sorted(
                plan.cells, key=lambda c: -c.config.training.epochs * relative_work(c.config)
            )
            if str(cell.key) not in complete
        ]

    def next(self) -> Assignment | None:
        """The costliest cell that waits, or ``None``."""
        if not self._queue:
            return None
        cell = self._queue.pop(0)
        key, split = str(cell.key), split_name(self.plan.vary_split, cell.key.repeat)
        self._states[key] = "running"
        return Assignment(
            key=key,
            config=cell.config,
            directory=str(self._directory / key),
            evaluate_test=True,
            expected_split=self._expected_splits.get(split),
        )

    @property
    def waiting(self) -> tuple[Cell, ...]:
        """The cells that wait to be handed out, in their order."""
        return tuple(self._queue)

    @property
    def finished(self) -> bool:
        """Whether every cell has been handed out; what fails waits for the next launch."""
        return not self._queue

    def started(self, key: str, facts: RunFacts) -> None:
        """Record the facts of a cell; all cells must see the data and the split of the first one.

        Where the split varies, all cells of one repeat must see the same split.

        Raises:
            InputError: the molecules or the split are not those of the ablation's other cells,
                which therefore could not be compared.
        """
        self._store.record_facts(self._run_ids[key], facts)
        # Epochs after the checkpoint are trained again, and a cell that begins anew may end before
        # it reaches them all; those before it are recorded again after this.
        self._store.forget_epochs(self._run_ids[key], after=facts.resumed_from)
        split = split_name(self.plan.vary_split, CellKey.parse(key).repeat)
        given = {"data_hash": facts.data_hash, split: facts.split_hash}
        stored = self._store.fill_provenance(self.experiment.id, **given)
        self._expected_splits[split] = stored[split]
        for what, value in given.items():
            if stored[what] != value:
                raise InputError(
                    f"every cell of the ablation '{self.plan.name}' must see the same molecules; "
                    f"the {what.replace('_', ' ')} was {stored[what][:12]}, the cell {key} on "
                    f"{facts.host} has {value[:12]}; restore the data or choose a new name"
                )

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """Record an epoch of the cell."""
        self._store.record_epoch(self._run_ids[key], metrics)

    def retried(self, key: str, failure: Failure) -> None:
        """Record nothing: the cell's row says how it ends."""

    def finish(self, key: str, outcome: Outcome) -> None:
        """Record how the cell ended.

        Raises:
            HpsearchError: the cell found no space for its checkpoint, or its machine is not fit for
                any cell. Nothing has been recorded; the next launch goes on with the cell.
        """
        if isinstance(outcome, Failure) and outcome.kind in NO_VERDICTS:
            raise HpsearchError(f"cell {key} of '{self.plan.name}': {outcome.message}")
        self._store.record_result(self._run_ids[key], outcome)
        # Only now: until the result is stored, the folder is what a next launch continues from.
        checkpoint.discard(self._directory / key, keep_best=isinstance(outcome, Completion))
        if isinstance(outcome, Failure) and outcome.traceback and self.first_failure is None:
            self.first_failure = (key, outcome)
        if self._states[key] != "complete":
            self._states[key] = "complete" if isinstance(outcome, Completion) else "failed"

    def counts(self) -> dict[CellState, int]:
        """The number of cells of this launch's plan in each state."""
        states = list(self._states.values())
        return {state: states.count(state) for state in STATES}
