"""Figure 4: validation errors against epochs, one panel per target, both axes logarithmic."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.ablation.plan import CellKey
from hpsearch.config.targets import Targets
from hpsearch.pages import (
    NEUTRAL,
    below,
    colours_of,
    drawn_targets,
    evenly,
    log_axis,
    panel_title,
    panels,
    plain_text,
    study_of,
    symbols_of,
)
from hpsearch.report.text import unit_symbol
from hpsearch.store import Kind, StoreReader

TITLE = "Learning curves"

COLUMNS = 3
PANEL_HEIGHT = 270

NAMED = 10
"""Number of best trials that have their own colour and name."""

OTHERS = "other trials"

MOST_OTHERS = 40
"""Most of the other trials drawn, evenly by number: more lines than this hide one another."""


def figure(
    store: StoreReader, name: str | None = None, kind: Kind | None = None
) -> go.Figure | None:
    """Draw the arms of an ablation or the trials of a search, by default the last launched."""
    curves, note = all_curves(store, name, kind)
    if curves is None:
        return None
    targets = store.find(name, *([] if kind is None else [kind])).targets
    heading = "the trials" if curves["kind"].iloc[0] == "study" else "the arms' repeats"
    drawn = draw(curves, targets)
    title = f"{curves['experiment'].iloc[0]}: validation errors of {heading}"
    others = len(set(curves.loc[curves["line"] == OTHERS, "key"]))
    if others >= MOST_OTHERS:
        title += f"; the {NAMED} best and at most {MOST_OTHERS} others, evenly by number"
    drawn.update_layout(title=title + note)
    return drawn


def frame(
    store: StoreReader, name: str | None = None, kind: Kind | None = None
) -> pd.DataFrame | None:
    """Return a row per drawn run, epoch and target, with the name of its line."""
    return all_curves(store, name, kind)[0]


def all_curves(
    store: StoreReader, name: str | None, kind: Kind | None
) -> tuple[pd.DataFrame | None, str]:
    """Return the rows of `frame`, and which targets are left out, for the title."""
    experiment = store.experiment(kind, name)
    if experiment is None:
        return None, ""
    best, keys = drawn_trials(store, experiment.name) if experiment.kind == "study" else ([], None)
    curves = store.target_errors(experiment.id, keys).dropna(subset=["mae"])
    curves = curves[curves["mae"] > 0]
    if curves.empty:
        return None, ""
    drawn, note = drawn_targets(experiment.targets, curves["target"])
    if note:
        curves = curves[curves["target"].isin(drawn)]
    # An ablation's key is variant/target/repeat, a trial's is its number.
    if experiment.kind == "ablation":
        return curves.assign(line=[CellKey.parse(key).variant for key in curves["key"]]), note
    named = curves["key"].isin(best)
    return curves.assign(line=("trial " + curves["key"]).where(named, OTHERS)), note


def drawn_trials(store: StoreReader, name: str) -> tuple[list[str], list[str]]:
    """Return the numbers of the best trials, and with them those of others evenly by number."""
    study = study_of(store, name)
    trials = None if study is None else study.trials(parameters=False)
    if trials is None or trials.empty:
        return [], []
    trials = trials[trials["epochs"] > 0]
    best = trials["best_loss"].astype(float).nsmallest(NAMED).index
    others = trials.index.difference(best)
    others = others[evenly(len(others), MOST_OTHERS)]
    numbers = trials["number"].astype(str)
    return numbers[best].tolist(), numbers[best.union(others)].tolist()


def draw(curves: pd.DataFrame, targets: Targets) -> go.Figure:
    """Draw a panel per target and a line per run, coloured by arm or trial."""
    names, _ = drawn_targets(targets, curves["target"])
    symbols = symbols_of(targets)
    rows, columns, spacing = panels(len(names), COLUMNS, PANEL_HEIGHT)
    titles = [
        panel_title(f"{symbols[name]} ({unit_symbol(targets[name].unit)})", columns)
        for name in names
    ]
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=titles, **spacing)
    # The other trials are drawn first, below the named ones.
    curves = pd.concat([curves[curves["line"] == OTHERS], curves[curves["line"] != OTHERS]])
    colours = {**colours_of(n for n in curves["line"] if n != OTHERS), OTHERS: NEUTRAL}
    in_legend: set[str] = set()
    traces, panel_rows, panel_columns = [], [], []
    for index, name in enumerate(names):
        of_target = curves[curves["target"] == name]
        row, column = index // COLUMNS + 1, index % COLUMNS + 1
        for key, run in of_target.groupby("key", sort=False):
            line = str(run["line"].iloc[0])
            # A mapping, because Plotly checks an object twice.
            traces.append(
                {
                    "type": "scatter",
                    "x": run["epoch"].tolist(),
                    "y": run["mae"].tolist(),
                    "mode": "lines+markers",
                    "marker": {"size": 4},
                    "line": {"color": colours[line]},
                    "legendrank": 2000 if line == OTHERS else 1000,
                    "opacity": 0.4 if line == OTHERS else 1.0,
                    "name": line,
                    "legendgroup": line,
                    "showlegend": line not in in_legend,
                    "hovertemplate": f"{plain_text(str(key))}<br>epoch %{{x}}: %{{y:.4g}} "
                    + targets[name].unit,
                }
            )
            panel_rows.append(row)
            panel_columns.append(column)
            in_legend.add(line)
        axis = log_axis(of_target["mae"], f"MAE ({unit_symbol(targets[name].unit)})")
        drawn.update_yaxes(**axis, row=row, col=column)
    drawn.add_traces(traces, rows=panel_rows, cols=panel_columns)
    drawn.update_xaxes(**log_axis(curves["epoch"], "epoch"))
    drawn.update_layout(below(rows, PANEL_HEIGHT))
    return drawn
