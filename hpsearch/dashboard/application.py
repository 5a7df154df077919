"""What the dashboard answers: our pages under ``/pages``, Optuna's dashboard for the rest."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna_dashboard

from hpsearch.dashboard.access import Application, Environment, Respond
from hpsearch.dashboard.documents import (
    PREFIX,
    Asked,
    document,
    file_text,
    list_document,
    page_document,
)
from hpsearch.errors import HpsearchError
from hpsearch.pages.figures import plotly_script
from hpsearch.pages.files import load_page, page_files
from hpsearch.pages.page import Page
from hpsearch.report.render import html_sections
from hpsearch.store import Store, StoreReader


def application(store: StoreReader, own_pages: Path | None = None) -> Application:
    """The WSGI application: our pages under ``/pages``, Optuna's dashboard for the rest.

    Args:
        store: what is shown. With one that writes, Optuna's dashboard may change it; the pages get
            its reader.
        own_pages: a folder of the user's pages, beside the shipped ones.
    """
    if isinstance(store, Store):
        reader, trials = store.reader, store.optuna_by_hand
    else:
        reader, trials = store, store.optuna_reader
    optuna_app = optuna_dashboard.wsgi(trials)
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
        answered: Iterable[bytes] = optuna_app(environment, respond)
        return answered

    return serve_request


@dataclass(frozen=True)
class _Answer:
    """What is sent back.

    Attributes:
        body: the text, encoded.
        kind: its media type.
        status: number and phrase.
        tag: of this version of the text; without one nobody keeps it.
    """

    body: bytes
    kind: str = "text/html"
    status: str = "200 OK"
    tag: str | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        # With a tag it may be kept, but has to be asked for whether it still holds.
        keeping = [("Cache-Control", "no-store")]
        if self.tag is not None:
            keeping = [("Cache-Control", "no-cache"), ("ETag", self.tag)]
        return [
            ("Content-Type", f"{self.kind}; charset=utf-8"),
            ("Content-Length", str(len(self.body))),
            *keeping,
        ]


def _answer(
    text: str, kind: str = "text/html", status: str = "200 OK", tag: str | None = None
) -> _Answer:
    return _Answer(text.encode(), kind, status, tag)


def _scripts() -> dict[str, _Answer]:
    # Made once: plotly.js has megabytes, and every open page asks for it.
    texts = {"plotly.js": plotly_script(), "follow.js": file_text("follow.js")}
    tags = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
    return {
        name: _answer(text, "text/javascript", tag=f'"{tags[name]}"')
        for name, text in texts.items()
    }


@dataclass(frozen=True)
class _Pages:
    """What lies under ``/pages``."""

    store: StoreReader
    own: Path | None
    scripts: dict[str, _Answer]

    def answer(self, wanted: str, environment: Environment) -> _Answer:
        """``""`` is the list of pages, ``NAME`` a page, ``NAME/PART`` what it is made of."""
        if not wanted:
            return _answer(list_document(self.store, self.own))
        known = environment.get("HTTP_IF_NONE_MATCH")
        if wanted in self.scripts:
            script = self.scripts[wanted]
            return _unless_known(known, script.tag, lambda: script)
        asked = Asked.of(environment)
        page, _, part = wanted.partition("/")
        path = next((file for file in page_files(self.own) if file.stem == page), None)
        if path is None or part not in ("", *_PARTS):
            text = f"<main><p>There is no page '{html.escape(wanted)}'.</p></main>"
            return _answer(document("no such page", text), status="404 Not Found")
        if not part:
            return _answer(page_document(self.own, page, asked))
        tag = f'"{self.store.revision()}-{path.stat().st_mtime_ns}"'
        kind, write = _PARTS[part]
        return _unless_known(
            known,
            tag,
            lambda: _answer(write(self.store.snapshot(), load_page(path), asked), kind, tag=tag),
        )


def _unless_known(known: str | None, tag: str | None, answer: Callable[[], _Answer]) -> _Answer:
    return _Answer(b"", status="304 Not Modified", tag=tag) if known == tag else answer()


def _figure(store: StoreReader, page: Page, asked: Asked) -> str:
    drawn = page.figure(store, asked.name, asked.kind)
    return "null" if drawn is None else str(drawn.to_json())


def _tables(store: StoreReader, page: Page, asked: Asked) -> str:
    return html_sections(page.tables(store, asked.name, asked.kind))


def _rows(store: StoreReader, page: Page, asked: Asked) -> str:
    rows = page.frame(store, asked.name, asked.kind)
    return "" if rows is None else rows.to_csv(index=False)


_PARTS: dict[str, tuple[str, Callable[[StoreReader, Page, Asked], str]]] = {
    "figure": ("application/json", _figure),
    "tables": ("text/html", _tables),
    "rows.csv": ("text/csv", _rows),
}
"""What a page is made of, with its media type."""


_LINK = (
    f'<a href="{PREFIX}" style="position: fixed; right: 16px; bottom: 16px; z-index: 2000; '
    "padding: 8px 14px; border-radius: 16px; background: #0b57d0; color: white; "
    'font: 14px sans-serif; text-decoration: none">hpsearch pages</a>'
)


def _with_link(
    optuna_app: Application, environment: Environment, respond: Respond
) -> Iterable[bytes]:
    """Optuna's own document with the way to our pages."""
    begun: list[Any] = []
    # A browser's copy is as old as their file, and so has no link, or another.
    asked = {k: v for k, v in environment.items() if k != "HTTP_IF_MODIFIED_SINCE"}
    parts = optuna_app(asked, lambda *arguments: begun.extend(arguments[:2]))
    with ExitStack() as stack:
        if callable(close := getattr(parts, "close", None)):
            stack.callback(close)
        body = b"".join(parts)
    status, headers = begun
    given = {name.lower(): value for name, value in headers}
    if status.startswith("200") and given.get("content-type", "").startswith("text/html"):
        body = body.replace(b"</body>", _LINK.encode() + b"</body>")
        kept = [pair for pair in headers if pair[0].lower() not in _OF_THEIR_FILE]
        headers = [*kept, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    respond(status, headers)
    return [body]


_OF_THEIR_FILE = ("content-length", "last-modified", "etag", "accept-ranges", "cache-control")
