"""The documents of ``/pages``: the list of pages, and the page that follows its study."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote

from hpsearch.dashboard.access import Environment
from hpsearch.pages.files import load_pages
from hpsearch.pages.page import KINDS, Page
from hpsearch.report.render import look
from hpsearch.store import StoreReader

PREFIX = "/pages"


@dataclass(frozen=True)
class Asked:
    """Which experiment a request is about: ``?study=NAME`` or ``?ablation=NAME``, else the latest.

    A study and an ablation may have one name.
    """

    name: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, environment: Environment) -> Asked:
        """What the request's query names."""
        query = parse_qs(environment.get("QUERY_STRING", ""))
        found = (cls(query[kind][0], kind) for kind in KINDS if kind in query)
        return next(found, cls())

    @property
    def query(self) -> str:
        """The query that names the same experiment."""
        return "" if self.name is None else f"?{self.kind}={quote(self.name, safe='')}"


def page_document(own_pages: Path | None, wanted: str, asked: Asked) -> str:
    """The document that follows a figure, with the way to the other pages of the experiment."""
    pages, problems = load_pages(own_pages)
    links = [f'<a href="/dashboard">Optuna</a> <a href="{PREFIX}">all pages</a>']
    for page in _of_kind(pages, asked.kind):
        here = ' class="here" aria-current="page"' if page.name == wanted else ""
        title = html.escape(page.title)
        links.append(f'<a{here} href="{PREFIX}/{quote(page.name)}{asked.query}">{title}</a>')
    by_name = {page.name: page for page in pages}
    found = by_name.get(wanted)
    parts = [_drawing(wanted, found, asked, "figure")]
    if found is not None and found.has_tables:
        source = html.escape(f"{PREFIX}/{quote(wanted)}/tables{asked.query}")
        parts.append(f'<div class="text" data-source="{source}"></div>')
    if found is not None:
        parts += [
            f"<h2>{html.escape(by_name[name].title)}</h2>"
            + _drawing(name, by_name[name], asked, f"figure-{name}")
            for name in found.beside
            if name in by_name
        ]
    body = (
        f"<header><nav>{' '.join(links)}</nav>"
        '<span id="state" role="status">drawing</span></header>'
        f"{_left_out(problems)}<main>{''.join(parts)}</main>"
        f'<script src="{PREFIX}/plotly.js"></script><script src="{PREFIX}/follow.js"></script>'
    )
    title = wanted if found is None else found.title
    return document(title if asked.name is None else f"{title}: {asked.name}", body)


def _drawing(name: str, page: Page | None, asked: Asked, element: str) -> str:
    """A figure's place, and the way to its rows."""
    source = html.escape(f"{PREFIX}/{quote(name)}/figure{asked.query}")
    text = f'<div id="{html.escape(element)}" class="figure" data-source="{source}"></div>'
    if page is not None and page.has_frame:
        rows = html.escape(f"{PREFIX}/{quote(name)}/rows.csv{asked.query}")
        text += f'<p class="rows"><a href="{rows}" download="{html.escape(name)}.csv">CSV</a></p>'
    return text


def list_document(store: StoreReader, own_pages: Path | None) -> str:
    """Every experiment with the pages that draw it."""
    pages, problems = load_pages(own_pages)
    frame = store.experiments()
    parts = ['<header><nav><a href="/dashboard">Optuna dashboard</a></nav></header><main>']
    # What was launched last comes first.
    for kind, name in zip(frame["kind"][::-1], frame["name"][::-1], strict=True):
        asked = Asked(name, kind)
        links = "".join(
            f'<li><a href="{PREFIX}/{quote(page.name)}{asked.query}">'
            f"<b>{html.escape(page.title)}</b><span>{html.escape(page.summary)}</span></a></li>"
            for page in _of_kind(pages, kind)
        )
        parts.append(
            f'<h2>{html.escape(kind)} {html.escape(name)}</h2><ul class="cards">{links}</ul>'
        )
    if frame.empty:
        parts.append("<p>No study yet: hpsearch launch makes one.</p>")
    return document("hpsearch", "".join([*parts, "</main>", _left_out(problems)]))


def _of_kind(pages: list[Page], kind: str | None) -> list[Page]:
    """The pages that draw experiments of this kind; all where none is known."""
    return [page for page in pages if kind is None or page.kind in (None, kind)]


def _left_out(problems: list[str]) -> str:
    return "".join(f"<p>page left out: {html.escape(problem)}</p>" for problem in problems)


def document(title: str, body: str) -> str:
    """A whole HTML document in the look of the report."""
    return Template(file_text("shell.html")).substitute(
        title=html.escape(title), look=look(), body=body
    )


def file_text(name: str) -> str:
    """The text of a file that lies beside this module."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
