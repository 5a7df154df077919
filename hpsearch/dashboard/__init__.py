"""The Optuna dashboard on the store, and our pages beside it under ``/pages``, drawn on request."""

from __future__ import annotations

import errno
import hashlib
import html
import os
import shlex
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from getpass import getuser
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from socketserver import ThreadingMixIn
from string import Template
from typing import Any
from urllib.parse import parse_qs, quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from hpsearch.dashboard.access import (
    MAY_CHANGE,
    Application,
    Environment,
    Guard,
    Respond,
    check_host,
    is_loopback,
)
from hpsearch.errors import HpsearchError, InputError
from hpsearch.pages.figures import plotly_script
from hpsearch.pages.files import load_page, load_pages, page_files
from hpsearch.pages.page import KINDS, Page
from hpsearch.report.render import html_sections, look
from hpsearch.store import Store
from hpsearch.system.credentials import TOKEN_VARIABLE

PREFIX = "/pages"

_CLOSING_SECONDS = 1.0
_CLOSING_PARTS = 64


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request: a slow figure does not hold up the dashboard's polling."""

    daemon_threads = True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection once its client has, so that no answer is cut off.

        A request that is refused may have a body that nobody read; closing at once would then
        reset the connection while the answer is still on its way.
        """
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(_CLOSING_SECONDS)
            for _ in range(_CLOSING_PARTS):
                if not request.recv(2**16):
                    break
        self.close_request(request)


class _Server6(_Server):
    """On an IPv6 address."""

    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Without a line on standard error for every request of a polling page."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def application(store: Store, own_pages: Path | None = None) -> Application:
    """The WSGI application: our pages under ``/pages``, Optuna's dashboard for the rest.

    Args:
        store: what is shown.
        own_pages: a folder of the user's pages, beside the shipped ones.
    """
    optuna_app = optuna_dashboard.wsgi(store.optuna_reader)

    def serve_request(environment: Environment, respond: Respond) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "/")
        if path == PREFIX or path.startswith(PREFIX + "/"):
            try:
                answer = _ours(store, own_pages, path.removeprefix(PREFIX).strip("/"), environment)
            except HpsearchError as error:
                answer = _Answer(str(error), "text/plain", "500 Internal Server Error")
            respond(answer.status, answer.headers)
            return [answer.body]
        if environment["REQUEST_METHOD"] == "GET" and path.startswith("/dashboard"):
            return _with_link(optuna_app, environment, respond)
        theirs: Iterable[bytes] = optuna_app(environment, respond)
        return theirs

    return serve_request


@dataclass(frozen=True)
class _Answer:
    """What is sent back.

    Attributes:
        text: the body.
        kind: its media type.
        status: number and phrase.
        tag: of this version of the text; without one nobody keeps it.
    """

    text: str
    kind: str = "text/html"
    status: str = "200 OK"
    tag: str | None = None

    @property
    def body(self) -> bytes:
        return self.text.encode()

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


@dataclass(frozen=True)
class _Asked:
    """Which experiment a request is about: ``?study=NAME`` or ``?ablation=NAME``, else the latest.

    A study and an ablation may have one name.
    """

    name: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, environment: Environment) -> _Asked:
        query = parse_qs(environment.get("QUERY_STRING", ""))
        found = (cls(query[kind][0], kind) for kind in KINDS if kind in query)
        return next(found, cls())

    @property
    def query(self) -> str:
        return "" if self.name is None else f"?{self.kind}={quote(self.name, safe='')}"


def _ours(store: Store, own_pages: Path | None, wanted: str, environment: Environment) -> _Answer:
    """``""`` is the list of pages, ``NAME`` a page, ``NAME/PART`` what it is made of."""
    asked = _Asked.of(environment)
    known = environment.get("HTTP_IF_NONE_MATCH")
    if not wanted:
        return _Answer(_index(store, own_pages))
    if wanted in _SCRIPTS:
        text = _SCRIPTS[wanted]()
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
        return _unless_known(known, tag, lambda: _Answer(text, "text/javascript", tag=tag))
    page, _, part = wanted.partition("/")
    path = next((file for file in page_files(own_pages) if file.stem == page), None)
    if path is None or part not in ("", *_PARTS):
        text = f"<main><p>There is no page '{html.escape(wanted)}'.</p></main>"
        return _Answer(_document("no such page", text), status="404 Not Found")
    if not part:
        return _Answer(_page(own_pages, page, asked))
    tag = f'"{store.revision()}-{path.stat().st_mtime_ns}"'
    kind, write = _PARTS[part]
    return _unless_known(
        known, tag, lambda: _Answer(write(store, load_page(path), asked), kind, tag=tag)
    )


def _unless_known(known: str | None, tag: str, answer: Callable[[], _Answer]) -> _Answer:
    return _Answer("", status="304 Not Modified", tag=tag) if known == tag else answer()


_SCRIPTS: dict[str, Callable[[], str]] = {
    "plotly.js": plotly_script,
    "follow.js": lambda: _file("follow.js"),
}


def _figure(store: Store, page: Page, asked: _Asked) -> str:
    drawn = page.figure(store, asked.name, asked.kind)
    return "null" if drawn is None else str(drawn.to_json())


def _tables(store: Store, page: Page, asked: _Asked) -> str:
    return html_sections(page.tables(store, asked.name, asked.kind))


def _rows(store: Store, page: Page, asked: _Asked) -> str:
    rows = page.frame(store, asked.name, asked.kind)
    return "" if rows is None else rows.to_csv(index=False)


_PARTS: dict[str, tuple[str, Callable[[Store, Page, _Asked], str]]] = {
    "figure": ("application/json", _figure),
    "tables": ("text/html", _tables),
    "rows.csv": ("text/csv", _rows),
}
"""What a page is made of, with its media type."""


def _page(own_pages: Path | None, wanted: str, asked: _Asked) -> str:
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
    return _document(title if asked.name is None else f"{title}: {asked.name}", body)


def _drawing(name: str, page: Page | None, asked: _Asked, element: str) -> str:
    """A figure's place, and the way to its rows."""
    source = html.escape(f"{PREFIX}/{quote(name)}/figure{asked.query}")
    text = f'<div id="{html.escape(element)}" class="figure" data-source="{source}"></div>'
    if page is not None and page.has_frame:
        rows = html.escape(f"{PREFIX}/{quote(name)}/rows.csv{asked.query}")
        text += f'<p class="rows"><a href="{rows}" download="{html.escape(name)}.csv">CSV</a></p>'
    return text


