"""The loss of each trial against its number of weights and its training time."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.pages import (
    PALETTE,
    complete_trials,
    log_axis,
    study_of,
    thinned,
    thinned_note,
    zero_output_note,
)
from hpsearch.store import StoreReader

TITLE = "Loss and cost"
KIND = "study"

COSTS = {"weights": "trainable weights", "seconds": "seconds of training"}
"""Columns, and their axes' titles."""

NAMED = 5

MOST = 2_000
"""Most trials drawn, to keep the page fast."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a marker per complete trial; the best have numbers."""
    study, trials = study_of(store, name), frame(store, name)
    if study is None or trials is None:
        return None
    drawn = make_subplots(rows=1, cols=2, shared_yaxes=True)
    names = [str(n) if place < NAMED else "" for place, n in enumerate(trials["trial"])]
    for column, (cost, title) in enumerate(COSTS.items(), start=1):
        drawn.add_trace(
            go.Scatter(
                x=trials[cost].tolist(),
                y=trials["loss"].tolist(),
                mode="markers+text",
                text=names,
                textposition="top center",
                customdata=trials["trial"].tolist(),
                hovertemplate="trial %{customdata}: %{x:,.4g}, loss %{y:.4g}<extra></extra>",
                marker={"size": 9, "color": PALETTE[0]},
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        drawn.update_xaxes(**log_axis(trials[cost], title), row=1, col=column)
    # The axis is shared, but ticks on both panels are easier to read.
    axis = log_axis(trials["loss"], "lowest validation loss (Eq. 18)")
    drawn.update_yaxes(**axis, showticklabels=True)
    title = f"{study.name}: loss and cost of each trial; the {NAMED} best have numbers"
    title += zero_output_note(store, study)
    drawn.update_layout(
        title=title + thinned_note(len(trials), len(complete_trials(study, parameters=False)))
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per drawn trial, the best first: its loss, weights and training seconds."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = thinned(complete_trials(study, parameters=False).sort_values("value"), MOST).copy()
    epochs = store.epochs(study.experiment_id, trials["number"].astype(str))
    seconds = epochs.groupby("key")["seconds"].sum()
    trials["seconds"] = trials["number"].astype(str).map(seconds)
    trials = trials.dropna(subset=["weights", "seconds"])
    trials = trials.rename(columns={"number": "trial", "value": "loss"})
    return None if trials.empty else trials[["trial", "loss", "weights", "seconds"]]
