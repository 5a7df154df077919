"""Opens the pages in ``dashboards/``: one file, one Plotly figure.

A page is a Python file with ``TITLE`` and ``figure(store, name=None)``, and if it likes
``frame(store, name=None)``, the rows that the figure draws, and ``tables(store, name=None)``. It is
opened by path, so a person adds one without touching the engine: there, or in a folder of their own
that they name, for opening a page runs it. What such a file does wrong is told in one line.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from hpsearch.ablation import VARIANT_NAMES
from hpsearch.errors import HpsearchError
from hpsearch.report.render import Figure, Figures, Section
from hpsearch.search import Study
from hpsearch.store import Store
from hpsearch.system import installation

PANEL_EDGES = {"t": 84, "b": 96}
"""Pixels above and below the panels of a figure."""

KINDS = ("study", "ablation")

PALETTE = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#a9745f"),
    *("#e377c2", "#7f8c8d", "#a3a518", "#17a2b8", "#5b7fff", "#c0508f"),
)
"""Colours of lines and markers, each to be told from white and from near black."""

NEUTRAL = "#808890"
"""For what belongs to no arm or trial, on white as on near black."""

BEST_FIRST = [[0.0, "#d6272f"], [0.4, "#e08a3c"], [1.0, "#9aa3ad"]]
"""A colour scale of losses: the low ones stand out, on white as on near black."""

# What is not a mark is coloured by the document's style sheet, which knows whether it is dark.
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
"""Pixels of a figure in a document whose page names no height."""


class PageError(HpsearchError):
    """A page cannot be loaded or drawn: which file, which line, what went wrong."""


@dataclass(frozen=True)
class Page:
    """One file of ``dashboards/``.

    Attributes:
        name: the file's name without its ending.
        title: heading of the figure.
        path: the file.
        module: what the file has defined.
        kind: ``study`` or ``ablation`` where it draws only one of the two; ``None`` for both.
        beside: names of the pages whose figures the dashboard shows below this one's.
    """

    name: str
    title: str
    path: Path
    module: ModuleType
    kind: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What the page shows: the first line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def has_frame(self) -> bool:
        """Whether the page hands out the rows behind its figure."""
        return hasattr(self.module, "frame")

    @property
    def has_tables(self) -> bool:
        """Whether the page has tables to show below its figure."""
        return hasattr(self.module, "tables")

    def figure(
        self, store: Store, name: str | None = None, kind: str | None = None
    ) -> go.Figure | None:
        """The page's figure for the study or ablation called ``name``, by default the latest.

        Args:
            store: what is drawn.
            name: of an experiment.
            kind: of the experiment; one that this page does not draw has no figure.

        Returns:
            The figure, or ``None`` where the store holds nothing for this page.

        Raises:
            PageError: the page fails, or returns something else.
        """
        drawn = self._call("figure", store, name, kind)
        if drawn is not None and not isinstance(drawn, go.Figure):
            raise self._wrong("figure", "a plotly.graph_objects.Figure or None", drawn)
        return None if drawn is None else _styled(drawn)

    def frame(
        self, store: Store, name: str | None = None, kind: str | None = None
    ) -> pd.DataFrame | None:
        """The rows that `figure` draws; ``None`` where it draws nothing or has no ``frame``.

        Raises:
            PageError: the page fails, or returns something else.
        """
        rows = self._call("frame", store, name, kind) if self.has_frame else None
        if rows is not None and not isinstance(rows, pd.DataFrame):
            raise self._wrong("frame", "a pandas.DataFrame or None", rows)
        return rows

    def tables(
        self, store: Store, name: str | None = None, kind: str | None = None
    ) -> list[Section]:
        """What the page tells in tables; nothing where it has no ``tables``.

        Raises:
            PageError: the page fails, or returns something else.
        """
        found = (self._call("tables", store, name, kind) if self.has_tables else None) or []
        for each in found if isinstance(found, list) else [found]:
            if not isinstance(each, Section):
                raise self._wrong("tables", "a list of hpsearch.report.render.Section", each)
        return list(found)

    def _call(self, what: str, store: Store, name: str | None, kind: str | None) -> Any:
        if kind is not None and self.kind not in (None, kind):
            return None
        function = getattr(self.module, what)
        # Only a page that draws both kinds needs to be told which is meant.
        knows = "kind" in inspect.signature(function).parameters
        try:
            return function(store, name, kind=kind) if knows else function(store, name)
        except HpsearchError as error:
            raise PageError(f"{self.path}: {error}") from error
        except (Exception, SystemExit) as error:
            raise PageError(_in_one_line(self.path, error)) from error

    def _wrong(self, what: str, wanted: str, got: object) -> PageError:
        return PageError(f"{self.path}: {what} must return {wanted}; got {type(got).__name__}")


def study_of(store: Store, name: str | None) -> Study | None:
    """The study called ``name``, or the one launched last; ``None`` where there is none."""
    name = name or store.latest("study")
    if name is None or store.experiment("study", name) is None:
        return None
    return Study.open(store, name)


def complete_trials(study: Study) -> pd.DataFrame:
    """Rows of `Study.trials` whose loss can be drawn on a logarithmic axis."""
    trials = study.trials()
    return trials[(trials["state"] == "COMPLETE") & (trials["value"] > 0)]


def colours_of(lines: Iterable[str]) -> dict[str, str]:
    """A colour for each arm or trial; the paper's arms have the same ones on every page.

    Args:
        lines: names of the arms or trials, as often as they come.
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
"""Of a logarithmic axis's ticks, from coarse to fine."""


