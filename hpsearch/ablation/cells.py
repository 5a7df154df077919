"""The cells of an ablation as stored: states, errors, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import pandas as pd

from hpsearch.ablation.plan import CellKey
from hpsearch.store import StoreReader

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


@dataclass(frozen=True)
class AblationRows:
    """The stored rows of an ablation's runs, each table read once.

    The columns are those of `StoreReader`'s methods with the same names.

    Attributes:
        results: the verdicts.
        test_errors: test errors of completed runs.
        target_errors: validation errors after each epoch.
        epochs: losses and seconds of each epoch.
        runs: the runs.
    """

    results: pd.DataFrame
    test_errors: pd.DataFrame
    target_errors: pd.DataFrame
    epochs: pd.DataFrame
    runs: pd.DataFrame

    @classmethod
    def read(cls, store: StoreReader, experiment_id: int) -> Self:
        """Read the rows now."""
        return cls(
            results=store.results(experiment_id),
            test_errors=store.test_errors(experiment_id),
            target_errors=store.target_errors(experiment_id),
            epochs=store.epochs(experiment_id),
            runs=store.runs(experiment_id),
        )


def cell_table(store: StoreReader, experiment_id: int) -> pd.DataFrame:
    """Read an ablation and return its cells as `cells_of` does."""
    experiments = store.experiments().set_index("id")["provenance"]
    rows = AblationRows.read(store, experiment_id)
    return cells_of(rows, experiments.get(experiment_id, {}))


def cells_of(stored: AblationRows, provenance: Mapping[str, Any]) -> pd.DataFrame:
    """Return all cells of an ablation, in the order of the launches.

    The columns are ``CELL_COLUMNS``; values that are not known yet are empty:

    - ``validation_mae`` and ``test_mae``: with the best epoch's weights, in the target's reporting
      unit;
    - ``train_size``: of the split that was made;
    - ``seconds``: of all epochs;
    - ``reason``: of a failure;
    - ``state``: a ``running`` cell may have been abandoned by a launch that died.

    Args:
        stored: the rows.
        provenance: of the ablation.
    """
    results = {row["key"]: row for row in stored.results.to_dict("records")}
    test = stored.test_errors.set_index(["key", "target"])["mae"].to_dict()
    validation = stored.target_errors.set_index(["key", "epoch", "target"])["mae"].to_dict()
    seconds = stored.epochs.groupby("key")["seconds"].sum().to_dict()
    trained = (provenance.get("data") or {}).get("train")
    rows = []
    for run in stored.runs.to_dict("records"):
        key = CellKey.parse(run["key"])
        result = results.get(run["key"], {})
        best = result.get("best_epoch")
        rows.append(
            {
                "key": run["key"],
                "variant": key.variant,
                "target": key.target,
                "repeat": key.repeat,
                "state": _state(run, result),
                "test_mae": test.get((run["key"], key.target)),
                "validation_mae": validation.get((run["key"], best, key.target)),
                "weights": run["weights"],
                "train_size": _configured(run) if trained is None else trained,
                "epochs": result.get("epochs"),
                "best_epoch": best,
                "seconds": seconds.get(run["key"]),
                "reason": result.get("failure_message"),
            }
        )
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS)).astype(CELL_COLUMNS)


def _configured(run: dict[Any, Any]) -> int | None:
    data = run["configuration"]["data"]
    # Without the molecules, a part of them is no number.
    is_known = not data["split_file"] and "train" not in data.get("fractions", {})
    return data["train_size"] if is_known else None


def _state(run: dict[Any, Any], result: dict[Any, Any]) -> CellState:
    verdict: CellState | None = result.get("state")
    if pd.isna(run["started_at"]):
        # A cell that failed while its network was built never started, but has a verdict.
        return verdict or "waiting"
    if verdict is None:
        return "running"
    if verdict == "failed" and run["started_at"] > result["finished_at"]:
        return "running"  # tried again
    return verdict
