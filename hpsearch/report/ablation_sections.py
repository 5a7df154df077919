"""The report's sections on an ablation: Table 1, its arms, the failures, the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from hpsearch.ablation.variants import VARIANTS
from hpsearch.report.render import Section
from hpsearch.report.text import BLANK, duration, number, percent, settings, unit_symbol
from hpsearch.results import published
from hpsearch.results.comparison import interval_table
from hpsearch.results.findings import AblationFindings
from hpsearch.results.published import COMPARISONS
from hpsearch.results.tables import (
    BASELINES,
    arms_of,
    averages,
    table1,
    weights_of,
)

PACKAGED_MOLECULES = 130_831
"""Molecules of QM9 in the package: all except the 3,054 uncharacterized ones."""

_PAPER_MOLECULES = 133_885

_HEADINGS = {
    "relative_L1_L0": "%E(L1,L0)",
    "relative_Deep_L0": "%E(Deep,L0)",
    "delta_L1_Deep": "ΔE(L1,Deep)",
    "relative_L1_Deep": "%E(L1,Deep)",
}


_NAIVE = (
    "Mean and composition are predictions without a geometry: the mean of the training "
    "molecules, and a linear fit on the counts of each element. A useful network beats both."
)

_SIGNS = (
    "ΔE(X,Y) is the error of X minus the error of Y. %E = ΔE / L0Net's error, in every column. "
    "Negative: X is better. Averages are over the targets in the table that have the value."
)


def table1_sections(findings: AblationFindings) -> list[Section]:
    """Return Table 1 in three sections: errors, differences of errors, arms."""
    table = table1(findings)
    arms = arms_of(findings.cells)
    if findings.is_own:
        errors = _own_errors(table, arms, findings)
        return [errors, _own_differences(table), _arms(findings, arms)]
    return [_errors(table, arms, findings.data), _differences(table), _arms(findings, arms)]


def _own_errors(table: pd.DataFrame, arms: tuple[str, ...], findings: AblationFindings) -> Section:
    """Return the errors with their intervals, without the published columns."""
    known = {
        (row["target"], row["arm"]): row for row in interval_table(findings).to_dict("records")
    }

    def error(name: object, arm: str) -> str:
        if (row := known.get((str(name), arm))) is None:
            return BLANK
        half = (row["high"] - row["low"]) / 2
        return number(row["mean"]) + ("" if pd.isna(half) else f" ± {number(half)}")

    rows = tuple(
        (
            row["symbol"],
            unit_symbol(row["unit"]),
            *(number(row[column]) for column in BASELINES),
            *(error(name, arm) for arm in arms),
        )
        for name, row in table.iterrows()
    )
    remarks = [_sizes(_train_molecules(table), findings.data), _NAIVE]
    if any(row["repeats"] > 1 for row in known.values()):
        remarks.append("± is half of Student's 95 % interval over the repeats.")
    return Section(
        "Table 1: test errors",
        tuple(remarks),
        ("Target", "Unit", "Mean", "Composition", *arms),
        rows,
        (
            *("", ""),
            *["without a geometry"] * len(BASELINES),
            *["networks"] * len(arms),
        ),
    )


def _own_differences(table: pd.DataFrame) -> Section:
    """Return the differences of the arms, without the published columns."""
    columns = list(COMPARISONS)
    rows = (*_difference_rows(table, columns), _average_row(table, columns))
    header = ("Target", "Unit of ΔE", *_HEADINGS.values())
    return Section("Table 1: differences", (_SIGNS,), header, rows)


def _errors(table: pd.DataFrame, arms: tuple[str, ...], data: dict[str, Any]) -> Section:
    train = _train_molecules(table)
    others, theirs = published.NETWORKS[:3], published.NETWORKS[3:]
    columns = [*BASELINES, *arms, *(f"paper_{name}" for name in published.NETWORKS)]
    rows = [
        (row["symbol"], unit_symbol(row["unit"]), *(number(row[column]) for column in columns))
        for _, row in table.iterrows()
    ]
    return Section(
        "Table 1: test errors",
        _error_remarks(train, data),
        ("Target", "Unit", "Mean", "Composition", *arms, *others, *theirs),
        tuple(rows),
        (
            *("", ""),
            *["without a geometry"] * len(BASELINES),
            *[_ours(train)] * len(arms),
            *["published, other sizes"] * len(others),
            *[_paper(train)] * len(theirs),
        ),
    )


def _train_molecules(table: pd.DataFrame) -> int:
    known = table["train_molecules"].dropna()
    return 0 if known.empty else int(known.max())


def _ours(train: int) -> str:
    return f"ours, {train:,} molecules" if train else "ours"


def _paper(train: int) -> str:
    comparable = "" if train >= published.TRAIN_MOLECULES else ", not comparable"
    return f"paper, {published.TRAIN_MOLECULES:,} molecules{comparable}"


def _error_remarks(train: int, data: dict[str, Any]) -> tuple[str, ...]:
    remarks = [_sizes(train, data)]
    if 0 < train < published.TRAIN_MOLECULES:
        remarks.append(
            f"Our errors cannot be compared with the paper's, because errors fall with the number "
            f"of training molecules: {train:,} here, {published.TRAIN_MOLECULES:,} in the paper. "
            "The order of the arms may differ too."
        )
    remarks.append(_NAIVE)
    remarks.append(
        "The published columns are from arXiv:2008.08461, with one run per cell. Its L·Nets were "
        f"trained on {published.TRAIN_MOLECULES:,} molecules and tested on "
        f"{published.TEST_MOLECULES:,}. SchNet, SchNetPack and Cormorant had training sets of "
        "other sizes."
    )
    remarks.append(
        f"The paper's QM9 has {_PAPER_MOLECULES:,} molecules, the packaged copy "
        f"{PACKAGED_MOLECULES:,}. So a full test set has "
        f"{PACKAGED_MOLECULES - published.TRAIN_MOLECULES - 1000:,} molecules, not "
        f"{published.TEST_MOLECULES:,}."
    )
    return tuple(remarks)


def _sizes(train: int, data: dict[str, Any]) -> str:
    start = "Mean absolute errors on the test molecules, averaged over the completed repeats."
    if not data:
        return f"{start} Trained on {train:,} molecules." if train else start
    return (
        f"{start} Trained on {data['train']:,} molecules and tested on {data['test']:,}. Another "
        f"{data['validation']:,} molecules chose the epoch."
    )


def _differences(table: pd.DataFrame) -> Section:
    train = _train_molecules(table)
    columns = [*COMPARISONS, *(f"paper_{name}" for name in COMPARISONS)]
    rows = (*_difference_rows(table, columns), _average_row(table, columns))
    l1, deep = (_paper_average(column) for column in ("relative_L1_L0", "relative_Deep_L0"))
    remarks = (
        f"{_SIGNS} In the paper, the averages over all twelve targets are {l1} for %E(L1,L0) and "
        f"{deep} for %E(Deep,L0).",
    )
    header = ("Target", "Unit of ΔE", *_HEADINGS.values(), *_HEADINGS.values())
    groups = ("", "", *[_ours(train)] * len(COMPARISONS), *[_paper(train)] * len(COMPARISONS))
    return Section("Table 1: differences", remarks, header, rows, groups)


def _difference_rows(table: pd.DataFrame, columns: list[str]) -> Iterator[tuple[str, ...]]:
    for _, row in table.iterrows():
        cells = (_difference(column, row[column]) for column in columns)
        yield (row["symbol"], unit_symbol(row["unit"]), *cells)


def _average_row(table: pd.DataFrame, columns: list[str]) -> tuple[str, ...]:
    """Return the averages over targets, with the number of targets if the columns differ in it."""
    means = averages(table)
    counts = {column: int(table[column].notna().sum()) for column in means}
    same = len(set(counts.values())) == 1
    cells = (
        _difference(column, means[column]) + ("" if same else f" (of {counts[column]})")
        if column in means
        else BLANK
        for column in columns
    )
    label = f"average of {next(iter(counts.values()))}" if same else "average"
    return (label, BLANK, *cells)


def _paper_average(column: str) -> str:
    values = [published.compare(errors)[column] for errors in published.MAES.values()]
    return percent(sum(values) / len(values))


def _difference(column: str, value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return BLANK
    return number(value, sign=True) if "delta" in column else percent(value)


def _arms(findings: AblationFindings, arms: tuple[str, ...]) -> Section:
    cells = findings.cells
    stored = findings.provenance.get("variants", {})
    descriptions = {**{variant.name: variant.description for variant in VARIANTS}, **stored}
    reference = weights_of(cells, "L1Net")
    rows = []
    for arm in arms:
        mine = cells[cells["variant"] == arm]
        states = mine["state"].value_counts()
        weights = weights_of(cells, arm)
        ratio = weights / reference if weights and reference else None
        rows.append(
            (
                arm,
                descriptions.get(arm, BLANK),
                BLANK if weights is None else f"{weights:,}",
                BLANK if ratio is None else f"{ratio:.2f}",
                f"{states.get('complete', 0)} of {len(mine)}",
                str(states.get("failed", 0)),
                duration(mine["seconds"].sum()),
            )
        )
    remark = (
        "An arm without vectors has three scalars in place of each vector. So it has as many "
        "feature components, but more weights. Compare errors and weights together."
    )
    if findings.provenance.get("match") == "params":
        remark = "The scalars of an arm without vectors are chosen for nearly equal weights."
    header = ("Arm", "Network", "Weights", "relative to L1Net", "Complete", "Failed", "Trained")
    return Section("The arms", (remark,), header, tuple(rows))


def failure_sections(findings: AblationFindings) -> list[Section]:
    """Return the failed cells with their reasons; no section if none failed."""
    cells = findings.cells
    failed = cells[cells["state"] == "failed"]
    if failed.empty:
        return []
    rows = tuple((row["key"], row["reason"]) for _, row in failed.iterrows())
    remark = "To try them again, type the same command."
    return [Section("Cells that failed", (remark,), ("Cell", "Reason"), rows)]


def origin_section(findings: AblationFindings) -> Section:
    """Return the origin of the configuration, and the settings that all cells share."""
    winner = findings.provenance.get("winner") or {}
    runs = findings.rows.runs
    config: dict[str, Any] = dict(winner.get("config") or {})
    if len(runs):
        # The ablation may train longer than the search did. The seed differs between repeats.
        config.update({part: runs["configuration"].iloc[0][part] for part in ("training", "data")})
    assumed = winner.get("assumed") or []
    rows = settings(config, assumed)
    return Section("The configuration", _origin(winner, assumed), ("Setting", "Value"), rows)


def _origin(winner: dict[str, Any], assumed: list[str]) -> tuple[str, ...]:
    remarks = [f"{winner.get('name', 'The configuration')} was written by hand."]
    if (origin := winner.get("provenance")) is not None:
        of_study = f"Trial {origin['trial']} of the study {origin['study']}"
        edited = ""
        if origin.get("edited"):
            edited = "; edited after export, so it is no longer the network of that trial"
        remarks = [f"{of_study}, exported {origin['created']}{edited}."]
        if origin.get("selected_on") == "test":
            remarks.append(
                "It was chosen by its loss on the search's test molecules, as in the paper. "
                "Therefore errors on these molecules are too low."
            )
    if assumed:
        remarks.append(f"Assumed, because its source does not state them: {', '.join(assumed)}.")
    return tuple(remarks)
