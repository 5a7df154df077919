"""`Ablation`: one launch of an ablation; it assigns the cells and records their results."""

from __future__ import annotations

from pathlib import Path

from hpsearch.ablation.cells import STATES, CellState
from hpsearch.ablation.plan import AblationPlan, Cell, CellKey, split_name
from hpsearch.config.architecture import relative_work
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
from hpsearch.system.errors import HpsearchError, InputError


class Ablation:
    """One launch of a plan (`messages.Work`).

    - A complete cell is never run again.
    - A cell that an earlier launch has not finished is resumed from its folder.
    - A failed cell is tried again only by the next launch. Otherwise a launch would train a network
      that diverges for ever.

    Attributes:
        experiment: the ablation in the store.
        plan: the plan, with its cells.
        first_failure: this launch's first failure with a traceback, or ``None``.
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
            store: the store, with the lease on ``experiment``.
            experiment: the ablation, as `launch_ablation` prepared it.
            plan: the plan, with its cells.
            run_ids: the id of each cell's run in the store, by the cell's key.
            complete: keys of the complete cells.
            directory: the folder of the cells' folders.
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
        # Longest first: if a long run starts last, the other places are idle at the end. `sorted`
        # is stable, so cells of equal length stay in the plan's order.
        self._queue = [
            cell
            for cell in sorted(
                plan.cells, key=lambda c: -c.config.training.epochs * relative_work(c.config)
            )
            if str(cell.key) not in complete
        ]

    def next(self) -> Assignment | None:
        """Return the longest waiting cell, or ``None``."""
        if not self._queue:
            return None
        cell = self._queue.pop(0)
        key, split = str(cell.key), split_name(self.plan.vary_split, cell.key.repeat)
        self._states[key] = "running"
        return Assignment(
            key=key,
            config=cell.config,
            directory=str(self._directory / cell.key.folder),
            evaluate_test=True,
            expected_split=self._expected_splits.get(split),
        )

    @property
    def waiting(self) -> tuple[Cell, ...]:
        """The waiting cells, in the order in which they will be assigned."""
        return tuple(self._queue)

    @property
    def finished(self) -> bool:
        """Whether all cells have been assigned; failed ones wait for the next launch."""
        return not self._queue

    def started(self, key: str, facts: RunFacts) -> None:
        """Record the facts of a cell; all cells must have the data and the split of the first one.

        If the split varies, all cells of a repeat must have the same split.

        Raises:
            InputError: the molecules or the split are not those of the ablation's other cells. The
                cells could not be compared.
        """
        self._store.record_facts(self._run_ids[key], facts)
        # Epochs after the checkpoint are trained again, possibly fewer of them. Epochs before it
        # are recorded again after this.
        self._store.forget_epochs(self._run_ids[key], after=facts.resumed_from)
        split = split_name(self.plan.vary_split, CellKey.parse(key).repeat)
        given = {"data_hash": facts.data_hash, split: facts.split_hash}
        stored = self._store.fill_provenance(self.experiment.id, **given)
        self._expected_splits[split] = stored[split]
        for what, value in given.items():
            if stored[what] != value:
                raise InputError(
                    f"every cell of the ablation '{self.plan.name}' must use the same molecules; "
                    f"the {what.replace('_', ' ')} was {stored[what][:12]}, the cell {key} on "
                    f"{facts.host} has {value[:12]}; restore the data or choose a new name"
                )

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """Record an epoch of the cell."""
        self._store.record_epoch(self._run_ids[key], metrics)

    def paused(self, key: str, epoch: int) -> None:
        """Do nothing: an assignment of an ablation has no pause."""

    def retried(self, key: str, failure: Failure) -> None:
        """Record nothing: only the last outcome of a cell is stored."""

    def finish(self, key: str, outcome: Outcome) -> None:
        """Record the outcome of a cell.

        Raises:
            HpsearchError: the disk was full, or the machine cannot run any cell. Nothing was
                recorded, and the next launch resumes the cell.
        """
        if isinstance(outcome, Failure) and outcome.kind in NO_VERDICTS:
            raise HpsearchError(f"cell {key} of '{self.plan.name}': {outcome.message}")
        self._store.record_result(self._run_ids[key], outcome)
        # Last, because the next launch resumes from the folder until the result is stored.
        folder = self._directory / CellKey.parse(key).folder
        checkpoint.discard(folder, keep_best=isinstance(outcome, Completion))
        if isinstance(outcome, Failure) and outcome.traceback and self.first_failure is None:
            self.first_failure = (key, outcome)
        if self._states[key] != "complete":
            self._states[key] = "complete" if isinstance(outcome, Completion) else "failed"

    def counts(self) -> dict[CellState, int]:
        """Return the number of cells in each state."""
        states = list(self._states.values())
        return {state: states.count(state) for state in STATES}