def _index(store: Store, own_pages: Path | None) -> str:
    pages, problems = load_pages(own_pages)
    frame = store.experiments()
    parts = ['<header><nav><a href="/dashboard">Optuna dashboard</a></nav></header><main>']
    # What was launched last comes first.
    for kind, name in zip(frame["kind"][::-1], frame["name"][::-1], strict=True):
        asked = _Asked(name, kind)
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
    return _document("hpsearch", "".join([*parts, "</main>", _left_out(problems)]))


def _of_kind(pages: list[Page], kind: str | None) -> list[Page]:
    """The pages that draw experiments of this kind; all where none is known."""
    return [page for page in pages if kind is None or page.kind in (None, kind)]


def _left_out(problems: list[str]) -> str:
    return "".join(f"<p>page left out: {html.escape(problem)}</p>" for problem in problems)


def _document(title: str, body: str) -> str:
    return Template(_file("shell.html")).substitute(
        title=html.escape(title), look=look(), body=body
    )


def _file(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")


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


def serve(
    store: Store,
    host: str,
    port: int,
    say: Callable[[str], None],
    *,
    token: str | None = None,
    read_only: bool = False,
    own_pages: Path | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        store: what is shown.
        host: address to listen on; one that other machines reach needs a ``token``.
        port: to listen on.
        say: told where the pages are and what whoever reaches them may do.
        token: what every request must know.
        read_only: whether requests that change something are refused.
        own_pages: a folder of the user's pages, beside the shipped ones.

    Raises:
        InputError: the address needs a token, or the port cannot be listened on.
    """
    check_host(host, port, token)
    guarded = Guard(application(store, own_pages), token, read_only=read_only)
    server_class = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, port, guarded, server_class, _Quiet)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason += ", by another dashboard perhaps"
        raise InputError(
            f"the dashboard must be able to listen on {host}:{port}, got: {reason}; choose another "
            "with --port"
        ) from None
    with server:
        address = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
        say(f"store {store.label}")
        say(f"Optuna dashboard {address}/dashboard")
        say(f"our pages        {address}{PREFIX}")
        if token is not None:
            say(f"log in once at   {address}/?token=TOKEN (the text of {TOKEN_VARIABLE})")
        who = "this machine" if is_loopback(host) else "the network"
        who = f"whoever is on {who}" if token is None else "whoever knows the token"
        say(f"{who} may {'read all' if read_only else f'{MAY_CHANGE} (--read-only refuses it)'}")
        if not is_loopback(host):
            say("the connection is not encrypted; put a proxy with TLS before it, or use ssh -L")
        for line in _tunnel(host, server.server_port) if is_loopback(host) else ():
            say(line)
        say("stop it with Ctrl-C")
        server.serve_forever()


_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""Addresses that mean another machine, or none, wherever one is not (RFC 1918)."""


def _tunnel(host: str, port: int) -> Iterator[str]:
    """What a person types at home to reach a dashboard that was started over SSH.

    Nothing where nobody came by SSH. What this connection has reached may be another machine: a
    batch system hands the environment of the login node on to the shell on a compute node.
    """
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4 or is_loopback(words[2]):
        return
    _, _, reached, ssh_port = words
    try:
        address = ip_address(reached)
    except ValueError:
        return
    user = getuser()
    inside = f"[{host}]" if ":" in host else host
    forward = ["-N", "-L", f"{port}:{inside}:{port}"]
    other_port = ssh_port != "22"
    if _is_this_machine(reached):
        way = ["-p", ssh_port] if other_port else []
        command = ["ssh", *way, *forward, f"{user}@{reached}"]
    else:
        through = f"[{reached}]" if address.version == 6 else reached
        jump = f"{user}@{through}{f':{ssh_port}' if other_port else ''}"
        command = ["ssh", *forward, "-J", jump, f"{user}@{socket.gethostname()}"]
    yield f"from your machine: {shlex.join(command)}"
    if any(address in network for network in _PRIVATE):
        yield f"                   or, for {reached}, the name that you log in by"


def _is_this_machine(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            tried.bind((address, 0))
    except OSError:
        return False
    return True
