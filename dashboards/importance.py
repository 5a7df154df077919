"""Importance of each hyperparameter for the loss and for every target."""

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import study_of, symbols_of
from hpsearch.search.study import MOST_TRIALS
from hpsearch.store import StoreReader

TITLE = "Importance"
KIND = "study"

FEW = 30
"""With fewer complete trials than this, the importances are mostly chance."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a row per target and a column per hyperparameter; each row adds up to 100 %."""
    study = study_of(store, name)
    if study is None:
        return None
    table = study.importances()
    if table.empty:
        return None
    symbols = symbols_of(study.targets)
    labels = [symbols.get(row, "all targets") for row in table.index]
    percent = (100 * table).round(0)
    complete = study.counts().complete
    few = f"; with fewer than {FEW} trials it is mostly chance" if complete < FEW else ""
    used = str(complete)
    if complete > MOST_TRIALS:
        used = f"{MOST_TRIALS:,} of {complete:,}"
    drawn = go.Figure(
        go.Heatmap(
            z=percent.to_numpy().tolist(),
            x=[parameter.replace("_", " ") for parameter in table.columns],
            y=labels,
            text=percent.to_numpy().tolist(),
            texttemplate="%{text:.0f}",
            hovertemplate="%{x} for %{y}: %{z:.0f} %<extra></extra>",
            colorscale="Blues",
            colorbar={"title": {"text": "%"}},
            xgap=1,
            ygap=1,
        )
    )
    drawn.update_layout(
        title=f"{study.name}: importance in % (PED-ANOVA), from {used} complete trials{few}",
        yaxis={"autorange": "reversed", "title": "loss of", "showgrid": False},
        xaxis={"tickangle": 35, "title": "hyperparameter", "showgrid": False},
        height=170 + 30 * len(labels),
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per loss and a column per hyperparameter; each row adds up to one."""
    study = study_of(store, name)
    table = None if study is None else study.importances()
    return None if table is None or table.empty else table.rename_axis("loss").reset_index()
