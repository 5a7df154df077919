"""Whether the errors that chose a winner are those that new molecules have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from hpsearch.ablation import cell_table
from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.report.render import Section
from hpsearch.report.text import number
from hpsearch.results.tables import ablation_experiment, arms_of
from hpsearch.store import Store

PARTED = 3.0
"""Standard errors beyond which two errors of one network are said to part."""

GAP_COLUMNS = {
    "target": "str",
    "arm": "str",
    "repeats": "Int64",
    "validation_mae": "Float64",
    "test_mae": "Float64",
    "standard_error": "Float64",
    "parted_by": "Float64",
}


def validation_gaps(store: Store, ablation: str) -> pd.DataFrame:
    """For each target, the validation and the test error of the arm that validation chooses.

    The arm of the lowest validation MAE, averaged over its completed repeats. With s the standard
    deviation over test molecules of the absolute error (averaged over the repeats first, so that a
    molecule counts once), the difference of two means over other molecules has the standard error

        s sqrt(1/n_validation + 1/n_test).

    Columns: ``GAP_COLUMNS``; errors in the target's reporting unit; ``parted_by`` is test less
    validation in standard errors. The last two are empty where no residuals were recorded.

    Raises:
        InputError: the store has no such ablation.
    """
    experiment = ablation_experiment(store, ablation)
    cells = cell_table(store, experiment.id)
    cells = cells[
        (cells["state"] == "complete") & cells[["validation_mae", "test_mae"]].notna().all(axis=1)
    ]
    recorded = store.test_residuals(experiment.id)
    residuals = dict(zip(recorded["key"], recorded["residuals"], strict=True))
    molecules = (experiment.provenance.get("data") or {}).get("validation")
    rows = [
        _gap(best_arm(of_target), residuals, molecules)
        for name in TARGET_NAMES
        if len(of_target := cells[cells["target"] == name])
    ]
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS)).astype(GAP_COLUMNS)


def best_arm(cells: pd.DataFrame) -> pd.DataFrame:
    """Of one target's completed cells, those of the arm with the lowest mean validation MAE."""
    means = {
        arm: float(errors.mean())
        for arm in arms_of(cells)
        if len(errors := cells.loc[cells["variant"] == arm, "validation_mae"])
    }
    best = min(means, key=lambda arm: means[arm])
    return cells[cells["variant"] == best]


def _gap(
    cells: pd.DataFrame, residuals: dict[str, np.ndarray[Any, Any]], validation: int | None
) -> dict[str, Any]:
    first = cells.iloc[0]
    row = {
        "target": first["target"],
        "arm": first["variant"],
        "repeats": len(cells),
        "validation_mae": float(cells["validation_mae"].mean()),
        "test_mae": float(cells["test_mae"].mean()),
    }
    known = [residuals[key] for key in cells["key"] if key in residuals]
    error = _standard_error(known, validation)
    if error is None:
        return row
    difference = row["test_mae"] - row["validation_mae"]
    return {**row, "standard_error": error, "parted_by": difference / error}


def _standard_error(residuals: list[np.ndarray[Any, Any]], validation: int | None) -> float | None:
    """``None`` where it cannot be known, or where every molecule has the same error."""
    if not residuals or not validation or len({len(one) for one in residuals}) > 1:
        return None
    of_molecule = np.abs(np.stack(residuals)).mean(axis=0)
    if len(of_molecule) < 2:
        return None
    deviation = float(of_molecule.std(ddof=1))
    return deviation * math.sqrt(1 / validation + 1 / len(of_molecule)) or None


def validation_gap_section(store: Store, ablation: str) -> Section:
    """The winners' validation and test errors, with a warning where they part."""
    gaps = validation_gaps(store, ablation)
    title = "Validation and test errors of the best arms"
    if gaps.empty:
        return Section(title, ("No network is complete yet.",))
    rows = tuple(_row(gap) for gap in gaps.to_dict("records"))
    header = (
        "Target",
        "Unit",
        "Arm",
        "Validation",
        "Test",
        "Standard error",
        "Parted by",
        "Verdict",
    )
    return Section(title, (_METHOD, *_warnings(gaps)), header, rows)


_METHOD = (
    "The arm of the lowest validation error at each target, averaged over its completed repeats. "
    "The standard error of the difference is s·√(1/validation + 1/test molecules), where s is the "
    "standard deviation of a test molecule's absolute error. The epoch was chosen on the "
    "validation molecules, so a test error that is a little higher is expected."
)


def _row(gap: dict[Any, Any]) -> tuple[str, ...]:
    of, parted = target(gap["target"]), gap["parted_by"]
    known = not pd.isna(parted)
    return (
        of.symbol,
        of.unit,
        gap["arm"],
        number(gap["validation_mae"]),
        number(gap["test_mae"]),
        number(gap["standard_error"]),
        f"{parted:+.1f}" if known else "",
        ("they part" if abs(parted) > PARTED else "they agree") if known else "unknown",
    )


def _warnings(gaps: pd.DataFrame) -> tuple[str, ...]:
    known = gaps.dropna(subset=["parted_by"])
    parted = known[known["parted_by"].abs() > PARTED]
    said = [_warning(gap) for gap in parted.to_dict("records")]
    if len(known) < len(gaps):
        said.append(
            "Unknown where the errors of single test molecules were not recorded: an earlier "
            "version trained those networks."
        )
    if parted.empty and len(known) == len(gaps):
        said.append(f"No two of them are more than {PARTED:.0f} standard errors apart.")
    return tuple(said)


def _warning(gap: dict[Any, Any]) -> str:
    of = target(gap["target"])
    side = "higher" if gap["parted_by"] > 0 else "lower"
    return (
        f"Warning: {of.symbol}: the test error of {gap['arm']}, {number(gap['test_mae'])} "
        f"{of.unit}, is {abs(gap['parted_by']):.1f} standard errors {side} than the validation "
        f"error that chose it, {number(gap['validation_mae'])} {of.unit}: the validation molecules "
        "do not stand for new ones; choose on more of them, or split anew."
    )
