"""Arms compared: intervals over repeats, differences of pairs, tests over targets.

And whether the validation error that chose an arm is near that arm's test error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.errors import InputError
from hpsearch.results.findings import AblationFindings
from hpsearch.results.significance import (
    Difference,
    distinct_targets,
    holm,
    mean_interval,
    molecule_error,
    paired_difference,
    repeats_to_settle,
    signed_rank_test,
)
from hpsearch.results.tables import arms_of

LEVEL = 0.05
"""A difference is called settled if its p, after Holm's correction, is below this."""

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
    """Each arm's test MAE at each target with its 95 % interval over the repeats.

    Columns: arm, target, unit, repeats, mean, low, high; a single repeat has no interval.
    """
    complete = _complete(findings)
    rows = [
        {
            "arm": arm,
            "target": name,
            "unit": target(name).unit,
            "repeats": (found := mean_interval(errors)).count,
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
        }
        for name in TARGET_NAMES
        for arm in arms_of(complete)
        if (errors := _errors(complete, arm, name).tolist())
    ]
    return pd.DataFrame(rows, columns=["arm", "target", "unit", "repeats", "mean", "low", "high"])


def comparison_table(findings: AblationFindings) -> pd.DataFrame:
    """Paired differences of test MAEs, ``first`` less ``second``, target by target.

    The pairs are those of :func:`pairs_of`. Columns: ``COLUMNS``; ``difference``, ``low``, ``high``
    and ``molecule_error`` in the target's unit, ``relative`` to ``second``'s mean, ``p`` of the
    paired t-test over repeats, ``p_holm`` adjusted over the targets of the pair, ``more_repeats``
    the number of repeats that would bring an open difference below ``LEVEL``.
    """
    complete = _complete(findings)
    residuals = {
        (row["key"], row["target"]): row["residuals"]
        for row in findings.residuals.to_dict("records")
    }
    rows: list[dict[str, Any]] = []
    for first, second in pairs_of(arms_of(complete)):
        rows += _pair(complete, residuals, first, second)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def pairs_of(arms: tuple[str, ...]) -> list[tuple[str, str]]:
    """The pairs that are compared: Table 1's three, and every other arm with the L0Net."""
    pairs = [("L1Net", "L0Net"), ("L0NetDeep", "L0Net"), ("L1Net", "L0NetDeep")]
    pairs += [(arm, "L0Net") for arm in arms if arm not in ("L1Net", "L0Net", "L0NetDeep")]
    return [pair for pair in pairs if set(pair) <= set(arms)]


def over_targets(comparisons: pd.DataFrame, *, distinct: bool = False) -> pd.DataFrame:
    """The signed-rank test of each pair's relative differences over the targets.

    Args:
        comparisons: the table of :func:`comparison_table`.
        distinct: whether U0, U, H and G count once.

    Returns:
        Columns: first, second, targets, mean_relative, p, refusal (why there is no p).
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
    """The test MAEs of an arm at a target, by repeat."""
    mine = complete[(complete["variant"] == arm) & (complete["target"] == name)]
    return mine.set_index("repeat")["test_mae"].astype(float).sort_index()


def _pair(
    complete: pd.DataFrame,
    residuals: dict[tuple[str, str], Any],
    first: str,
    second: str,
) -> list[dict[str, Any]]:
    """The pair's rows, one for each target at which both arms have completed the same repeat."""
    found: dict[str, tuple[Difference, dict[str, Any]]] = {}
    for name in TARGET_NAMES:
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
        found[name] = (difference, row)
    adjusted = holm({name: row["p"] for name, (_, row) in found.items()})
    return [
        row | _judged(difference, row, adjusted[name], len(found))
        for name, (difference, row) in found.items()
    ]


def _molecule_error(
    residuals: dict[tuple[str, str], Any], first: str, second: str, name: str, repeats: list[int]
) -> float:
    """The standard error over molecules; NaN where the store lacks residuals of a repeat."""
    keys = [[(f"{arm}/{name}/{repeat}", name) for repeat in repeats] for arm in (first, second)]
    if any(key not in residuals for of_arm in keys for key in of_arm):
        return math.nan
    ours, theirs = (np.stack([residuals[key] for key in of_arm]) for of_arm in keys)
    return molecule_error(ours, theirs)


def _judged(
    difference: Difference, row: dict[str, Any], p_holm: float, tests: int
) -> dict[str, Any]:
    more: int | None = None
    if row["repeats"] == 1:
        verdict = "open: one repeat, two are the least"
    elif p_holm < LEVEL:
        verdict = f"settled: {row['first'] if row['difference'] < 0 else row['second']} is better"
    else:
        more = repeats_to_settle(difference, level=LEVEL / tests)
        verdict = (
            "open: more than 100 repeats would be needed"
            if more is None
            else f"open: about {more} more repeat{'s' * (more > 1)} would settle this"
        )
    return {"p_holm": p_holm, "more_repeats": more, "verdict": verdict}


# --- Validation and test errors -------------------------------------------------------------------

PARTED = 3.0
"""Two errors of one network are said to part if they are more standard errors apart than this."""

GAP_COLUMNS = {
    "target": "str",
    "arm": "str",
    "repeats": "Int64",
    "validation_mae": "Float64",
    "test_mae": "Float64",
    "standard_error": "Float64",
    "parted_by": "Float64",
}


def validation_gaps(findings: AblationFindings) -> pd.DataFrame:
    """The validation and the test error of each target's best arm.

    The best arm is :func:`best_arm`'s. Let s be the standard deviation of the absolute error over
    the test molecules, averaged over the repeats first, so that a molecule counts once. The
    standard error of the difference of two means over other molecules is

        s sqrt(1/n_validation + 1/n_test).

    Columns: ``GAP_COLUMNS``; errors in the target's reporting unit; ``parted_by`` is test less
    validation in standard errors. ``standard_error`` and ``parted_by`` are empty where the store
    lacks residuals.
    """
    cells = findings.complete.dropna(subset=["validation_mae", "test_mae"])
    recorded = findings.residuals
    residuals = dict(zip(recorded["key"], recorded["residuals"], strict=True))
    rows = [
        _gap(best_arm(of_target), residuals, findings.data.get("validation"))
        for name in TARGET_NAMES
        if len(of_target := cells[cells["target"] == name])
    ]
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS)).astype(GAP_COLUMNS)


def best_arm(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of the arm with the lowest validation MAE, averaged over its completed repeats.

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
    return {**row, "standard_error": error, "parted_by": difference / error}


def _standard_error(residuals: list[np.ndarray[Any, Any]], validation: int | None) -> float | None:
    """The gap's standard error; ``None`` where it is unknown or zero."""
    if not residuals or not validation or len({len(one) for one in residuals}) > 1:
        return None
    of_molecule = np.abs(np.stack(residuals)).mean(axis=0)
    if len(of_molecule) < 2:
        return None
    deviation = float(of_molecule.std(ddof=1))
    return deviation * math.sqrt(1 / validation + 1 / len(of_molecule)) or None
