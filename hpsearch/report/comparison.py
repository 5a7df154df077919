"""What the repeats say: intervals of the arms, differences of pairs, tests over targets."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from hpsearch.ablation import cell_table
from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.errors import InputError
from hpsearch.report.render import Section
from hpsearch.report.text import BLANK, number, percent, unit_symbol
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
from hpsearch.results.tables import ablation_experiment, arms_of
from hpsearch.store import Store

LEVEL = 0.05
"""At which a difference is said to be settled, after Holm's correction."""

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


def interval_table(store: Store, ablation: str) -> pd.DataFrame:
    """Each arm's test MAE at each target with its 95 % interval over the repeats.

    Columns: arm, target, unit, repeats, mean, low, high; a single repeat has no interval.
    """
    complete = _complete(store, ablation)
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


def comparison_table(store: Store, ablation: str) -> pd.DataFrame:
    """Paired differences of test MAEs, ``first`` less ``second``, target by target.

    Compared are Table 1's three pairs and every other arm with the L0Net. Columns: ``COLUMNS``;
    ``difference``, ``low``, ``high`` and ``molecule_error`` in the target's unit, ``relative`` to
    ``second``'s mean, ``p`` of the paired t-test over repeats, ``p_holm`` adjusted over the targets
    of the pair, ``more_repeats`` that would settle an open difference.
    """
    complete = _complete(store, ablation)
    residuals = {
        (row["key"], row["target"]): row["residuals"]
        for row in store.test_residuals(ablation_experiment(store, ablation).id).to_dict("records")
    }
    rows: list[dict[str, Any]] = []
    for first, second in pairs_of(arms_of(complete)):
        rows += _pair(complete, residuals, first, second)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def pairs_of(arms: tuple[str, ...]) -> list[tuple[str, str]]:
    """The pairs that are compared: Table 1's, and every other arm with the L0Net."""
    pairs = [("L1Net", "L0Net"), ("L0NetDeep", "L0Net"), ("L1Net", "L0NetDeep")]
    pairs += [(arm, "L0Net") for arm in arms if arm not in ("L1Net", "L0Net", "L0NetDeep")]
    return [pair for pair in pairs if set(pair) <= set(arms)]


def over_targets(comparisons: pd.DataFrame, *, distinct: bool = False) -> pd.DataFrame:
    """The signed-rank test of each pair's relative differences over the targets.

    Args:
        comparisons: of :func:`comparison_table`.
        distinct: whether U0, U, H and G count once.

    Returns:
        Columns first, second, targets, mean_relative, p, and refusal: why there is no p.
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


def _complete(store: Store, ablation: str) -> pd.DataFrame:
    cells = cell_table(store, ablation_experiment(store, ablation).id)
    return cells[(cells["state"] == "complete") & cells["test_mae"].notna()]


def _errors(complete: pd.DataFrame, arm: str, name: str) -> pd.Series[Any]:
    """Test MAEs of an arm at a target, by repeat."""
    mine = complete[(complete["variant"] == arm) & (complete["target"] == name)]
    return mine.set_index("repeat")["test_mae"].astype(float).sort_index()


def _pair(
    complete: pd.DataFrame,
    residuals: dict[tuple[str, str], Any],
    first: str,
    second: str,
) -> list[dict[str, Any]]:
    """The pair's rows, one for each target at which both have completed a repeat."""
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
    """Of the mean difference; NaN where residuals of a repeat were not recorded."""
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


# --- Sections ------------------------------------------------------------------------------------


def comparison_sections(store: Store, ablation: str, *, distinct: bool = False) -> list[Section]:
    """The intervals, the differences of each pair, and the tests over targets."""
    comparisons = comparison_table(store, ablation)
    found = [_intervals(interval_table(store, ablation))]
    if not comparisons.empty:
        found += [_differences(comparisons), _over_targets(comparisons, distinct)]
    return found


def _intervals(table: pd.DataFrame) -> Section:
    arms = list(dict.fromkeys(table["arm"]))
    rows = []
    for name, of_target in groupby(table.to_dict("records"), key=lambda row: row["target"]):
        cells = {row["arm"]: _with_interval(row) for row in of_target}
        unit = unit_symbol(target(name).unit)
        rows.append((target(name).symbol, unit, *(cells.get(arm, BLANK) for arm in arms)))
    remark = (
        "Mean over the repeats, a repeat's molecules averaged first, with Student's 95 % interval: "
        "what other seeds would give on the same test molecules. One repeat has no interval."
    )
    return Section("Test errors over repeats", (remark,), ("Target", "Unit", *arms), tuple(rows))


def _with_interval(row: dict[Any, Any]) -> str:
    if math.isnan(row["low"]):
        return f"{number(row['mean'])} (1 repeat)"
    half = (row["high"] - row["low"]) / 2
    return f"{number(row['mean'])} ± {number(half)} ({row['repeats']})"


def _differences(comparisons: pd.DataFrame) -> Section:
    rows = tuple(
        (
            f"{row['first']} − {row['second']}",
            target(row["target"]).symbol,
            unit_symbol(target(row["target"]).unit),
            number(row["difference"], sign=True),
            _range(row["low"], row["high"]),
            percent(row["relative"]),
            number(row["molecule_error"]),
            _p(row["p"]),
            _p(row["p_holm"]),
            str(row["repeats"]),
            row["verdict"],
        )
        for row in comparisons.to_dict("records")
    )
    remarks = (
        "Differences of test MAEs repeat by repeat: the arms of a repeat share their seed, their "
        "order of batches and their test molecules. Negative: the first is better. The interval "
        "and p (paired t-test) are over repeats; Holm's correction is over the targets of a pair. "
        "± molecules is the standard error that other test molecules would bring.",
    )
    header = (
        *("Pair", "Target", "Unit", "Difference", "95 % interval", "of the second"),
        *("± molecules", "p", "p (Holm)", "Repeats", "Verdict"),
    )
    return Section("Differences between arms", remarks, header, rows)


def _over_targets(comparisons: pd.DataFrame, distinct: bool) -> Section:
    table = over_targets(comparisons, distinct=distinct)
    rows = tuple(
        (
            f"{row['first']} − {row['second']}",
            str(row["targets"]),
            percent(row["mean_relative"]),
            _p(row["p"]),
            row["refusal"],
        )
        for row in table.to_dict("records")
    )
    counted = "count once, by their mean" if distinct else "count as four, though they are nearly "
    counted += "" if distinct else "one target; --distinct-targets counts them once"
    remarks = (
        "Wilcoxon's signed-rank test, two-sided and exact, of the relative differences over "
        f"targets. U0, U, H and G {counted}.",
    )
    header = ("Pair", "Targets", "Mean relative difference", "p", "Not tested because")
    return Section("Over the targets", remarks, header, rows)


def _range(low: float, high: float) -> str:
    if pd.isna(low):
        return BLANK
    return f"{number(low, sign=True)} to {number(high, sign=True)}"


def _p(value: Any) -> str:
    if pd.isna(value):
        return BLANK
    return "<0.001" if value < 0.001 else f"{value:.3f}"