def log_axis(values: Iterable[float], title: str | None = None) -> dict[str, Any]:
    """A logarithmic axis for ``values`` whose every tick is a number to be read by itself.

    Args:
        values: what lies on the axis; only what is above zero counts.
        title: of the axis.
    """
    known = [value for value in map(float, values) if 0 < value < math.inf]
    axis: dict[str, Any] = {"type": "log"} | ({} if title is None else {"title_text": title})
    if not known:
        return axis
    low, high = min(known), max(known)
    ticks = [low]
    for mantissas in _MANTISSAS:
        found = [
            mantissa * 10.0**power
            for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
            for mantissa in mantissas
            if 0.9 * low <= mantissa * 10.0**power <= 1.1 * high
        ]
        ticks = found or ticks
        if len(ticks) >= 3:
            break
    return {**axis, "tickvals": ticks, "ticktext": [short_number(tick) for tick in ticks]}


def short_number(value: float) -> str:
    """``value`` to three digits, thousands as k and millions as M."""
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (sign == "M" and abs(value) >= size):
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"


def panels(count: int, columns: int, panel_height: int) -> tuple[int, int, dict[str, Any]]:
    """Rows, columns and the spacing of ``count`` panels, for plotly's ``make_subplots``.

    The figure's height is that of the rows and of `PANEL_EDGES`; `below` puts the legend there.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    inner = rows * panel_height
    spacing: dict[str, Any] = {"vertical_spacing": min(92 / inner, 1 / rows)}
    if columns > 1:
        spacing["horizontal_spacing"] = 0.07
    return rows, columns, spacing


def below(rows: int, panel_height: int) -> dict[str, Any]:
    """The layout of so many rows of panels: its height, and the legend below them."""
    inner = rows * panel_height
    legend = {"orientation": "h", "x": 0, "y": -56 / inner, "yanchor": "top"}
    return {
        "height": inner + PANEL_EDGES["t"] + PANEL_EDGES["b"],
        "margin": PANEL_EDGES,
        "legend": legend,
    }


def folder() -> Path:
    """Where the pages are, in the checkout or in the wheel."""
    return installation.folder("dashboards")


def page_files(own: Path | None = None) -> list[Path]:
    """The pages' files by name; a leading underscore or dot hides one.

    Args:
        own: a folder of the user's pages, beside the shipped ones; of two of one name its own is
            the page.
    """
    folders = (folder(),) if own is None else (folder(), own)
    files = {path.name: path for each in folders for path in each.glob("*.py")}
    return [files[name] for name in sorted(files) if not name.startswith(("_", "."))]


def load_page(path: Path) -> Page:
    """Runs the file at ``path`` and takes its title and its figure.

    Raises:
        PageError: the file fails, or lacks ``TITLE`` or ``figure``.
    """
    module = _run(path)
    title, function = getattr(module, "TITLE", None), getattr(module, "figure", None)
    if not isinstance(title, str):
        raise PageError(f"{path}: a page needs a text TITLE, e.g. TITLE = 'Learning curves'")
    if not callable(function):
        raise PageError(f"{path}: a page needs a function figure(store, name=None)")
    kind = getattr(module, "KIND", None)
    if kind not in (None, *KINDS):
        raise PageError(f"{path}: a page's KIND must be 'study' or 'ablation', got {kind!r}")
    for optional in ("frame", "tables"):
        if not callable(getattr(module, optional, function)):
            raise PageError(f"{path}: a page's {optional} must be a function of (store, name)")
    return Page(path.stem, title, path, module, kind, tuple(getattr(module, "BESIDE", ())))


def load_pages(own: Path | None = None) -> tuple[list[Page], list[str]]:
    """Every page that loads, and one line for each that does not; ``own`` as `page_files`."""
    pages: list[Page] = []
    problems: list[str] = []
    for path in page_files(own):
        try:
            pages.append(load_page(path))
        except PageError as error:
            problems.append(str(error))
    return pages, problems


def draw_pages(
    store: Store, name: str | None = None, kind: str | None = None, own: Path | None = None
) -> Figures:
    """Every page that has something to show, for one document, with the rows behind it.

    Args:
        store: what is drawn.
        name: of the study or ablation; by default the latest.
        kind: ``study`` or ``ablation``, with which the drawings' names begin; a study and an
            ablation may have one name.
        own: a folder of the user's pages, as `page_files` has it.
    """
    pages, problems = load_pages(own)
    drawn: list[Figure] = []
    for page in pages:
        try:
            figure = page.figure(store, name, kind)
            rows = None if figure is None else page.frame(store, name, kind)
        except PageError as error:
            problems.append(str(error))
            continue
        if figure is not None:
            element = page.name if kind is None else f"{kind}-{page.name}"
            drawn.append(
                Figure(
                    element,
                    page.title,
                    _element(figure, element),
                    "" if rows is None else rows.to_csv(index=False),
                )
            )
    script = f"<script>{plotly_script()}</script>"
    return Figures(script, tuple(drawn), tuple(problems))


def plotly_script() -> str:
    """The text of plotly.js, which draws the figures."""
    text: str = get_plotlyjs()
    return text


def _styled(figure: go.Figure) -> go.Figure:
    """In our template, unless the page has chosen another than Plotly's own."""
    if figure.layout.template == go.Figure().layout.template:
        figure.layout.template = _TEMPLATE
    if figure.layout.height is None:
        figure.layout.height = DEFAULT_HEIGHT
    return figure


def _element(figure: go.Figure, name: str) -> str:
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{figure.layout.height}px",
        div_id=name,
        config={"responsive": True, "displaylogo": False},
    )
    return text


def _run(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"hpsearch_page_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise PageError(f"{path}: a page must be a Python file")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PageError(_in_one_line(path, error)) from error
    return module


def _in_one_line(path: Path, error: BaseException) -> str:
    """``file:line: kind: message``, with the deepest line that lies in the page's own file."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: SyntaxError: {error.msg}"
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}:{lines[-1]}" if lines else str(path)
    message = " ".join(str(error).split())
    return f"{where}: {type(error).__name__}: {message}"
