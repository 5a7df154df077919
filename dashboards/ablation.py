"""The test error of each arm relative to the L0Net's, for each target; Table 1."""

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import NEUTRAL, colours_of, symbols_of, target_axis
from hpsearch.report.ablation_sections import table1_sections
from hpsearch.report.comparison import comparison_sections
from hpsearch.report.render import Section
from hpsearch.results import published
from hpsearch.results.comparison import interval_table
from hpsearch.results.findings import AblationFindings
from hpsearch.results.tables import arms_of, table1
from hpsearch.store import StoreReader

TITLE = "Ablation"
KIND = "ablation"
BESIDE = ("learning_curves",)

ROOM = 1.35
"""Height of the axis, relative to the highest bar. A wide interval over two repeats is cut off, so
that the bars stay visible."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw each arm's test MAE divided by the L0Net's, as bars; below one the arm is better."""
    findings = read(store, name)
    rows = None if findings is None else rows_of(findings)
    if findings is None or rows is None:
        return None
    table = compared(findings)
    known = table["train_molecules"].dropna()
    train = "" if known.empty else f", trained on {int(known.max()):,} molecules"
    symbols = symbols_of(findings.targets)
    drawn = go.Figure()
    colours = colours_of(arms_of(findings.cells))
    for arm, of_arm in rows.groupby("arm", sort=False):
        half = (of_arm["high"] - of_arm["low"]) / 2 / of_arm["L0Net"]
        errors = zip(of_arm["mean"], of_arm["unit"], strict=True)
        drawn.add_trace(
            go.Bar(
                x=[symbols[name] for name in of_arm["target"]],
                y=of_arm["relative"].tolist(),
                error_y={"type": "data", "array": half.fillna(0.0).tolist(), "thickness": 1},
                customdata=[f"{mae:.4g} {unit}" for mae, unit in errors],
                hovertemplate="%{x}: %{y:.3f} of the L0Net's error (%{customdata})",
                marker={"color": colours[arm]},
                name=arm,
            )
        )
    highest = max(1.0, float(rows["relative"].max()))
    if not findings.is_own:
        paper = table["paper_L1Net"] / table["paper_L0Net"]
        highest = max(highest, float(paper.max()))
        drawn.add_trace(published_errors(table, paper))
    drawn.add_hline(y=1.0, line_dash="dash")
    intervals = rows["low"].notna().any()
    drawn.update_layout(
        title=f"{findings.name}: test errors{train}"
        + ("; lines: 95 % intervals over repeats" if intervals else ""),
        xaxis=target_axis(symbols[name] for name in table.index),
        yaxis={"title": "test MAE / L0Net's test MAE", "range": [0, ROOM * highest]},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        barmode="group",
    )
    return drawn


def published_errors(table: pd.DataFrame, relative: pd.Series) -> go.Scatter:
    """Return the trace of the paper's L1Net, by target of QM9."""
    return go.Scatter(
        x=table["symbol"].tolist(),
        y=relative.tolist(),
        mode="markers",
        marker={"symbol": "diamond-open", "size": 11, "color": NEUTRAL, "line": {"width": 2}},
        name=f"L1Net (paper, {published.TRAIN_MOLECULES:,} molecules)",
    )


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per target and arm: its mean error and interval, the L0Net's, their ratio."""
    findings = read(store, name)
    return None if findings is None else rows_of(findings)


def tables(store: StoreReader, name: str | None = None) -> list[Section]:
    """Return Table 1 with its intervals, differences and arms."""
    findings = read(store, name)
    if findings is None:
        return []
    errors, differences, of_arms = table1_sections(findings)
    return [errors, *comparison_sections(findings), differences, of_arms]


def read(store: StoreReader, name: str | None) -> AblationFindings | None:
    """The ablation, read once for all that is drawn of it."""
    known = store.experiment("ablation", name)
    return None if known is None else AblationFindings.read(store, known.name)


def compared(findings: AblationFindings) -> pd.DataFrame:
    """Return the rows of Table 1 that have an error of the L0Net."""
    table = table1(findings)
    return table[table["L0Net"].notna()]


def rows_of(findings: AblationFindings) -> pd.DataFrame | None:
    """Return the rows of `frame`; ``None`` if there are none."""
    table, rows = compared(findings), interval_table(findings)
    rows = rows[rows["target"].isin(table.index)].reset_index(drop=True)
    if rows.empty:
        return None
    at = list(zip(rows["target"], rows["arm"], strict=True))
    rows["symbol"] = [table.loc[target, "symbol"] for target in rows["target"]]
    rows["L0Net"] = [float(table.loc[target, "L0Net"]) for target in rows["target"]]
    rows["relative"] = [
        float(table.loc[target, arm] / table.loc[target, "L0Net"]) for target, arm in at
    ]
    order = {arm: place for place, arm in enumerate(arms_of(findings.cells))}
    return rows.sort_values("arm", key=lambda column: column.map(order), kind="stable")
