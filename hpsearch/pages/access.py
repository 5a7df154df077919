"""Access control for the dashboard, as a WSGI layer, because Optuna's dashboard has no login.

- On the address of this machine (127.0.0.1), no token is needed. Requests of foreign pages are
  refused: a foreign page in the same browser can send requests to 127.0.0.1, and can read the
  answers through a DNS name that resolves to 127.0.0.1.
- On any other address, a token is required.
- If there is a token, every request needs it.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import json
import os
import secrets
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from hpsearch.system.credentials import TOKEN_VARIABLE
from hpsearch.system.errors import InputError

Environment = dict[str, Any]
Respond = Callable[..., Any]
Application = Callable[[Environment, Respond], Iterable[bytes]]

LEAST_TOKEN = 16
"""Least number of characters of a token."""

READING = ("GET", "HEAD")
"""HTTP methods that change nothing; optuna-dashboard 0.21 reads studies with these only."""

MAY_CHANGE = (
    "create, rename and delete studies with their trials, end running trials with any value, and "
    "write notes and attributes"
)
"""The changes that optuna-dashboard 0.21 offers to anyone who can reach it."""

_HEADERS = [
    # A foreign page must not show ours in a frame, to trick a person into clicking on it.
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    # The login's address contains the token. (`no-referrer` would also remove the Origin header.)
    ("Referrer-Policy", "same-origin"),
]


def token_from_environment() -> str | None:
    """Return the token in ``HPSEARCH_TOKEN``; ``None`` if it is not set.

    Raises:
        InputError: it is too short, or has characters that a header cannot contain.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if len(token) < LEAST_TOKEN:
        raise InputError(
            f"the token in {TOKEN_VARIABLE} must have at least {LEAST_TOKEN} characters, got "
            f"{len(token)}; make one with: openssl rand -hex 24"
        )
    if not all("!" <= character <= "~" for character in token):
        raise InputError(
            f"the token in {TOKEN_VARIABLE} must be printable ASCII without spaces, but contains "
            "another character; make one with: openssl rand -hex 24"
        )
    return token


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is a loopback address, which other machines cannot reach."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str, port: int, token: str | None) -> None:
    """Refuse an address that other machines can reach, unless there is a token.

    Raises:
        InputError: ``host`` is not a loopback address and there is no token.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            "the dashboard has no login, so --host must be this machine (127.0.0.1) unless "
            f"{TOKEN_VARIABLE} contains a token, got '{host}'; from another machine use: "
            f"ssh -L {port}:127.0.0.1:{port} THIS-MACHINE, or set a token: "
            f'export {TOKEN_VARIABLE}="$(openssl rand -hex 24)"'
        )


@final
class Guard:
    """Passes permitted requests on to ``application`` and refuses all others.

    Args:
        application: the guarded application.
        token: the token that requests need; ``None`` permits requests to a loopback name.
        read_only: whether requests that change something are refused.
    """

    def __init__(
        self, application: Application, token: str | None = None, *, read_only: bool = False
    ) -> None:
        self._application = application
        self._token = token
        self._read_only = read_only
        # Not derived from the token, so that a stolen cookie reveals nothing about it.
        self._session = secrets.token_urlsafe(32)

    def __call__(self, environment: Environment, respond: Respond) -> Iterable[bytes]:
        """Answer one request."""

        def guarded(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return respond(status, [*headers, *_HEADERS], *more)

        if self._token is None:
            if not is_loopback(_host_name(environment.get("HTTP_HOST", ""))):
                return refuse(
                    environment,
                    guarded,
                    "403 Forbidden",
                    "without a token the dashboard answers only to localhost or 127.0.0.1",
                )
        elif self._is_login(environment):
            guarded("303 See Other", [("Location", "/"), self._cookie(environment), *_empty()])
            return []
        elif not self._is_known(environment):
            return refuse(
                environment,
                guarded,
                "401 Unauthorized",
                f"log in at /?token=TOKEN with the text of {TOKEN_VARIABLE}, or send the header "
                "Authorization: Bearer TOKEN",
                ("WWW-Authenticate", 'Bearer realm="hpsearch"'),
            )
        if environment["REQUEST_METHOD"] not in READING:
            if self._read_only:
                return refuse(
                    environment, guarded, "403 Forbidden", "the dashboard was started --read-only"
                )
            if _is_cross_site(environment):
                return refuse(
                    environment,
                    guarded,
                    "403 Forbidden",
                    "a page of another site is not allowed to change a study",
                )
        return self._application(environment, guarded)

    def _is_login(self, environment: Environment) -> bool:
        if environment["REQUEST_METHOD"] != "GET" or environment.get("PATH_INFO") not in ("", "/"):
            return False
        given = parse_qs(environment.get("QUERY_STRING", "")).get("token", [""])
        return self._is_token(given[0])

    def _is_known(self, environment: Environment) -> bool:
        kind, _, given = environment.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(environment.get("HTTP_COOKIE", "")).get(_cookie_name(environment))
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._session)

    def _is_token(self, given: str) -> bool:
        return self._token is not None and _same(given, self._token)

    def _cookie(self, environment: Environment) -> tuple[str, str]:
        name = _cookie_name(environment)
        return "Set-Cookie", f"{name}={self._session}; Path=/; HttpOnly; SameSite=Strict"


def _same(given: str, wanted: str) -> bool:
    """Compare in constant time, so that the duration reveals nothing about ``wanted``."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _cookie_name(environment: Environment) -> str:
    # A browser sends a cookie to every port of a host. With one name, two dashboards on a host
    # would log each other out.
    return f"hpsearch_{environment.get('SERVER_PORT', '')}"


def _host_name(netloc: str) -> str:
    """Return the host in ``host:port``; empty if there is none."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _is_cross_site(environment: Environment) -> bool:
    """Return whether the request comes from a page of another origin, by the browser's headers.

    Every browser sends one of the two headers with a request that changes something; the first one
    only to this machine or over TLS. A program such as curl sends neither.
    """
    relation = environment.get("HTTP_SEC_FETCH_SITE")
    if relation is not None:
        return relation not in ("same-origin", "none")
    origin = environment.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2] != environment.get("HTTP_HOST", "")


def _empty() -> list[tuple[str, str]]:
    return [("Content-Length", "0"), ("Cache-Control", "no-store")]


def refuse(
    environment: Environment,
    respond: Respond,
    status: str,
    reason: str,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    """Answer with the reason: as a page, or as JSON for the requests of Optuna's dashboard."""
    if environment.get("PATH_INFO", "").startswith("/api/"):
        kind, text = "application/json", json.dumps({"reason": reason})
    else:
        kind = "text/html; charset=utf-8"
        text = (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>hpsearch</title>'
            f'</head><body style="font-family: sans-serif; margin: 2rem"><h1>{html.escape(status)}'
            f'</h1><p>{html.escape(reason)}</p><p><a href="/">try again</a></p></body></html>'
        )
    data = text.encode()
    respond(
        status,
        [
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [] if environment["REQUEST_METHOD"] == "HEAD" else [data]
