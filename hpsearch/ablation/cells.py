"""What the store knows of an ablation's cells."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

from hpsearch.store import Store

CellState = Literal["waiting", "running", "complete", "failed"]
STATES: tuple[CellState, ...] = ("waiting", "running", "complete", "failed")

CELL_COLUMNS = {
    "key": "str",
    "variant": "str",
    "target": "str",
    "repeat": "Int64",
    "state": "str",
    "test_mae": "Float64",
    "validation_mae": "Float64",
    "weights": "Int64",
    "train_size": "Int64",
    "epochs": "Int64",
    "best_epoch": "Int64",
    "seconds": "Float64",
    "reason": "str",
}


def cell_table(store: Store, experiment_id: int) -> pd.DataFrame:
    """Every cell of an ablation as it stands in the store, in the order of the launches.

    Columns: ``CELL_COLUMNS``; errors in the target's reporting unit, ``validation_mae`` and
    ``test_mae`` with the best epoch's weights, ``train_size`` of the split that was made,
    ``seconds`` of all epochs, ``reason`` of a failure. Empty where not known yet. A cell that is
    ``running`` may be one that a launch left behind: the store does not know whether its driver
    lives.
    """
    results = {row["key"]: row for row in store.results(experiment_id).to_dict("records")}
    test = store.test_errors(experiment_id).set_index(["key", "target"])["mae"].to_dict()
    errors = store.target_errors(experiment_id).set_index(["key", "epoch", "target"])
    validation = errors["mae"].to_dict()
    seconds = store.epochs(experiment_id).groupby("key")["seconds"].sum().to_dict()
    trained = _training_molecules(store, experiment_id)
    rows = []
    for run in store.runs(experiment_id).to_dict("records"):
        variant, target, repeat = run["key"].split("/")
        result = results.get(run["key"], {})
        best = result.get("best_epoch")
        rows.append(
            {
                "key": run["key"],
                "variant": variant,
                "target": target,
                "repeat": int(repeat),
                "state": _state(run, result),
                "test_mae": test.get((run["key"], target)),
                "validation_mae": validation.get((run["key"], best, target)),
                "weights": run["weights"],
                "train_size": _configured(run) if trained is None else trained,
                "epochs": result.get("epochs"),
                "best_epoch": best,
                "seconds": seconds.get(run["key"]),
                "reason": result.get("failure_message"),
            }
        )
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS)).astype(CELL_COLUMNS)


def _training_molecules(store: Store, experiment_id: int) -> int | None:
    """Training molecules that the launch has counted; ``None`` where it counted none."""
    experiments = store.experiments().set_index("id")["provenance"]
    data = experiments.get(experiment_id, {}).get("data") or {}
    return data.get("train")


def _configured(run: dict[Any, Any]) -> int | None:
    data = run["configuration"]["data"]
    return None if data["split_file"] else data["train_size"]


def _state(run: dict[Any, Any], result: dict[Any, Any]) -> CellState:
    verdict: CellState | None = result.get("state")
    if pd.isna(run["started_at"]):
        # One that failed in the building has a verdict all the same.
        return verdict or "waiting"
    if verdict is None:
        return "running"
    if verdict == "failed" and run["started_at"] > result["finished_at"]:
        return "running"  # tried again
    return verdict
