"""Figure 4: validation errors against epochs, one panel per target, both axes logarithmic."""

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.pages import colours_of
from hpsearch.store import Store
from hpsearch.targets import TARGET_NAMES, target

TITLE = "Learning curves"

COLUMNS = 3
PANEL_HEIGHT = 320


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """The arms of an ablation, or the trials of a search; by default of what was launched last."""
    experiments = store.experiments()
    found = experiments if name is None else experiments[experiments["name"] == name]
    if found.empty:
        return None
    last = found.iloc[-1]
    curves = store.target_errors(int(last["id"])).dropna(subset=["mae"])
    curves = curves[curves["mae"] > 0]
    if curves.empty:
        return None
    # An ablation's key is variant/target/repeat, a trial's is its number.
    is_ablation = last["kind"] == "ablation"
    curves["line"] = (
        curves["key"].str.split("/").str[0] if is_ablation else "trial " + curves["key"]
    )
    heading = "the arms' repeats" if is_ablation else "the trials"
    drawn = draw(curves)
    drawn.update_layout(title=f"{last['name']}: validation errors of {heading}")
    return drawn


def draw(curves: pd.DataFrame) -> go.Figure:
    """A panel per target, a line per run, a colour and a legend entry per arm or trial."""
    names = [name for name in TARGET_NAMES if name in set(curves["target"])]
    rows = math.ceil(len(names) / COLUMNS)
    columns = min(COLUMNS, len(names))
    titles = [f"{target(name).symbol} ({target(name).unit})" for name in names]
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=titles)
    colours = colours_of(curves["line"])
    in_legend = set()
    for index, name in enumerate(names):
        of_target = curves[curves["target"] == name]
        for key, run in of_target.groupby("key", sort=False):
            line = str(run["line"].iloc[0])
            drawn.add_trace(
                go.Scatter(
                    x=run["epoch"].tolist(),
                    y=run["mae"].tolist(),
                    mode="lines+markers",
                    marker={"size": 4},
                    line={"color": colours[line]},
                    name=line,
                    legendgroup=line,
                    showlegend=line not in in_legend,
                    hovertemplate=f"{key}<br>epoch %{{x}}: %{{y:.4g}} {target(name).unit}",
                ),
                row=index // COLUMNS + 1,
                col=index % COLUMNS + 1,
            )
            in_legend.add(line)
    drawn.update_xaxes(type="log", title_text="epoch")
    drawn.update_yaxes(type="log", title_text="validation MAE")
    drawn.update_layout(height=max(2, rows) * PANEL_HEIGHT)
    return drawn
