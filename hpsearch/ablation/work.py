"""One launch of an ablation's plan, as work for the executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from hpsearch.ablation.cells import STATES, CellState
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan, Cell
from hpsearch.config.architecture import relative_work
from hpsearch.config.export import Winner
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
from hpsearch.store import Experiment, Store, experiment_folder
from hpsearch.system import installation


class Ablation:
    """One launch of a plan: a source of assignments that keeps their results (``runs.Work``).

    A cell that is complete in the store is never run again. One that an earlier launch left
    unfinished goes on from its folder, one that failed is tried once more, in the next launch
    only: a network that diverges would otherwise be trained for ever.

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
        self.experiment = experiment
        self.plan = plan
        self.first_failure: tuple[str, Failure] | None = None
        self._store = store
        self._run_ids = run_ids
        self._directory = directory
        self._expected_splits = {split_name(plan.vary_split, 0): expected_split}
        self._states: dict[str, CellState] = {
            cell.key: "complete" if cell.key in complete else "waiting" for cell in plan.cells
        }
        # Longest first: a long run started last would leave the other places idle at the end.
        # `sorted` is stable, so among equals the first repeat and Table 1's order come first.
        self._queue = [
            cell
            for cell in sorted(
                plan.cells, key=lambda c: -c.config.training.epochs * relative_work(c.config)
            )
            if cell.key not in complete
        ]

    @classmethod
    def launch(
        cls,
        store: Store,
        winner: Winner,
        plan: AblationPlan,
        runs_root: Path,
        data: DataSummary | None = None,
        *,
        wait: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Begins the ablation, or continues the one of this name.

        Args:
            store: keeps the runs.
            winner: the exported configuration, kept as provenance.
            plan: the cells.
            runs_root: folder that holds the experiments' folders.
            data: the molecules; makes every cell's split the same and gives the report its
                baselines.
            wait: whether to wait for the end of another launch that drives the ablation.
            say: told who drives it while this call waits.

        Raises:
            LeaseHeld: another launch drives the ablation, and ``wait`` is not set.
            InputError: the store has an ablation of this name of other runs or other molecules.
        """
        earlier = store.experiment("ablation", plan.name)
        if earlier is not None:
            _check_same_runs(store, earlier, plan, data)
        export = winner.model_dump(mode="json")
        experiment = store.begin_experiment(
            "ablation", plan.name, {"identity": plan.identity, "winner": export}
        )
        store.drive(experiment, wait=wait, say=say)
        # Again, now that no other launch can change it.
        experiment = store.experiment("ablation", plan.name) or experiment
        _check_same_runs(store, experiment, plan, data)
        _record_plan(store, experiment, plan, data)
        directory = runs_root.absolute() / experiment_folder(experiment.name, experiment.identity)
        run_ids = {
            cell.key: store.record_run(
                experiment.id, cell.key, cell.config, str(directory / cell.key)
            ).id
            for cell in plan.cells
        }
        results = store.results(experiment.id)
        complete = set(results.loc[results["state"] == "complete", "key"])
        expected = plan.expected_split if data is None else data.split_hash
        expected = experiment.provenance.get("split_hash") or expected
        return cls(store, experiment, plan, run_ids, complete, directory, expected)

    def next(self) -> Assignment | None:
        """The costliest cell that is still waiting, or ``None``."""
        if not self._queue:
            return None
        cell = self._queue.pop(0)
        self._states[cell.key] = "running"
        return Assignment(
            key=cell.key,
            config=cell.config,
            directory=str(self._directory / cell.key),
            evaluate_test=True,
            expected_split=self._expected_splits.get(split_name(self.plan.vary_split, cell.repeat)),
        )

    @property
    def waiting(self) -> tuple[Cell, ...]:
        """The cells that are still to be handed out, in their order."""
        return tuple(self._queue)

    @property
    def finished(self) -> bool:
        """Whether every cell has been handed out; what fails waits for the next launch."""
        return not self._queue

    def started(self, key: str, facts: RunFacts) -> None:
        """A worker has built the cell's network and data; the first cell's data are all cells'.

        Where the split varies, they are those of all cells of the repeat.

        Raises:
            InputError: the molecules or the split are not those of the ablation's other cells,
                which therefore could not be compared.
        """
        self._store.record_facts(self._run_ids[key], facts)
        # Of an attempt that was given up, which a cell that begins anew may not reach; those before
        # are told again after this.
        self._store.forget_epochs(self._run_ids[key], after=facts.resumed_from)
        split = split_name(self.plan.vary_split, int(key.rpartition("/")[2]))
        given = {"data_hash": facts.data_hash, split: facts.split_hash}
        settled = self._store.settle(self.experiment.id, **given)
        self._expected_splits[split] = settled[split]
        for what, value in given.items():
            if settled[what] != value:
                raise InputError(
                    f"every cell of the ablation '{self.plan.name}' must see the same molecules; "
                    f"the {what.replace('_', ' ')} was {settled[what][:12]}, the cell {key} on "
                    f"{facts.host} has {value[:12]}; restore the data or choose a new name"
                )

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """An epoch of the cell has ended."""
        self._store.record_epoch(self._run_ids[key], metrics)

    def retried(self, key: str, failure: Failure) -> None:
        """Nothing is kept: the cell's row says how it ended."""

    def finish(self, key: str, outcome: Outcome) -> None:
        """The cell has ended.

        Raises:
            HpsearchError: it found no space for its checkpoint, or its machine is not fit for any
                cell. Nothing has been recorded; the next launch goes on with it.
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
        """Cells of this launch's plan in each state."""
        states = list(self._states.values())
        return {state: states.count(state) for state in STATES}


def split_name(vary_split: bool, repeat: int) -> str:
    """The provenance's entry for the hash of a repeat's split."""
    return f"split_hash_{repeat}" if vary_split and repeat > 0 else "split_hash"


def _check_same_runs(
    store: Store, earlier: Experiment, plan: AblationPlan, data: DataSummary | None
) -> None:
    """Refuses to mix different runs or molecules under one name.

    Raises:
        InputError: the stored ablation is another one.
    """
    if earlier.provenance.get("identity") != plan.identity:
        raise InputError(
            f"the ablation '{plan.name}' must go on with the configuration, sizes and epochs that "
            "it began with; these are others: leave the name out or choose a new one"
        )
    given: dict[str, tuple[str, str]] = {}
    if data is not None:
        given = {
            "data_hash": ("molecules", data.data_hash),
            "split_hash": ("split", data.split_hash),
        }
    for name, (what, now) in given.items():
        began_with = earlier.provenance.get(name)
        if began_with not in (None, now):
            raise InputError(
                f"the ablation '{plan.name}' must go on with the {what} that it began with, whose "
                f"hash is {began_with[:12]}; got {now[:12]}; restore what it was made from, or "
                "choose a new name"
            )
    stored = store.runs(earlier.id).set_index("key")["fingerprint"].to_dict()
    for cell in plan.cells:
        if stored.get(cell.key, cell.config.fingerprint) != cell.config.fingerprint:
            # Recording it again would forget the result that it has.
            raise InputError(
                f"the cell {cell.key} of the ablation '{plan.name}' must be the network that it "
                f"was; the variant {cell.variant} derives another one now; choose a new name"
            )


def _with_this_code(earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What code the launches ran, in their order; only changes are added."""
    now = installation.code()
    return earlier if earlier and earlier[-1] == now else [*earlier, now]


def _record_plan(
    store: Store, experiment: Experiment, plan: AblationPlan, data: DataSummary | None
) -> None:
    """Adds this launch's arms, molecules and baselines to those of earlier launches."""
    stored = experiment.provenance
    changes: dict[str, Any] = {
        "variants": {
            **stored.get("variants", {}),
            **{variant.name: variant.description for variant in plan.variants},
        },
        "match": plan.match,
        "vary_split": plan.vary_split,
        "code": _with_this_code(stored.get("code", [])),
    }
    if data is not None:
        earlier = (stored.get("data") or {}).get("baselines", {})
        merged = {kind: {**earlier.get(kind, {}), **new} for kind, new in data.baselines.items()}
        changes["data"] = {**asdict(data), "baselines": merged}
    store.update_provenance(experiment.id, **changes)
    if data is not None:
        store.settle(experiment.id, data_hash=data.data_hash, split_hash=data.split_hash)
