"""Opens the pages in ``dashboards/``: one file, one Plotly figure.

A page is a Python file with ``TITLE`` and ``figure(store, name=None)``; it is opened by path, so a
person adds one without touching the engine. What such a file does wrong is told in one line.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.offline import get_plotlyjs

from hpsearch import shipped
from hpsearch.ablation import VARIANT_NAMES
from hpsearch.errors import HpsearchError
from hpsearch.report.render import Figure, Figures
from hpsearch.store import Store
from hpsearch.study import Study

FigureFunction = Callable[[Store, str | None], "go.Figure | None"]


class PageError(HpsearchError):
    """A page cannot be loaded or drawn: which file, which line, what went wrong."""


@dataclass(frozen=True)
class Page:
    """One file of ``dashboards/``.

    Attributes:
        name: the file's name without its ending.
        title: heading of the figure.
        path: the file.
        function: its ``figure``.
        kind: ``study`` or ``ablation`` where it draws only one of the two; ``None`` for both.
    """

    name: str
    title: str
    path: Path
    function: FigureFunction
    kind: str | None = None

    def figure(self, store: Store, name: str | None = None) -> go.Figure | None:
        """The page's figure for the study or ablation called ``name``, by default the latest.

        Returns:
            The figure, or ``None`` where the store holds nothing for this page.

        Raises:
            PageError: the page fails, or returns something else.
        """
        try:
            drawn = self.function(store, name)
        except HpsearchError as error:
            raise PageError(f"{self.path}: {error}") from error
        except (Exception, SystemExit) as error:
            raise PageError(_in_one_line(self.path, error)) from error
        if drawn is not None and not isinstance(drawn, go.Figure):
            raise PageError(
                f"{self.path}: figure must return a plotly.graph_objects.Figure or None; "
                f"got {type(drawn).__name__}"
            )
        return drawn


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
    palette = qualitative.D3 if len(names) <= len(qualitative.D3) else qualitative.Dark24
    return {name: palette[index % len(palette)] for index, name in enumerate(names)}


def folder() -> Path:
    """Where the pages are, in the checkout or in the wheel."""
    return shipped.folder("dashboards")


def page_files(directory: Path | None = None) -> list[Path]:
    """The pages' files by name; a leading underscore or dot hides one."""
    files = (directory or folder()).glob("*.py")
    return sorted(path for path in files if not path.name.startswith(("_", ".")))


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
    if kind not in (None, "study", "ablation"):
        raise PageError(f"{path}: a page's KIND must be 'study' or 'ablation', got {kind!r}")
    return Page(path.stem, title, path, function, kind)


def load_pages(directory: Path | None = None) -> tuple[list[Page], list[str]]:
    """Every page that loads, and one line for each that does not."""
    pages: list[Page] = []
    problems: list[str] = []
    for path in page_files(directory):
        try:
            pages.append(load_page(path))
        except PageError as error:
            problems.append(str(error))
    return pages, problems


def draw_pages(
    store: Store, name: str | None = None, beginning: str = "", directory: Path | None = None
) -> Figures:
    """Every page that has something to show, for one document.

    Args:
        store: what is drawn.
        name: of the study or ablation; by default the latest.
        beginning: of the drawings' names, which must be unique in a document.
        directory: of the pages, by default the shipped ones.
    """
    pages, problems = load_pages(directory)
    drawn: list[Figure] = []
    for page in pages:
        try:
            figure = page.figure(store, name)
        except PageError as error:
            problems.append(str(error))
            continue
        if figure is not None:
            element = f"{beginning}{page.name}"
            drawn.append(Figure(element, page.title, _element(figure, element)))
    script = f"<script>{plotly_script()}</script>"
    return Figures(script, tuple(drawn), tuple(problems))


def plotly_script() -> str:
    """The text of plotly.js, which draws the figures."""
    text: str = get_plotlyjs()
    return text


def _element(figure: go.Figure, name: str) -> str:
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, default_height="70vh", div_id=name
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
