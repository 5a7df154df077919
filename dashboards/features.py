"""Numbers of scalars and vectors of every complete trial, with its loss as colour."""

import math

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import (
    BEST_FIRST,
    NEUTRAL,
    complete_trials,
    study_of,
    thinned,
    thinned_note,
    zero_output_note,
)
from hpsearch.store import StoreReader

TITLE = "Scalars and vectors"
KIND = "study"

NAMED = 10

MOST = 2_000
"""Most trials drawn, to keep the page fast."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a marker per trial: scalars on x, vectors on y, the loss as colour; number the best."""
    study, trials = study_of(store, name), frame(store, name)
    if study is None or trials is None:
        return None
    best = set(trials["trial"].head(NAMED))
    logs = [math.log10(loss) for loss in trials["loss"]]
    middle = (min(logs) + max(logs)) / 2
    ticks = sorted({min(logs), middle, max(logs)})
    drawn = go.Figure(
        go.Scatter(
            x=trials["scalars"].tolist(),
            y=trials["vectors"].tolist(),
            mode="markers+text",
            text=labels(trials),
            textposition="top center",
            customdata=trials["loss"].tolist(),
            hovertemplate="%{x} scalars, %{y} vectors: loss %{customdata:.4g}<extra></extra>",
            marker={
                "size": [14 if number in best else 8 for number in trials["trial"]],
                "color": logs,
                "colorscale": BEST_FIRST,
                "line": {"width": 1, "color": NEUTRAL},
                "opacity": 1.0,
                "colorbar": {
                    "title": {"text": "loss (Eq. 18)"},
                    "tickvals": ticks,
                    "ticktext": [f"{10**tick:.3g}" for tick in ticks],
                },
            },
        )
    )
    drawn.update_layout(
        title=f"{study.name}: features of each trial; the {len(best)} best trials have numbers"
        + zero_output_note(store, study)
        + thinned_note(len(trials), len(complete_trials(study, parameters=False))),
        xaxis={"title": "scalars per atom (featurization)", "rangemode": "tozero"},
        yaxis={"title": "vectors per atom (featurization)", "rangemode": "tozero"},
    )
    return drawn


def labels(trials: pd.DataFrame) -> list[str]:
    """Return a label per trial: the best trials' numbers, joined if they share a point."""
    best = trials.head(NAMED).groupby(["scalars", "vectors"], sort=False)["trial"]
    named = {numbers.iloc[0]: ", ".join(map(str, numbers)) for _, numbers in best}
    return [named.get(number, "") for number in trials["trial"]]


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per complete trial that is drawn, the best first: its features and its loss."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = thinned(complete_trials(study, parameters=False).sort_values("value"), MOST)
    runs = store.runs(study.experiment_id, trials["number"].astype(str)).set_index("key")
    trials = trials[trials["number"].astype(str).isin(runs.index)]
    if trials.empty:
        return None
    networks = [runs["configuration"][str(number)]["network"] for number in trials["number"]]
    return pd.DataFrame(
        {
            "trial": trials["number"].tolist(),
            "scalars": [network["featurization_scalars"] for network in networks],
            "vectors": [network["featurization_vectors"] for network in networks],
            "loss": trials["value"].tolist(),
        }
    )
