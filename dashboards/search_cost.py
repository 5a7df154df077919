"""What a lower loss costs: the trials of a search against weights and against training time."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.pages import complete_trials, study_of
from hpsearch.store import Store

TITLE = "Loss and cost"
KIND = "study"

COSTS = {"weights": "trainable weights", "seconds": "seconds of training"}
"""Columns, and their axes' titles."""

NAMED = 5


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """A marker per complete trial; the best have numbers."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = complete_trials(study).sort_values("value")
    epochs = store.epochs(study.experiment_id)
    seconds = epochs.groupby("key")["seconds"].sum()
    trials["seconds"] = trials["number"].astype(str).map(seconds)
    trials = trials.dropna(subset=["weights", "seconds"])
    if trials.empty:
        return None
    drawn = make_subplots(rows=1, cols=2, shared_yaxes=True)
    names = [str(n) if place < NAMED else "" for place, n in enumerate(trials["number"])]
    for column, (cost, title) in enumerate(COSTS.items(), start=1):
        drawn.add_trace(
            go.Scatter(
                x=trials[cost].tolist(),
                y=trials["value"].tolist(),
                mode="markers+text",
                text=names,
                textposition="top center",
                customdata=trials["number"].tolist(),
                hovertemplate="trial %{customdata}: %{x:,.4g}, loss %{y:.4g}<extra></extra>",
                marker={"size": 9},
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        drawn.update_xaxes(type="log", title_text=title, row=1, col=column)
    drawn.update_yaxes(type="log", title_text="lowest validation loss (Eq. 18)", row=1, col=1)
    drawn.update_layout(title=f"{study.name}: loss and cost of each trial; numbers name the best")
    return drawn
