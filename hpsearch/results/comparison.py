"""Comparison of arms: intervals over repeats, differences of pairs, tests over targets.

Also compares the validation error and the test error of each target's best arm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from hpsearch.results.findings import AblationFindings
from hpsearch.results.significance import (
    Difference,
    distinct_targets,
    holm,
    mean_interval,
    molecule_error,
    more_repeats_needed,
    paired_difference,
    signed_rank_test,
)
from hpsearch.results.tables import arms_of
from hpsearch.system.errors import InputError

LEVEL = 0.05
"""Significance level: a difference is significant if its p after Holm's correction is below it."""

COLUMNS = {
    "first": "str",
    "second": "str",
    "target": "str",
    "repeats": "Int64",
    "difference": "Float64",
    "low": "Float64",
    "high": "Float64",
    "relative": "Float64",
    "molecule_error": "Float64",
    "p": "Float64",
    "p_holm": "Float64",
    "more_repeats": "Int64",
    "verdict": "str",
}


def interval_table(findings: AblationFindings) -> pd.DataFrame:
    """Return each arm's test MAE for each target with its 95 % interval over the repeats.

    Columns: arm, target, unit, repeats, mean, low, high. A single repeat has no interval.
    """
    complete = _complete(findings)
    rows = [
        {
            "arm": arm,
            "target": target.name,
            "unit": target.unit,
            "repeats": (interval := mean_interval(errors)).count,
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
        }
        for target in findings.targets
        for arm in arms_of(complete)
        if (errors := _errors(complete, arm, target.name).tolist())
    ]
    return pd.DataFrame(rows, columns=["arm", "target", "unit", "repeats", "mean", "low", "high"])


