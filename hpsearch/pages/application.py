"""The WSGI application: our pages under ``/pages``, Optuna's dashboard for all other paths."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import optuna_dashboard

from hpsearch.pages.access import Application, Environment, Respond
from hpsearch.pages.documents import (
    PREFIX,
    RequestedExperiment,
    document,
    file_text,
    list_document,
    page_document,
)
from hpsearch.pages.figures import plotly_script
from hpsearch.pages.files import load_page, page_files
from hpsearch.pages.optuna_requests import OptunaRequests, changed_answer
from hpsearch.pages.page import Page
from hpsearch.report.render import html_sections
from hpsearch.results.csv_text import csv_text
from hpsearch.store import Store, StoreReader
from hpsearch.system.errors import HpsearchError


def application(store: StoreReader, own_pages: Path | None = None) -> Application:
    """Return the WSGI application: our pages under ``/pages``, else Optuna's dashboard.

    Args:
        store: the store to show. If it is a ``Store``, Optuna's dashboard may change it; the pages
            only get its reader.
        own_pages: a folder of the user's pages, in addition to the shipped ones.
    """
    if isinstance(store, Store):
        reader, trials, rename = store.reader, store.optuna_by_hand, store.rename_study
    else:
        reader, trials, rename = store, store.optuna_reader, None
    optuna_app = OptunaRequests(optuna_dashboard.wsgi(trials), trials, rename)
    pages = _Pages(reader, own_pages, _scripts())

    def serve_request(environment: Environment, respond: Respond) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "/")
        if path == PREFIX or path.startswith(PREFIX + "/"):
            try:
                answer = pages.answer(path.removeprefix(PREFIX).strip("/"), environment)
            except HpsearchError as error:
                answer = _answer(str(error), "text/plain", "500 Internal Server Error")
            respond(answer.status, answer.headers)
            return [answer.body]
        if environment["REQUEST_METHOD"] == "GET" and path.startswith("/dashboard"):
            return _with_link(optuna_app, environment, respond)
        return optuna_app(environment, respond)

    return serve_request


@dataclass(frozen=True)
class _Answer:
    """An HTTP response.

    Attributes:
        body: the encoded text.
        kind: its media type.
        status: number and phrase.
        tag: the ETag of this version of the text; ``None`` if it must not be cached.
    """

    body: bytes
    kind: str = "text/html"
    status: str = "200 OK"
    tag: str | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        # "no-cache" allows a browser to cache the text, but it must ask whether the tag is current.
        caching = [("Cache-Control", "no-store")]
        if self.tag is not None:
            caching = [("Cache-Control", "no-cache"), ("ETag", self.tag)]
        return [
            ("Content-Type", f"{self.kind}; charset=utf-8"),
            ("Content-Length", str(len(self.body))),
            *caching,
        ]


def _answer(
    text: str, kind: str = "text/html", status: str = "200 OK", tag: str | None = None
) -> _Answer:
    return _Answer(text.encode(), kind, status, tag)


def _scripts() -> dict[str, _Answer]:
    # Made once, because plotly.js has several megabytes and every open page requests it.
    texts = {"plotly.js": plotly_script(), "follow.js": file_text("follow.js")}
    tags = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
    return {
        name: _answer(text, "text/javascript", tag=f'"{tags[name]}"')
        for name, text in texts.items()
    }


@dataclass(frozen=True)
class _Pages:
    """The documents under ``/pages``."""

    store: StoreReader
    own: Path | None
    scripts: dict[str, _Answer]

    def answer(self, wanted: str, environment: Environment) -> _Answer:
        """Answer a path: ``""`` is the list of pages, ``NAME`` a page, ``NAME/PART`` its part."""
        if not wanted:
            return _answer(list_document(self.store, self.own))
        known = environment.get("HTTP_IF_NONE_MATCH")
        if wanted in self.scripts:
            script = self.scripts[wanted]
            return _unless_known(known, script.tag, lambda: script)
        experiment = RequestedExperiment.of(environment)
        page, _, part = wanted.partition("/")
        path = next((file for file in page_files(self.own) if file.stem == page), None)
        if path is None or part not in ("", *_PARTS):
            text = f"<main><p>There is no page '{html.escape(wanted)}'.</p></main>"
            return _answer(document("no such page", text), status="404 Not Found")
        if not part:
            return _answer(page_document(self.own, page, experiment))
        tag = f'"{self.store.revision()}-{path.stat().st_mtime_ns}"'
        kind, write = _PARTS[part]
        return _unless_known(
            known,
            tag,
            lambda: _answer(
                write(self.store.snapshot(), load_page(path), experiment), kind, tag=tag
            ),
        )


def _unless_known(known: str | None, tag: str | None, answer: Callable[[], _Answer]) -> _Answer:
    return _Answer(b"", status="304 Not Modified", tag=tag) if known == tag else answer()


def _figure(store: StoreReader, page: Page, experiment: RequestedExperiment) -> str:
    drawn = page.figure(store, experiment.name, experiment.kind)
    return "null" if drawn is None else str(drawn.to_json())


def _tables(store: StoreReader, page: Page, experiment: RequestedExperiment) -> str:
    return html_sections(page.tables(store, experiment.name, experiment.kind))


def _rows(store: StoreReader, page: Page, experiment: RequestedExperiment) -> str:
    rows = page.frame(store, experiment.name, experiment.kind)
    return "" if rows is None else csv_text(rows, index=False)


_PARTS: dict[str, tuple[str, Callable[[StoreReader, Page, RequestedExperiment], str]]] = {
    "figure": ("application/json", _figure),
    "tables": ("text/html", _tables),
    "rows.csv": ("text/csv", _rows),
}
"""The parts of a page: media type, and the function that writes the text."""


_LINK = (
    f'<a href="{PREFIX}" style="position: fixed; right: 16px; bottom: 16px; z-index: 2000; '
    "padding: 8px 14px; border-radius: 16px; background: #0b57d0; color: white; "
    'font: 14px sans-serif; text-decoration: none">hpsearch pages</a>'
)


def _with_link(
    optuna_app: Application, environment: Environment, respond: Respond
) -> Iterable[bytes]:
    """Answer with Optuna's document and a link to our pages."""
    # Never answer 304: a browser's cached copy may lack the link.
    request = {k: v for k, v in environment.items() if k != "HTTP_IF_MODIFIED_SINCE"}

    def add_link(document: bytes) -> bytes:
        return document.replace(b"</body>", _LINK.encode() + b"</body>")

    never_cached = ("Cache-Control", "no-store")
    return changed_answer(optuna_app, request, respond, "text/html", add_link, never_cached)
