"""A page: a Python file that has been run, and the figure that it draws from a store."""

from __future__ import annotations

import html
import inspect
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages.plots import styled
from hpsearch.report.render import Section
from hpsearch.store import StoreReader
from hpsearch.system.errors import HpsearchError

KINDS = ("study", "ablation")


class PageError(HpsearchError):
    """A page cannot be loaded or drawn; the message has the file, the line and the error."""


@dataclass(frozen=True)
class Page:
    """One file of ``dashboards/``.

    Attributes:
        name: the file's name without its suffix.
        title: heading of the figure.
        path: the file.
        module: the module that the file defines.
        kind: ``study`` or ``ablation`` if it draws only one of the two; ``None`` for both.
        beside: names of pages whose figures the dashboard shows below this page's figure.
    """

    name: str
    title: str
    path: Path
    module: ModuleType
    kind: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the file's docstring, which says what the page shows."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def has_frame(self) -> bool:
        """Whether the page returns the rows of its figure."""
        return hasattr(self.module, "frame")

    @property
    def has_tables(self) -> bool:
        """Whether the page has tables to show below its figure."""
        return hasattr(self.module, "tables")

    def figure(
        self, store: StoreReader, name: str | None = None, kind: str | None = None
    ) -> go.Figure | None:
        """Return the page's figure for the study or ablation called ``name``, or the latest.

        Args:
            store: the store to draw from.
            name: of an experiment.
            kind: of the experiment.

        Returns:
            The figure; ``None`` if the store has nothing for this page or if the page does not draw
            this kind.

        Raises:
            PageError: the page fails, or returns something else.
        """
        drawn = self._call("figure", store, name, kind)
        if drawn is not None and not isinstance(drawn, go.Figure):
            raise self._wrong("figure", "a plotly.graph_objects.Figure or None", drawn)
        return None if drawn is None else _with_plain_names(styled(drawn), store)

    def frame(
        self, store: StoreReader, name: str | None = None, kind: str | None = None
    ) -> pd.DataFrame | None:
        """Return the rows that `figure` draws; ``None`` if it draws nothing or has no ``frame``.

        Raises:
            PageError: the page fails, or returns something else.
        """
        rows = self._call("frame", store, name, kind) if self.has_frame else None
        if rows is not None and not isinstance(rows, pd.DataFrame):
            raise self._wrong("frame", "a pandas.DataFrame or None", rows)
        return rows

    def tables(
        self, store: StoreReader, name: str | None = None, kind: str | None = None
    ) -> list[Section]:
        """Return the page's tables; an empty list if it has no ``tables``.

        Raises:
            PageError: the page fails, or returns something else.
        """
        sections = (self._call("tables", store, name, kind) if self.has_tables else None) or []
        for section in sections if isinstance(sections, list) else [sections]:
            if not isinstance(section, Section):
                raise self._wrong("tables", "a list of hpsearch.report.render.Section", section)
        return list(sections)

    def _call(self, what: str, store: StoreReader, name: str | None, kind: str | None) -> Any:
        if kind is not None and self.kind not in (None, kind):
            return None
        function = getattr(self.module, what)
        # Only a page that draws both kinds has the argument `kind`.
        takes_kind = "kind" in inspect.signature(function).parameters
        try:
            return function(store, name, kind=kind) if takes_kind else function(store, name)
        except HpsearchError as error:
            raise PageError(f"{self.path}: {error}") from error
        except (Exception, SystemExit) as error:
            raise PageError(in_one_line(self.path, error)) from error

    def _wrong(self, what: str, wanted: str, got: object) -> PageError:
        return PageError(f"{self.path}: {what} must return {wanted}; got {type(got).__name__}")


def _with_plain_names(drawn: go.Figure, store: StoreReader) -> go.Figure:
    """Show the names of experiments in the title as they are; plotly.js takes some HTML there."""
    title = drawn.layout.title.text
    if title and re.search(r"[<&]", title):
        for name in sorted(store.experiments()["name"], key=len, reverse=True):
            if name in title:
                drawn.layout.title.text = title.replace(name, html.escape(name, quote=False))
                break
    return drawn


def in_one_line(path: Path, error: BaseException) -> str:
    """Return ``file:line: error: message``, with the innermost line in the page's own file."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: SyntaxError: {error.msg}"
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}:{lines[-1]}" if lines else str(path)
    message = " ".join(str(error).split())
    return f"{where}: {type(error).__name__}: {message}"
