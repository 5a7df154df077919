"""The page of `hpsearch data check`: the tables, and a picture of sizes, distances and targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.data.check import DataCheck
from hpsearch.data.target_check import Histogram, TargetCheck
from hpsearch.pages.figures import document
from hpsearch.pages.plots import (
    MOST_TARGETS,
    PALETTE,
    below,
    panel_title,
    panels,
    plain_text,
)
from hpsearch.report.molecules import sections

_COLUMNS = 3
_PANEL = 220


def documents(check: DataCheck) -> dict[str, str]:
    """Return the content of all files that the command writes, by file name."""
    title = f"The molecules of {check.source}"
    return {
        "data.html": document(title, sections(check), figures(check)),
        "data.json": json.dumps(check.to_dict(), ensure_ascii=False, allow_nan=False) + "\n",
    }


def figures(check: DataCheck) -> Iterator[tuple[str, str, go.Figure]]:
    """Yield the name, the title and the figure of each picture that has something to show."""
    yield "sizes", "Atoms of a molecule", _sizes(check)
    yield "elements", "Atoms of each element", _elements(check)
    if check.pairs.number:
        yield "distances", "Distances of two atoms", _distances(check)
    values = _histograms(check.targets, lambda t: t.values, lambda t: t.unit)
    if values is not None:
        yield "values", "Values of the targets", values
    fitted = _histograms(check.targets, lambda t: t.fitted, lambda t: f"{t.unit} an atom")
    if fitted is not None:
        yield "fitted", "Extensive targets above a composition fit", fitted


def _sizes(check: DataCheck) -> go.Figure:
    atoms, molecules = zip(*check.sizes, strict=True)
    figure = go.Figure(_bars(atoms, molecules))
    return figure.update_layout(xaxis_title="atoms", yaxis_title="molecules")


def _elements(check: DataCheck) -> go.Figure:
    symbols = [each.symbol for each in check.elements]
    figure = go.Figure(
        [
            _bars(symbols, [each.atoms for each in check.elements], name="atoms"),
            _bars(symbols, [each.molecules for each in check.elements], name="molecules", place=1),
        ]
    )
    return figure.update_layout(yaxis={"type": "log", "title": "number"}, barmode="group")


def _distances(check: DataCheck) -> go.Figure:
    distances = check.pairs.distances
    figure = go.Figure(_bars(_middles(distances), distances.counts, width=distances.width))
    figure.update_layout(xaxis_title="distance / Å", yaxis_title="pairs of atoms", bargap=0)
    for near in check.pairs.neighbours:
        figure.add_vline(
            x=near.angstrom,
            line={"dash": "dash", "width": 1},
            annotation={"text": f"{near.mean:.1f} neighbours", "textangle": -90},
        )
    return figure


def _histograms(
    targets: Sequence[TargetCheck],
    chosen: Callable[[TargetCheck], Histogram | None],
    unit: Callable[[TargetCheck], str],
) -> go.Figure | None:
    """Return a panel for each of the first targets that have the histogram."""
    drawn = [(t, histogram) for t in targets if (histogram := chosen(t)) is not None]
    drawn = drawn[:MOST_TARGETS]
    if not drawn:
        return None
    rows, columns, spacing = panels(len(drawn), _COLUMNS, _PANEL)
    titles = [panel_title(plain_text(target.name), columns) for target, _ in drawn]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, **spacing)
    for number, (target, histogram) in enumerate(drawn):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        bars = _bars(_middles(histogram), histogram.counts, width=histogram.width)
        figure.add_trace(bars, **place)
        figure.update_xaxes(title_text=plain_text(unit(target)), **place)
    return figure.update_layout(bargap=0, showlegend=False, **below(rows, _PANEL))


def _bars(
    x: Sequence[object],
    y: Sequence[int],
    *,
    name: str | None = None,
    width: float | None = None,
    place: int = 0,
) -> go.Bar:
    return go.Bar(
        x=list(x), y=list(y), name=name, width=width or None, marker={"color": PALETTE[place]}
    )


def _middles(histogram: Histogram) -> list[float]:
    start, width = histogram.start, histogram.width
    return [start + (place + 0.5) * width for place in range(len(histogram.counts))]
