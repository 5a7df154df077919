"""Hyperparameters and losses as parallel coordinates, for all targets or for one."""

import math

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import (
    BEST_FIRST,
    complete_trials,
    drawn_targets,
    study_of,
    symbols_of,
    thinned,
    thinned_note,
    zero_output_note,
)
from hpsearch.store import StoreReader

TITLE = "Parallel coordinates"
KIND = "study"

PLOT_HEIGHT = 380
LABELS = 110
"""Height in pixels of the axes, and of their slanting names above them."""

MOST_TICKS = 5

MOST = 600
"""Most trials drawn: more lines than this hide one another."""

WIDE = 8.0
"""Ratio of largest to least value above which a positive parameter has a logarithmic axis."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a line per complete trial, the best ones red; a menu chooses the loss."""
    study, trials = study_of(store, name), frame(store, name)
    if study is None or trials is None:
        return None
    trials = trials.set_index("trial")
    columns = {"all targets": trials["loss"]}
    # A trial that was ended by hand in the dashboard has no losses of its targets.
    symbols = symbols_of(study.targets)
    names, note = drawn_targets(
        study.targets, (each.removeprefix("loss_") for each in trials if each.startswith("loss_"))
    )
    for target_name in names:
        known = trials[column := f"loss_{target_name}"][trials[column] > 0]
        if len(known) > 1:
            columns[symbols[target_name]] = known
    traces = []
    for number, (label, values) in enumerate(columns.items()):
        shown = trials.loc[values.index]
        parameters = [axis(shown[each], each) for each in shown if each.startswith("params_")]
        logs = [math.log10(value) for value in values]
        ticks = [min(logs), sum(logs) / len(logs), max(logs)]
        last = {
            "label": f"loss: {label}",
            "values": logs,
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.3g}" for tick in ticks],
        }
        line = {"color": logs, "colorscale": BEST_FIRST, "showscale": False}
        # A mapping, because Plotly checks an object twice, which takes a second in all.
        traces.append(
            {
                "type": "parcoords",
                "dimensions": [*parameters, last],
                "line": line,
                "visible": number == 0,
                "name": label,
                "labelangle": -20,
                # The texts at both ends of an axis would repeat its first and last tick.
                "rangefont": {"size": 1, "color": "rgba(0,0,0,0)"},
            }
        )
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [other == label for other in columns]}],
        }
        for label in columns
    ]
    drawn = go.Figure(traces)
    drawn.update_layout(
        title=f"{study.name}: hyperparameters and losses of {len(trials)} complete trials"
        + zero_output_note(store, study)
        + thinned_note(len(trials), len(complete_trials(study, parameters=False)))
        + note,
        updatemenus=[
            {
                "buttons": buttons,
                "x": 1.0,
                "xanchor": "right",
                "y": 1 + LABELS / PLOT_HEIGHT,
                "yanchor": "bottom",
            }
        ],
        margin={"t": LABELS + 80, "b": 40, "l": 60, "r": 90},
        height=PLOT_HEIGHT + LABELS + 120,
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per drawn trial by number: its parameters, its loss, and each target's loss."""
    study = study_of(store, name)
    if study is None:
        return None
    chosen = thinned(complete_trials(study, parameters=False).sort_values("value"), MOST)
    if len(chosen) < 2:
        return None
    trials = study.trials(numbers=chosen["number"].tolist())
    trials = trials.rename(columns={"number": "trial", "value": "loss"}).set_index("trial")
    drawn = [column for column in trials if column.startswith("params_")]
    losses = study.target_losses(trials.index.tolist()).reindex(trials.index).add_prefix("loss_")
    return trials[[*drawn, "loss"]].join(losses).reset_index()


def axis(values: pd.Series, column: str) -> dict:
    """Return a parameter's axis. Choices are numbered; a missing value lies below all others."""
    label = column.removeprefix("params_").replace("_", " ")
    if pd.api.types.is_numeric_dtype(values):
        known = values.dropna().astype(float)
        low = known.min() if len(known) else 0.0
        high = known.max() if len(known) else 1.0
        if low > 0 and high / low > WIDE:
            logs = axis(values.map(math.log10), column)
            ticks = [math.log10(low) + part / 3 * math.log10(high / low) for part in range(4)]
            return {**logs, "tickvals": ticks, "ticktext": [f"{10**tick:.2g}" for tick in ticks]}
        filled = values.fillna(low - 0.1 * ((high - low) or 1.0))
        scale = {"label": label, "values": [float(value) for value in filled]}
        if (known == known.round()).all():
            # No network has 1.4 layers.
            step = max(1, math.ceil((high - low) / MOST_TICKS))
            ticks = list(range(int(low), int(high) + 1, step))
        else:
            ticks = [low + part / 4 * (high - low) for part in range(5)]
        return {**scale, "tickvals": ticks, "ticktext": [f"{tick:.3g}" for tick in ticks]}
    choices = sorted({str(value) for value in values.dropna()})
    numbers = [choices.index(str(v)) if pd.notna(v) else -1 for v in values]
    return {
        "label": label,
        "values": numbers,
        "tickvals": list(range(len(choices))),
        "ticktext": choices,
    }
