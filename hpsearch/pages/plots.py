"""Helpers for the pages' figures: colours, axes, panels and a common template."""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from hpsearch.ablation.variants import VARIANT_NAMES
from hpsearch.config.targets import Targets
from hpsearch.search.study import Study
from hpsearch.store import StoreReader

PANEL_EDGES = {"t": 84, "b": 96}
"""Pixels above and below the panels of a figure."""

PALETTE = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#a9745f"),
    *("#e377c2", "#7f8c8d", "#a3a518", "#17a2b8", "#5b7fff", "#c0508f"),
)
"""Colours of lines and markers, visible on white and on near black."""

NEUTRAL = "#808890"
"""The colour for anything that belongs to no arm or trial, visible on white and on near black."""

BEST_FIRST = [[0.0, "#d6272f"], [0.4, "#e08a3c"], [1.0, "#9aa3ad"]]
"""A colour scale of losses, in which low losses are red; visible on white and on near black."""

# The document's style sheet colours text, axes and background, since it knows the colour scheme.
_CLEAR = "rgba(0,0,0,0)"
_AXIS = {
    "automargin": True,
    "gridcolor": "#dfe3e8",
    "linecolor": "#9aa3ad",
    "zerolinecolor": "#c4cad1",
    "ticks": "",
    "title": {"standoff": 6, "font": {"size": 12}},
    "tickfont": {"size": 11},
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1b1f24"},
        "title": {
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 12, "t": 10},
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
        },
        "title_font_size": 16,
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "legend": {"bgcolor": _CLEAR},
        "modebar": {"bgcolor": _CLEAR, "color": NEUTRAL, "activecolor": "#1f77b4"},
        "colorway": PALETTE,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 64, "r": 24, "t": 72, "b": 56},
        "annotationdefaults": {"font": {"size": 13}},
        "shapedefaults": {"line": {"color": NEUTRAL}},
        "hovermode": "closest",
    }
)


DEFAULT_HEIGHT = 460
"""Height in pixels of a figure whose page sets no height."""


def study_of(store: StoreReader, name: str | None) -> Study | None:
    """Return the study called ``name``, or the one launched last; ``None`` if there is none."""
    experiment = store.experiment("study", name or None)
    return None if experiment is None else Study.open(store, experiment.name)


