"""The HTML documents under ``/pages``: the list of pages, and a page that updates itself."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote

from hpsearch.pages.access import Environment
from hpsearch.pages.files import load_pages
from hpsearch.pages.page import KINDS, Page
from hpsearch.report.render import look
from hpsearch.store import StoreReader

PREFIX = "/pages"


@dataclass(frozen=True)
class RequestedExperiment:
    """The experiment that a request names: ``?study=NAME`` or ``?ablation=NAME``, else the latest.

    The kind is needed because a study and an ablation may have the same name.
    """

    name: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, environment: Environment) -> RequestedExperiment:
        """Parse the query of a request."""
        query = parse_qs(environment.get("QUERY_STRING", ""))
        named = (cls(query[kind][0], kind) for kind in KINDS if kind in query)
        return next(named, cls())

    @property
    def query(self) -> str:
        """The query string that names the same experiment."""
        return "" if self.name is None else f"?{self.kind}={quote(self.name, safe='')}"


def page_document(own_pages: Path | None, wanted: str, experiment: RequestedExperiment) -> str:
    """Return the document of a page, with links to the experiment's other pages."""
    pages, problems = load_pages(own_pages)
    links = [f'<a href="/dashboard">Optuna</a> <a href="{PREFIX}">all pages</a>']
    for other in _of_kind(pages, experiment.kind):
        here = ' class="here" aria-current="page"' if other.name == wanted else ""
        title = html.escape(other.title)
        links.append(f'<a{here} href="{PREFIX}/{quote(other.name)}{experiment.query}">{title}</a>')
    by_name = {other.name: other for other in pages}
    page = by_name.get(wanted)
    parts = [_drawing(wanted, page, experiment, "figure")]
    if page is not None and page.has_tables:
        source = html.escape(f"{PREFIX}/{quote(wanted)}/tables{experiment.query}")
        parts.append(f'<div class="text" data-source="{source}"></div>')
    if page is not None:
        parts += [
            f"<h2>{html.escape(by_name[name].title)}</h2>"
            + _drawing(name, by_name[name], experiment, f"figure-{name}")
            for name in page.beside
            if name in by_name
        ]
    body = (
        f"<header><nav>{' '.join(links)}</nav>"
        '<span id="state" role="status">drawing</span></header>'
        f"{_left_out(problems)}<main>{''.join(parts)}</main>"
        f'<script src="{PREFIX}/plotly.js"></script><script src="{PREFIX}/follow.js"></script>'
    )
    title = wanted if page is None else page.title
    return document(title if experiment.name is None else f"{title}: {experiment.name}", body)


def _drawing(name: str, page: Page | None, experiment: RequestedExperiment, element: str) -> str:
    """Return the element of a figure, and the link to its rows."""
    source = html.escape(f"{PREFIX}/{quote(name)}/figure{experiment.query}")
    text = f'<div id="{html.escape(element)}" class="figure" data-source="{source}"></div>'
    if page is not None and page.has_frame:
        rows = html.escape(f"{PREFIX}/{quote(name)}/rows.csv{experiment.query}")
        text += f'<p class="rows"><a href="{rows}" download="{html.escape(name)}.csv">CSV</a></p>'
    return text


def list_document(store: StoreReader, own_pages: Path | None) -> str:
    """Return the list of experiments, each with links to its pages."""
    pages, problems = load_pages(own_pages)
    frame = store.experiments()
    parts = ['<header><nav><a href="/dashboard">Optuna dashboard</a></nav></header><main>']
    # The experiment launched last comes first.
    for kind, name in zip(frame["kind"][::-1], frame["name"][::-1], strict=True):
        experiment = RequestedExperiment(name, kind)
        links = "".join(
            f'<li><a href="{PREFIX}/{quote(page.name)}{experiment.query}">'
            f"<b>{html.escape(page.title)}</b><span>{html.escape(page.summary)}</span></a></li>"
            for page in _of_kind(pages, kind)
        )
        parts.append(
            f'<h2>{html.escape(kind)} {html.escape(name)}</h2><ul class="cards">{links}</ul>'
        )
    if frame.empty:
        parts.append("<p>There is no study yet. hpsearch launch creates one.</p>")
    return document("hpsearch", "".join([*parts, "</main>", _left_out(problems)]))


def _of_kind(pages: list[Page], kind: str | None) -> list[Page]:
    """Return the pages that draw experiments of this kind; all pages if the kind is ``None``."""
    return [page for page in pages if kind is None or page.kind in (None, kind)]


def _left_out(problems: list[str]) -> str:
    return "".join(f"<p>page left out: {html.escape(problem)}</p>" for problem in problems)


def document(title: str, body: str) -> str:
    """Return an HTML document with the report's style sheet."""
    return Template(file_text("shell.html")).substitute(
        title=html.escape(title), look=look(), body=body
    )


def file_text(name: str) -> str:
    """Return the text of a file in this package."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
