"""Scalars or vectors: the features of every complete trial, the best ones named."""

import math

import plotly.graph_objects as go

from hpsearch.pages import complete_trials, study_of
from hpsearch.store import Store

TITLE = "Scalars and vectors"
KIND = "study"

NAMED = 10


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """A marker per trial: scalars across, vectors up, colour by the loss; the best have numbers."""
    study = study_of(store, name)
    if study is None:
        return None
    runs = store.runs(study.experiment_id).set_index("key")
    trials = complete_trials(study).sort_values("value")
    trials = trials[trials["number"].astype(str).isin(runs.index)]
    if trials.empty:
        return None
    networks = [runs["configuration"][str(number)]["network"] for number in trials["number"]]
    best = set(trials["number"].head(NAMED))
    drawn = go.Figure(
        go.Scatter(
            x=[network["featurization_scalars"] for network in networks],
            y=[network["featurization_vectors"] for network in networks],
            mode="markers+text",
            text=[str(n) if n in best else "" for n in trials["number"]],
            textposition="top center",
            customdata=trials["value"].tolist(),
            hovertemplate="%{x} scalars, %{y} vectors: loss %{customdata:.4g}<extra></extra>",
            marker={
                "size": [14 if number in best else 8 for number in trials["number"]],
                "color": [math.log10(value) for value in trials["value"]],
                "colorscale": "Viridis",
                "colorbar": {"title": "log10 loss"},
            },
        )
    )
    drawn.update_layout(
        title=f"{study.name}: features of each trial; numbers name the {len(best)} best trials",
        xaxis={"title": "featurization scalars", "rangemode": "tozero"},
        yaxis={"title": "featurization vectors", "rangemode": "tozero"},
    )
    return drawn
