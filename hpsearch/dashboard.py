"""The Optuna dashboard on the store, and our pages beside it under ``/pages``, drawn on request."""

from __future__ import annotations

import html
import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs, quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from hpsearch.credentials import TOKEN_VARIABLE
from hpsearch.dashboard_access import (
    MAY_CHANGE,
    Application,
    Environment,
    Guard,
    Respond,
    check_host,
    is_loopback,
)
from hpsearch.errors import HpsearchError, InputError
from hpsearch.pages import load_pages
from hpsearch.store import Store

PREFIX = "/pages"


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request: a slow figure does not hold up the dashboard's polling."""

    daemon_threads = True


class _Server6(_Server):
    """On an IPv6 address."""

    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Without a line on standard error for every request of a polling page."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def application(store: Store) -> Application:
    """The WSGI application: our pages under ``/pages``, Optuna's dashboard for the rest."""
    optuna_app = optuna_dashboard.wsgi(store.optuna_reader)

    def serve_request(environment: Environment, respond: Respond) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "/")
        if path != PREFIX and not path.startswith(PREFIX + "/"):
            answer: Iterable[bytes] = optuna_app(environment, respond)
            return answer
        query = parse_qs(environment.get("QUERY_STRING", ""))
        name = query.get("name", [None])[0]
        try:
            status, body = _page(store, path.removeprefix(PREFIX).strip("/"), name)
        except HpsearchError as error:
            status, body = "500 Internal Server Error", _document(html.escape(str(error)))
        data = body.encode()
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
        ]
        respond(status, headers)
        return [data]

    return serve_request


def _page(store: Store, wanted: str, name: str | None) -> tuple[str, str]:
    pages, problems = load_pages()
    if not wanted:
        return "200 OK", _index(store, [(page.name, page.title) for page in pages], problems)
    for page in pages:
        if page.name == wanted:
            drawn = page.html(store, name)
            nothing = f"<p>{html.escape(page.title)}: nothing to show yet.</p>"
            return "200 OK", drawn or _document(nothing)
    return "404 Not Found", _document(f"<p>There is no page '{html.escape(wanted)}'.</p>")


def _index(store: Store, pages: list[tuple[str, str]], problems: list[str]) -> str:
    frame = store.experiments()
    parts = ['<p><a href="/dashboard">Optuna dashboard</a></p>']
    for kind, experiment in zip(frame["kind"], frame["name"], strict=True):
        links = "".join(
            f'<li><a href="{PREFIX}/{quote(page)}?name={quote(experiment)}">{html.escape(title)}'
            "</a></li>"
            for page, title in pages
        )
        parts.append(f"<h2>{html.escape(kind)} {html.escape(experiment)}</h2><ul>{links}</ul>")
    parts += [f"<p>page left out: {html.escape(problem)}</p>" for problem in problems]
    return _document("".join(parts))


def _document(body: str) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>hpsearch</title>'
        '<meta name="color-scheme" content="light dark"></head>'
        f'<body style="font-family: sans-serif; margin: 2rem">{body}</body></html>'
    )


def serve(
    store: Store,
    host: str,
    port: int,
    say: Callable[[str], None],
    *,
    token: str | None = None,
    read_only: bool = False,
) -> None:
    """Serve until interrupted.

    Args:
        store: what is shown.
        host: address to listen on; one that other machines reach needs a ``token``.
        port: to listen on.
        say: told where the pages are and what whoever reaches them may do.
        token: what every request must know.
        read_only: whether requests that change something are refused.

    Raises:
        InputError: the address needs a token, or the port cannot be listened on.
    """
    check_host(host, port, token)
    guarded = Guard(application(store), token, read_only=read_only)
    server_class = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, port, guarded, server_class, _Quiet)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"the dashboard must be able to listen on {host}:{port}, got: {error}; choose another "
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
        say("stop it with Ctrl-C")
        server.serve_forever()
