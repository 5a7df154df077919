"""Create or continue an ablation: the checks, the lease and the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.ablation.work import Ablation
from hpsearch.config.export import Winner
from hpsearch.store import Experiment, Store
from hpsearch.system import installation
from hpsearch.system.errors import InputError


def launch_ablation(
    store: Store,
    winner: Winner,
    plan: AblationPlan,
    runs_root: Path,
    data: DataSummary | None = None,
    *,
    wait: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Ablation:
    """Create the ablation, or continue the one with this name.

    Args:
        store: opened by `Store.create`.
        winner: the exported configuration, stored as provenance.
        plan: the plan, with its cells.
        runs_root: folder that contains the experiments' folders.
        data: summary of the molecules. It sets the split of all cells and the report's baselines.
        wait: whether to wait for the end of another launch that drives the ablation.
        say: called with the driver of the ablation if this call waits.

    Raises:
        LeaseHeld: another launch drives the ablation, and ``wait`` is not set.
        InputError: the store has an ablation of this name with other runs or other molecules.
    """
    earlier = store.experiment("ablation", plan.name)
    if earlier is not None:
        _check_same_runs(store, earlier, plan, data)
    export = winner.model_dump(mode="json")
    experiment = store.begin_experiment(
        "ablation", plan.name, {"identity": plan.identity, "winner": export}
    )
    store.drive(experiment, wait=wait, say=say)
    # Read again, now that no other launch can change it.
    experiment = store.experiment("ablation", plan.name) or experiment
    _check_same_runs(store, experiment, plan, data)
    _record_plan(store, experiment, plan, data)
    directory = runs_root.absolute() / experiment.folder_name
    run_ids = {
        (key := str(cell.key)): store.record_run(
            experiment.id, key, cell.config, str(directory / cell.key.folder)
        ).id
        for cell in plan.cells
    }
    results = store.results(experiment.id)
    complete = set(results.loc[results["state"] == "complete", "key"])
    expected = plan.expected_split if data is None else data.split_hash
    expected = experiment.provenance.get("split_hash") or expected
    return Ablation(store, experiment, plan, run_ids, complete, directory, expected)


def _check_same_runs(
    store: Store, earlier: Experiment, plan: AblationPlan, data: DataSummary | None
) -> None:
    """Refuse to mix different runs or molecules under one name.

    Raises:
        InputError: the stored ablation has other runs or molecules.
    """
    if earlier.provenance.get("identity") != plan.identity:
        raise InputError(
            f"the ablation '{plan.name}' must continue with the configuration, sizes and epochs "
            "of its first launch; these are different; leave out the name or choose a new one"
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
                f"the ablation '{plan.name}' must continue with the {what} of its first launch, "
                f"whose hash is {began_with[:12]}; got {now[:12]}; restore the data, or choose a "
                "new name"
            )
    stored = store.runs(earlier.id).set_index("key")["fingerprint"].to_dict()
    for cell in plan.cells:
        if stored.get(str(cell.key), cell.config.fingerprint) != cell.config.fingerprint:
            # Recording the other network would overwrite the stored result.
            raise InputError(
                f"the cell {cell.key} of the ablation '{plan.name}' must have the same network as "
                f"before; the variant {cell.key.variant} now gives another one; choose a new name"
            )


def _with_this_code(earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the code of each launch in order; add this launch's code if it is another one."""
    now = installation.code()
    return earlier if earlier and earlier[-1] == now else [*earlier, now]


def _record_plan(
    store: Store, experiment: Experiment, plan: AblationPlan, data: DataSummary | None
) -> None:
    """Record this launch's arms, molecules and baselines, with those of earlier launches."""
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
        store.fill_provenance(experiment.id, data_hash=data.data_hash, split_hash=data.split_hash)
