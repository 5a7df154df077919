"""The figures of all pages, for one document."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from hpsearch.pages.files import load_pages
from hpsearch.pages.page import PageError
from hpsearch.pages.plots import styled
from hpsearch.report.render import Figure, Figures, Section, html_document
from hpsearch.results.csv_text import csv_text
from hpsearch.store import StoreReader


def draw_pages(
    store: StoreReader, name: str | None = None, kind: str | None = None, own: Path | None = None
) -> Figures:
    """Draw every page that has something to show, for one document, and return its rows.

    Args:
        store: the store to draw from.
        name: of the study or ablation; by default the latest.
        kind: ``study`` or ``ablation``, which may have the same name; the names of the drawings
            begin with it.
        own: a folder of the user's pages; see `page_files`.
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
                    figure_element(figure, element),
                    "" if rows is None else csv_text(rows, index=False),
                )
            )
    script = f"<script>{plotly_script()}</script>"
    return Figures(script, tuple(drawn), tuple(problems))


def document(
    title: str, sections: Iterable[Section], pictures: Iterable[tuple[str, str, go.Figure]]
) -> str:
    """Return an HTML document of sections and pictures.

    Args:
        title: of the document.
        sections: the text and the tables.
        pictures: name, title and figure of each picture.
    """
    drawn = tuple(
        Figure(name, heading, figure_element(styled(figure), name))
        for name, heading, figure in pictures
    )
    return html_document(title, sections, Figures(f"<script>{plotly_script()}</script>", drawn))


def plotly_script() -> str:
    """Return the text of plotly.js, which draws the figures."""
    text: str = get_plotlyjs()
    return text


def figure_element(figure: go.Figure, name: str) -> str:
    """Return the figure as an element with the id ``name``, which needs plotly.js on its page."""
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{figure.layout.height}px",
        div_id=name,
        config={"responsive": True, "displaylogo": False},
    )
    return text