def complete_trials(study: Study, *, parameters: bool = True) -> pd.DataFrame:
    """Return the complete trials whose loss can be drawn on a logarithmic axis.

    Args:
        study: the study.
        parameters: whether their parameters are needed, which take longest to read.
    """
    trials = study.trials(parameters=parameters)
    return trials[(trials["state"] == "COMPLETE") & (trials["value"] > 0)]


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` indices below ``count``, evenly spaced, with both ends."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most ``most`` rows: a quarter of them the first, the others evenly from the rest.

    Args:
        rows: of a figure, the best first.
        most: the most rows that a person can tell apart, or a browser can draw.
    """
    if len(rows) <= most:
        return rows
    first = most // 4
    return rows.iloc[[*range(first), *(first + evenly(len(rows) - first, most - first))]]


def thinned_note(shown: int, of: int) -> str:
    """Return what `thinned` left out, for a figure's title; empty if it left out nothing."""
    if shown >= of:
        return ""
    return f"; of {of:,} trials, the best {shown // 4:,} and an even sample of the rest are drawn"


def zero_output_note(store: StoreReader, study: Study) -> str:
    """Return ``; predicting zero: loss 3,312`` for a figure's title; empty if it is not known."""
    known = study.trials(parameters=False)["zero_output_loss"].dropna()
    return "" if known.empty else f"; predicting zero: loss {float(known.iloc[0]):,.4g}"


def colours_of(lines: Iterable[str]) -> dict[str, str]:
    """Return a colour for each arm or trial; the paper's arms have the same colours on every page.

    Args:
        lines: names of the arms or trials, with or without repeats.
    """
    present = list(dict.fromkeys(lines))
    names = [*VARIANT_NAMES, *(line for line in present if line not in VARIANT_NAMES)]
    if not set(present) & set(VARIANT_NAMES):
        names = present
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


_MANTISSAS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0),
)
"""Ticks of a logarithmic axis within a power of ten, from coarse to fine."""


def log_axis(values: Iterable[float], title: str | None = None) -> dict[str, Any]:
    """Return a logarithmic axis for ``values`` with complete numbers at its ticks.

    Args:
        values: the values on the axis; those not above zero are ignored.
        title: of the axis.
    """
    known = [value for value in map(float, values) if 0 < value < math.inf]
    axis: dict[str, Any] = {"type": "log"} | ({} if title is None else {"title_text": title})
    if not known:
        return axis
    low, high = min(known), max(known)
    ticks = [low]
    for mantissas in _MANTISSAS:
        within = [
            mantissa * 10.0**power
            for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
            for mantissa in mantissas
            if 0.9 * low <= mantissa * 10.0**power <= 1.1 * high
        ]
        ticks = within or ticks
        if len(ticks) >= 3:
            break
    return {**axis, "tickvals": ticks, "ticktext": [short_number(tick) for tick in ticks]}


def short_number(value: float) -> str:
    """Return ``value`` with three digits, thousands as k and millions as M."""
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (sign == "M" and abs(value) >= size):
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"


def panels(count: int, columns: int, panel_height: int) -> tuple[int, int, dict[str, Any]]:
    """Return the rows, columns and spacing of ``count`` panels, for plotly's ``make_subplots``.

    Use it with `below`, which sets the figure's height and puts the legend below the panels.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    inner = rows * panel_height
    spacing: dict[str, Any] = {"vertical_spacing": min(92 / inner, 1 / rows)}
    if columns > 1:
        spacing["horizontal_spacing"] = 0.07
    return rows, columns, spacing


MOST_TARGETS = 24
"""Most targets of a figure with a panel or a menu entry for each."""


def drawn_targets(targets: Targets, present: Iterable[str]) -> tuple[list[str], str]:
    """Return the targets that a figure draws, and what it leaves out, for its title.

    Args:
        targets: of the experiment.
        present: names of the targets that have values.

    Returns:
        At most `MOST_TARGETS` names in the order of ``targets``, and a text that is empty if
        nothing is left out.
    """
    known = set(present)
    names = [name for name in targets.names if name in known]
    if len(names) <= MOST_TARGETS:
        return names, ""
    return names[:MOST_TARGETS], f"; the first {MOST_TARGETS} of {len(names)} targets are drawn"


def symbols_of(targets: Targets) -> dict[str, str]:
    """Return the notation of each target in a figure, by its name, as plain text for plotly.

    Two targets with the same symbol are shown by their names.
    """
    often = Counter(target.symbol for target in targets)
    return {
        target.name: plain_text(target.symbol if often[target.symbol] == 1 else target.name)
        for target in targets
    }


def plain_text(text: str) -> str:
    """Return ``text`` so that plotly.js, which takes some HTML, shows it as it is."""
    return html.escape(" ".join(text.split()), quote=False)


def panel_title(text: str, columns: int) -> str:
    """Return the title of a panel, in lines that fit into a row of ``columns`` panels.

    Args:
        text: plain text for plotly.
        columns: panels in a row.
    """
    lines = textwrap.wrap(html.unescape(text), max(16, 100 // columns))
    return "<br>".join(html.escape(line, quote=False) for line in lines)


LONG_LABEL = 24
"""Most characters of a target on an axis."""


def target_axis(symbols: Iterable[str]) -> dict[str, Any]:
    """Return an axis with a place for each target, of which none is left out.

    Args:
        symbols: of the targets, as in `symbols_of`.
    """
    shown = list(dict.fromkeys(symbols))
    if len(shown) <= MOST_TARGETS and all(len(symbol) <= LONG_LABEL for symbol in shown):
        return {"title": "target"}
    texts = [
        symbol if len(symbol) <= LONG_LABEL else plain_text(_shortened(symbol)) for symbol in shown
    ]
    angle = {} if len(shown) <= 3 else {"tickangle": -90}
    return {"title": "target", "tickvals": shown, "ticktext": texts, **angle}


def _shortened(symbol: str) -> str:
    return f"{html.unescape(symbol)[: LONG_LABEL - 1]}…"


def below(rows: int, panel_height: int) -> dict[str, Any]:
    """Return the layout of a figure with ``rows`` rows of panels and the legend below them."""
    inner = rows * panel_height
    legend = {"orientation": "h", "x": 0, "y": -56 / inner, "yanchor": "top"}
    return {
        "height": inner + PANEL_EDGES["t"] + PANEL_EDGES["b"],
        "margin": PANEL_EDGES,
        "legend": legend,
    }


def styled(figure: go.Figure) -> go.Figure:
    """Apply our template and default height, unless the page has chosen its own."""
    if figure.layout.template == go.Figure().layout.template:
        figure.layout.template = _TEMPLATE
    if figure.layout.height is None:
        figure.layout.height = DEFAULT_HEIGHT
    return figure
