"""The test error of each arm against its number of weights and its training time, per target."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.ablation import cell_table
from hpsearch.config.targets import Targets
from hpsearch.pages import (
    below,
    colours_of,
    drawn_targets,
    log_axis,
    panel_title,
    panels,
    symbols_of,
)
from hpsearch.report.text import unit_symbol
from hpsearch.results.tables import arms_of
from hpsearch.store import StoreReader

TITLE = "Cost"
KIND = "ablation"

COLUMNS = 2
"""Targets per row of panels."""

COSTS = {"weights": "trainable weights", "seconds": "seconds of training"}
"""Columns of the cell table, and their axes' titles."""

PANEL_HEIGHT = 240


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a marker per run, and per arm the mean with the standard deviation over its repeats."""
    cells = frame(store, name)
    if cells is None:
        return None
    ablation = store.find(name, "ablation")
    names, note = drawn_targets(ablation.targets, cells["target"])
    drawn = draw(cells, ablation.targets, names)
    drawn.update_layout(
        title=f"{ablation.name}: test errors and costs; "
        f"diamonds: mean and standard deviation over repeats{note}",
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return the complete cells with their errors, weights and seconds."""
    experiment = store.experiment("ablation", name)
    if experiment is None:
        return None
    cells = cell_table(store, experiment.id)
    cells = cells[cells["state"] == "complete"].dropna(subset=["test_mae", *COSTS])
    return None if cells.empty else cells


def draw(cells: pd.DataFrame, targets: Targets, names: list[str]) -> go.Figure:
    """Draw a panel per target and cost, with a colour and a legend entry per arm."""
    symbols = symbols_of(targets)
    number = len(names) * len(COSTS)
    rows, columns, spacing = panels(number, len(COSTS) * COLUMNS, PANEL_HEIGHT)
    titles = [panel_title(symbols[name], columns) for name in names for _ in COSTS]
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=titles, **spacing)
    arms = [arm for arm in arms_of(cells) if arm in set(cells["variant"])]
    colours = colours_of(arms)
    in_legend = set()
    for number, name in enumerate(names):
        row = number // COLUMNS + 1
        for column, cost in enumerate(COSTS, start=number % COLUMNS * len(COSTS) + 1):
            for arm in arms:
                runs = cells[(cells["target"] == name) & (cells["variant"] == arm)]
                if runs.empty:
                    continue
                for trace in traces(runs, cost, colours[arm], targets[name].unit):
                    drawn.add_trace(trace, row=row, col=column)
                drawn.data[-1].showlegend = arm not in in_legend
                in_legend.add(arm)
            axis = log_axis(cells.loc[cells["target"] == name, cost], COSTS[cost])
            drawn.update_xaxes(**axis, row=row, col=column)
            title = f"test MAE ({unit_symbol(targets[name].unit)})"
            drawn.update_yaxes(title_text=title, row=row, col=column)
    drawn.update_layout(below(rows, PANEL_HEIGHT))
    return drawn


def traces(runs: pd.DataFrame, cost: str, colour: str, unit: str) -> tuple[go.Scatter, go.Scatter]:
    """Return the traces of one arm for one target: its runs and their mean."""
    arm = str(runs["variant"].iloc[0])
    errors = runs["test_mae"].astype(float)
    bar = {"type": "data", "array": [float(errors.std(ddof=1))]} if len(errors) > 1 else {}
    hover = f"%{{x:,.4g}} {cost}: %{{y:.4g}} {unit}"
    of_runs = go.Scatter(
        x=runs[cost].astype(float).tolist(),
        y=errors.tolist(),
        mode="markers",
        marker={"color": colour, "size": 6, "symbol": "circle-open"},
        name=arm,
        legendgroup=arm,
        showlegend=False,
        customdata=runs["key"].tolist(),
        hovertemplate=f"%{{customdata}}<br>{hover}",
    )
    of_arm = go.Scatter(
        x=[float(runs[cost].mean())],
        y=[float(errors.mean())],
        error_y=bar,
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": "diamond"},
        name=arm,
        legendgroup=arm,
        hovertemplate=f"{arm}, mean of {len(runs)}<br>{hover}",
    )
    return of_runs, of_arm
