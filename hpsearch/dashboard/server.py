"""Serves the dashboard over HTTP and says where it is."""

from __future__ import annotations

import errno
import os
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from getpass import getuser
from ipaddress import ip_address, ip_network
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hpsearch.dashboard.access import MAY_CHANGE, Guard, check_host, is_loopback
from hpsearch.dashboard.application import application
from hpsearch.dashboard.documents import PREFIX
from hpsearch.errors import InputError
from hpsearch.store import StoreReader
from hpsearch.system.credentials import TOKEN_VARIABLE

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


def serve(
    store: StoreReader,
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