def comparison_table(findings: AblationFindings) -> pd.DataFrame:
    """Return the paired differences of test MAEs, ``first`` minus ``second``, for each target.

    The pairs are those of :func:`pairs_of`. The columns are ``COLUMNS``:

    - ``difference``, ``low``, ``high``, ``molecule_error``: in the target's unit;
    - ``relative``: the difference divided by the mean of ``second``;
    - ``p``: of the paired t-test over repeats; ``p_holm``: corrected over the targets of the pair;
    - ``more_repeats``: repeats to add until p would be below ``LEVEL``.
    """
    complete = _complete(findings)
    residuals = {
        (row["key"], row["target"]): row["residuals"]
        for row in findings.residuals.to_dict("records")
    }
    rows: list[dict[str, Any]] = []
    for first, second in pairs_of(arms_of(complete)):
        rows += _pair(complete, findings.targets.names, residuals, first, second)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def pairs_of(arms: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs of arms to compare: Table 1's three, and every other arm with the L0Net."""
    pairs = [("L1Net", "L0Net"), ("L0NetDeep", "L0Net"), ("L1Net", "L0NetDeep")]
    pairs += [(arm, "L0Net") for arm in arms if arm not in ("L1Net", "L0Net", "L0NetDeep")]
    return [pair for pair in pairs if set(pair) <= set(arms)]


def over_targets(comparisons: pd.DataFrame, *, distinct: bool = False) -> pd.DataFrame:
    """Return the signed-rank test over targets of each pair's relative differences.

    Args:
        comparisons: the table of :func:`comparison_table`.
        distinct: whether U0, U, H and G count as one target.

    Returns:
        Columns: first, second, targets, mean_relative, p, refusal (the reason if there is no p).
    """
    rows = []
    for (first, second), of_pair in comparisons.groupby(["first", "second"], sort=False):
        relative = dict(zip(of_pair["target"], of_pair["relative"].astype(float), strict=True))
        if distinct:
            relative = distinct_targets(relative)
        p, refusal = math.nan, ""
        try:
            p = signed_rank_test(list(relative.values()))
        except InputError as error:
            refusal = str(error)
        rows.append((first, second, len(relative), np.mean(list(relative.values())), p, refusal))
    columns = ["first", "second", "targets", "mean_relative", "p", "refusal"]
    return pd.DataFrame(rows, columns=columns)


def _complete(findings: AblationFindings) -> pd.DataFrame:
    return findings.complete.dropna(subset=["test_mae"])


def _errors(complete: pd.DataFrame, arm: str, name: str) -> pd.Series[Any]:
    """Return the test MAEs of an arm for a target, by repeat."""
    mine = complete[(complete["variant"] == arm) & (complete["target"] == name)]
    return mine.set_index("repeat")["test_mae"].astype(float).sort_index()


def _pair(
    complete: pd.DataFrame,
    targets: tuple[str, ...],
    residuals: dict[tuple[str, str], Any],
    first: str,
    second: str,
) -> list[dict[str, Any]]:
    """Return the pair's rows: one per target for which both arms completed the same repeat."""
    compared: dict[str, tuple[Difference, dict[str, Any]]] = {}
    for name in targets:
        ours, theirs = (_errors(complete, arm, name) for arm in (first, second))
        repeats = ours.index.intersection(theirs.index)
        if repeats.empty:
            continue
        ours, theirs = ours[repeats], theirs[repeats]
        difference = paired_difference(ours.tolist(), theirs.tolist())
        row = {
            "first": first,
            "second": second,
            "target": name,
            "repeats": len(repeats),
            "difference": difference.interval.mean,
            "low": difference.interval.low,
            "high": difference.interval.high,
            "relative": difference.interval.mean / theirs.mean() if theirs.mean() else math.nan,
            "molecule_error": _molecule_error(residuals, first, second, name, repeats.tolist()),
            "p": difference.p_value,
        }
        compared[name] = (difference, row)
    adjusted = holm({name: row["p"] for name, (_, row) in compared.items()})
    return [
        row | _significance(difference, row, adjusted[name], len(compared))
        for name, (difference, row) in compared.items()
    ]


def _molecule_error(
    residuals: dict[tuple[str, str], Any], first: str, second: str, name: str, repeats: list[int]
) -> float:
    """Return the standard error over molecules; NaN if it is not known.

    It is not if the store lacks a repeat's residuals, or if fewer than two molecules have the
    target.
    """
    keys = [[(f"{arm}/{name}/{repeat}", name) for repeat in repeats] for arm in (first, second)]
    if any(key not in residuals for of_arm in keys for key in of_arm):
        return math.nan
    ours, theirs = (np.stack([residuals[key] for key in of_arm]) for of_arm in keys)
    return molecule_error(ours, theirs)


def _significance(
    difference: Difference, row: dict[str, Any], p_holm: float, tests: int
) -> dict[str, Any]:
    more: int | None = None
    if row["repeats"] == 1:
        verdict = "not tested: at least two repeats are needed"
    elif p_holm < LEVEL:
        better = row["first"] if row["difference"] < 0 else row["second"]
        verdict = f"significant: {better} is better"
    else:
        more = more_repeats_needed(difference, level=LEVEL / tests)
        verdict = (
            "not significant: more than 100 repeats would be needed"
            if more is None
            else f"not significant: about {more} more repeat{'s' * (more > 1)} needed"
        )
    return {"p_holm": p_holm, "more_repeats": more, "verdict": verdict}


# --- Validation and test errors -------------------------------------------------------------------

LARGE_GAP = 3.0
"""Standard errors between validation and test error above which the report warns."""

GAP_COLUMNS = {
    "target": "str",
    "arm": "str",
    "repeats": "Int64",
    "validation_mae": "Float64",
    "test_mae": "Float64",
    "standard_error": "Float64",
    "standard_errors_apart": "Float64",
}


def validation_gaps(findings: AblationFindings) -> pd.DataFrame:
    """Return the validation error and the test error of each target's best arm.

    :func:`best_arm` chooses the arm. The standard error of the difference of the two means is

        s sqrt(1/n_validation + 1/n_test),

    where s is the standard deviation of the absolute error over the test molecules. A molecule's
    error is first averaged over the repeats, so that a molecule counts once. Only molecules with
    a known target count. Those of the validation set are not recorded; the same part of them as of
    the test molecules is taken to have it.

    Columns: ``GAP_COLUMNS``. Errors are in the target's reporting unit. ``standard_errors_apart``
    is test minus validation, divided by ``standard_error``. Both are empty if the store lacks
    residuals.
    """
    cells = findings.complete.dropna(subset=["validation_mae", "test_mae"])
    recorded = findings.residuals
    residuals = dict(zip(recorded["key"], recorded["residuals"], strict=True))
    rows = [
        _gap(best_arm(of_target), residuals, findings.data.get("validation"))
        for name in findings.targets.names
        if len(of_target := cells[cells["target"] == name])
    ]
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS)).astype(GAP_COLUMNS)


def best_arm(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the arm with the lowest mean validation MAE.

    Args:
        cells: the completed cells of one target.
    """
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
    return {**row, "standard_error": error, "standard_errors_apart": difference / error}


def _standard_error(residuals: list[np.ndarray[Any, Any]], validation: int | None) -> float | None:
    """Return the standard error of the gap; ``None`` if it is unknown or zero."""
    if not residuals or not validation or len({len(one) for one in residuals}) > 1:
        return None
    of_molecule = np.abs(np.stack(residuals)).mean(axis=0)
    known = of_molecule[~np.isnan(of_molecule)]
    if len(known) < 2:
        return None
    deviation = float(known.std(ddof=1))
    validated = validation * (len(known) / len(of_molecule))
    return deviation * math.sqrt(1 / validated + 1 / len(known)) or None
