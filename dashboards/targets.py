"""Losses of the best trials for each target, compared with the loss of predicting zero."""

import math

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import log_axis, study_of, symbols_of, target_axis
from hpsearch.search import Study
from hpsearch.store import StoreReader

TITLE = "Losses by target"
KIND = "study"

BEST_TRIALS = 5


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw the normalised loss (Eq. 17) per target of the best trials, each at its best epoch."""
    study, losses = study_of(store, name), frame(store, name)
    if study is None or losses is None:
        return None
    symbols = symbols_of(study.targets)
    drawn = go.Figure()
    for number, of_trial in losses.groupby("trial", sort=False):
        drawn.add_trace(
            go.Scatter(
                x=[symbols[name] for name in of_trial["target"]],
                y=of_trial["loss"].tolist(),
                mode="markers",
                marker={"size": 11},
                name=f"trial {number}",
            )
        )
    add_zero_output(drawn, store, study)
    drawn.update_layout(
        title=f"{study.name}: losses of the best trials by target",
        xaxis=target_axis(symbols[name] for name in losses["target"]),
        yaxis=log_axis(losses["loss"], "normalised loss (Eq. 17)"),
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per target and best trial: loss and error at the trial's best epoch."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = (
        study.trials(parameters=False)
        .dropna(subset=["value"])
        .sort_values("value")
        .head(BEST_TRIALS)
    )
    losses = store.best_target_errors(study.experiment_id, trials["number"].astype(str))
    parts = []
    for number in trials["number"]:
        best = losses[losses["key"] == str(number)].set_index("target")
        parts += [
            {
                "trial": number,
                "epoch": int(best.loc[target.name, "epoch"]),
                "target": target.name,
                "symbol": target.symbol,
                "loss": float(best.loc[target.name, "loss"]),
                "mae": best.loc[target.name, "mae"],
                "unit": target.unit,
            }
            for target in study.targets
            if target.name in best.index
        ]
    return pd.DataFrame(parts) if parts else None


def add_zero_output(drawn: go.Figure, store: StoreReader, study: Study) -> None:
    """Draw a line at the loss of predicting zero, averaged over the targets."""
    known = study.trials(parameters=False).dropna(subset=["zero_output_loss"])
    if known.empty:
        return
    first = known.iloc[0]
    [run] = store.runs(study.experiment_id, [str(first["number"])]).to_dict("records")
    average = first["zero_output_loss"] / len(run["configuration"]["targets"])
    drawn.add_hline(y=average, line_dash="dash")
    # On a logarithmic axis, Plotly takes an annotation's position as a logarithm, a shape's not.
    drawn.add_annotation(
        x=1,
        xref="paper",
        y=math.log10(average),
        text=f"predicting zero (nothing learned): {average:.4g}, average over targets",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
    )
