"""The report's comparison of arms: intervals, differences, tests over targets."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import pandas as pd

from hpsearch.config.targets import Targets
from hpsearch.report.render import Section
from hpsearch.report.text import BLANK, number, percent, unit_symbol
from hpsearch.results.comparison import comparison_table, interval_table, over_targets
from hpsearch.results.findings import AblationFindings


def comparison_sections(findings: AblationFindings, *, distinct: bool = False) -> list[Section]:
    """Return the intervals, the differences of each pair of arms, and the tests over targets."""
    comparisons = comparison_table(findings)
    targets = findings.targets
    sections = [_intervals(interval_table(findings), targets)]
    if not comparisons.empty:
        sections.append(_differences(comparisons, targets))
        sections.append(_over_targets(comparisons, distinct=distinct, is_own=findings.is_own))
    return sections


def _intervals(table: pd.DataFrame, targets: Targets) -> Section:
    arms = list(dict.fromkeys(table["arm"]))
    rows = []
    for name, of_target in groupby(table.to_dict("records"), key=lambda row: row["target"]):
        cells = {row["arm"]: _with_interval(row) for row in of_target}
        target = targets[name]
        unit = unit_symbol(target.unit)
        rows.append((target.symbol, unit, *(cells.get(arm, BLANK) for arm in arms)))
    remark = (
        "Mean over the repeats with Student's 95 % interval. The interval shows how much other "
        "seeds would change the error on the same test molecules. One repeat has no interval."
    )
    return Section("Test errors over repeats", (remark,), ("Target", "Unit", *arms), tuple(rows))


def _with_interval(row: dict[Any, Any]) -> str:
    if math.isnan(row["low"]):
        return f"{number(row['mean'])} (1 repeat)"
    half = (row["high"] - row["low"]) / 2
    return f"{number(row['mean'])} ± {number(half)} ({row['repeats']})"


def _differences(comparisons: pd.DataFrame, targets: Targets) -> Section:
    rows = tuple(
        (
            f"{row['first']} − {row['second']}",
            targets[row["target"]].symbol,
            unit_symbol(targets[row["target"]].unit),
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
        "Differences of test MAEs, first arm minus second arm. Negative: the first is better. They "
        "are taken repeat by repeat, because the arms of a repeat share their seed, their order of "
        "batches and their test molecules. The interval and p (paired t-test) are over repeats. "
        "Holm's correction is over the targets of a pair. ± molecules: the standard error from the "
        "choice of test molecules.",
    )
    header = (
        *("Pair", "Target", "Unit", "Difference", "95 % interval", "relative to the second"),
        *("± molecules", "p", "p (Holm)", "Repeats", "Verdict"),
    )
    return Section("Differences between arms", remarks, header, rows)


def _over_targets(comparisons: pd.DataFrame, *, distinct: bool, is_own: bool) -> Section:
    # Only of QM9 is it known that four of the targets are nearly one.
    table = over_targets(comparisons, distinct=distinct and not is_own)
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
    counted = "count as one target, their mean" if distinct else "count as four targets, although "
    counted += "" if distinct else "they are nearly equal; --distinct-targets counts them as one"
    energies = "" if is_own else f" U0, U, H and G {counted}."
    remarks = (
        "Wilcoxon's signed-rank test of the relative differences over targets, two-sided and "
        f"exact.{energies}",
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
