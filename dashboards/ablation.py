"""Table 1 at a glance: each arm's test error relative to the L0Net's, target by target."""

import plotly.graph_objects as go

from hpsearch import published
from hpsearch.ablation import cell_table
from hpsearch.pages import colours_of
from hpsearch.report import table1
from hpsearch.report.tables import arms_of
from hpsearch.store import Store

TITLE = "Ablation"
KIND = "ablation"


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """Bars of the arms' test MAE over the L0Net's; below one the arm is better."""
    name = name or store.latest("ablation")
    experiment = None if name is None else store.experiment("ablation", name)
    if name is None or experiment is None:
        return None
    table = table1(store, name)
    table = table[table["L0Net"].notna()]
    if table.empty:
        return None
    train = int(table["train_molecules"].max())
    drawn = go.Figure()
    arms = arms_of(cell_table(store, experiment.id))
    colours = colours_of(arms)
    for arm in arms:
        if table[arm].isna().all():
            continue
        known = table[table[arm].notna()]
        errors = zip(known[arm], known["unit"], strict=True)
        drawn.add_trace(
            go.Bar(
                x=known["symbol"].tolist(),
                y=(known[arm] / known["L0Net"]).tolist(),
                customdata=[f"{mae:.4g} {unit}" for mae, unit in errors],
                hovertemplate="%{x}: %{y:.3f} of L0Net's (%{customdata})",
                marker={"color": colours[arm]},
                name=arm,
            )
        )
    drawn.add_trace(
        go.Scatter(
            x=table["symbol"].tolist(),
            y=(table["paper_L1Net"] / table["paper_L0Net"]).tolist(),
            mode="markers",
            marker={"symbol": "diamond-open", "size": 11, "color": "black"},
            name=f"L1Net (paper, {published.TRAIN_MOLECULES:,} molecules)",
        )
    )
    drawn.add_hline(y=1.0, line_dash="dash")
    drawn.update_layout(
        title=f"{name}: test errors, trained on {train:,} molecules",
        yaxis={"title": "test MAE / L0Net's test MAE"},
        barmode="group",
    )
    return drawn
