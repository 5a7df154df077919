"""The report's sections on an ablation: Table 1, its arms, the failures, the configuration."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpsearch.ablation.variants import VARIANTS
from hpsearch.report.render import Section
from hpsearch.report.text import BLANK, duration, number, percent, settings, unit_symbol
from hpsearch.results import published
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


def table1_sections(findings: AblationFindings) -> list[Section]:
    """Return Table 1 in three sections: errors, differences of errors, arms."""
    table = table1(findings)
    arms = arms_of(findings.cells)
    return [_errors(table, arms, findings.data), _differences(table), _arms(findings, arms)]


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
    remarks.append(
        "The published columns are printed in arXiv:2008.08461: its L·Nets were trained on "
        f"{published.TRAIN_MOLECULES:,} and tested on {published.TEST_MOLECULES:,} molecules, one "
        "run per cell; the sizes of SchNet, SchNetPack and Cormorant differed. Mean and "
        "composition are predictions without a geometry: the training molecules' mean, and a "
        "linear fit to the numbers of atoms of each element."
    )
    if 0 < train < published.TRAIN_MOLECULES:
        remarks.append(
            f"Errors fall with the number of training molecules: {train:,} are not "
            f"{published.TRAIN_MOLECULES:,}, so our columns cannot be compared with the paper's, "
            "and the order of the arms may be another one there."
        )
    remarks.append(
        f"The paper split all {_PAPER_MOLECULES:,} molecules of QM9. The packaged copy has "
        f"{PACKAGED_MOLECULES:,}, so a full test set has "
        f"{PACKAGED_MOLECULES - published.TRAIN_MOLECULES - 1000:,} molecules, not "
        f"{published.TEST_MOLECULES:,}."
    )
    return tuple(remarks)


def _sizes(train: int, data: dict[str, Any]) -> str:
    start = "Mean absolute errors on test molecules, averaged over the completed repeats"
    if not data:
        return f"{start}; trained on {train:,} molecules." if train else f"{start}."
    return (
        f"{start}; trained on {data['train']:,} molecules, the epoch chosen on "
        f"{data['validation']:,}, tested on {data['test']:,}."
    )


def _differences(table: pd.DataFrame) -> Section:
    train = _train_molecules(table)
    columns = [*COMPARISONS, *(f"paper_{name}" for name in COMPARISONS)]
    rows = [
        (
            row["symbol"],
            unit_symbol(row["unit"]),
            *(_difference(column, row[column]) for column in columns),
        )
        for _, row in table.iterrows()
    ]
    rows.append(_average_row(table, columns))
    l1, deep = (_paper_average(column) for column in ("relative_L1_L0", "relative_Deep_L0"))
    remarks = (
        "ΔE(X,Y) is X's error less Y's; %E(X,Y) is the same in per cent of the L0Net's error, in "
        "the last column too. Negative: X is better. Averages are over the targets in the table "
        "that have the value; errors in different units are not averaged. Over all twelve targets "
        f"the paper's %E(L1,L0) averages to {l1} and its %E(Deep,L0) to {deep}.",
    )
    header = ("Target", "Unit of ΔE", *_HEADINGS.values(), *_HEADINGS.values())
    groups = ("", "", *[_ours(train)] * len(COMPARISONS), *[_paper(train)] * len(COMPARISONS))
    return Section("Table 1: differences", remarks, header, tuple(rows), groups)


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
    remarks = (
        "Dropping vectors keeps the number of components, three scalars for each vector, not the "
        "number of weights: read the errors beside the weights.",
    )
    header = ("Arm", "Network", "Weights", "of L1Net's", "Complete", "Failed", "Trained")
    return Section("The arms", remarks, header, tuple(rows))


def failure_sections(findings: AblationFindings) -> list[Section]:
    """Return the failed cells with their reasons; no section if none failed."""
    cells = findings.cells
    failed = cells[cells["state"] == "failed"]
    if failed.empty:
        return []
    rows = tuple((row["key"], row["reason"]) for _, row in failed.iterrows())
    remark = "The same command again tries them once more."
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
            edited = "; edited after export, so it is not the network of that trial any more"
        remarks = [f"{of_study}, exported {origin['created']}{edited}."]
        if origin.get("selected_on") == "test":
            remarks.append(
                "It was chosen by its loss on the search's test molecules, as in the paper; errors "
                "on those molecules are therefore too low."
            )
    if assumed:
        remarks.append(f"Not stated by its source, assumed: {', '.join(assumed)}.")
    return tuple(remarks)
