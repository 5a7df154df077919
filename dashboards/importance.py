"""Which hyperparameters decide: the importance of each for the loss and for every target."""

import plotly.graph_objects as go

from hpsearch.pages import study_of
from hpsearch.store import Store
from hpsearch.targets import TARGET_NAMES, target

TITLE = "Importance"
KIND = "study"

FEW = 30
"""Trials below which the picture is mostly chance."""


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """A row per target, a column per hyperparameter; each row adds up to 100 %."""
    study = study_of(store, name)
    if study is None:
        return None
    table = study.importances()
    if table.empty:
        return None
    labels = [target(row).symbol if row in TARGET_NAMES else "all targets" for row in table.index]
    percent = (100 * table).round(0)
    complete = study.counts().complete
    few = f"; of fewer than {FEW} trials it is mostly chance" if complete < FEW else ""
    drawn = go.Figure(
        go.Heatmap(
            z=percent.to_numpy().tolist(),
            x=[parameter.replace("_", " ") for parameter in table.columns],
            y=labels,
            text=percent.to_numpy().tolist(),
            texttemplate="%{text:.0f}",
            hovertemplate="%{x} for %{y}: %{z:.0f} %<extra></extra>",
            colorscale="Blues",
            colorbar={"title": "%"},
        )
    )
    drawn.update_layout(
        title=(
            f"{study.name}: importance in per cent (PED-ANOVA), from {complete} complete trials"
            f"{few}"
        ),
        yaxis={"autorange": "reversed"},
        xaxis={"tickangle": 35},
    )
    return drawn
