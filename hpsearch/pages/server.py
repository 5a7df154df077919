"""The HTTP server of the dashboard, and the lines that say where to open it."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from getpass import getuser
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import final

from hpsearch.pages.access import MAY_CHANGE, Application, Guard, check_host, is_loopback
from hpsearch.pages.application import application
from hpsearch.pages.connections import BoundedServer, bounded_server
from hpsearch.pages.documents import PREFIX
from hpsearch.store import StoreReader
from hpsearch.system.credentials import TOKEN_VARIABLE
from hpsearch.system.errors import InputError


@final
@dataclass(frozen=True)
class Limits:
    """Limits on what clients may use.

    Attributes:
        threads: requests answered at the same time; a slow figure must not delay the others.
        connections: open connections; a further client closes those that wait longest.
        idle_seconds: time after which an idle connection or an incomplete request is closed.
        body_bytes: size of a request; Optuna's dashboard sends at most a tenth of it.
    """

    threads: int = 64
    connections: int = 512
    idle_seconds: int = 20
    body_bytes: int = 2**20

    @classmethod
    def of_this_process(cls) -> Limits:
        """Return the limits for the number of files that this process may open.

        A connection needs up to two files: its socket, and an answer that waits for a slow client.
        The store and the pages need some more.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return cls()
        return cls(connections=min(cls.connections, max(files // 2 - 64, 32)))


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
        store: the store to show.
        host: address to listen on; an address that other machines can reach needs a ``token``.
        port: port to listen on.
        say: prints where the pages are and what their visitors may do.
        token: the token that every request needs.
        read_only: whether requests that change something are refused.
        own_pages: a folder of the user's pages, in addition to the shipped ones.

    Raises:
        InputError: the address needs a token, or the port is not available.
    """
    check_host(host, port, token)
    guarded = Guard(application(store, own_pages), token, read_only=read_only)
    with listening(host, port) as listener:
        chosen = listener.getsockname()[1]
        for line in _first_lines(store, host, chosen, token, read_only=read_only):
            say(line)
        made_server(guarded, listener, Limits.of_this_process()).run()


def made_server(application: Application, listener: socket.socket, limits: Limits) -> BoundedServer:
    """Return a server that slow, silent or many clients cannot block.

    Args:
        application: the application to serve.
        listener: a bound socket.
        limits: of threads, connections and time.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # An answer that a client does not read must not wait in the kernel either.
        milliseconds = 1000 * limits.idle_seconds
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return bounded_server(
        application,
        listener,
        threads=limits.threads,
        connection_limit=limits.connections,
        channel_timeout=limits.idle_seconds,
        cleanup_interval=max(limits.idle_seconds // 4, 1),
        max_request_body_size=limits.body_bytes,
        inbuf_overflow=limits.body_bytes,
        # select() fails with more than 1,024 files.
        asyncore_use_poll=True,
        ident=None,
    )


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address.

    Raises:
        InputError: the address is not available.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason += ", perhaps by another dashboard"
        raise InputError(
            f"the dashboard cannot listen on {host}:{port}: {reason}; choose another port with "
            "--port"
        ) from None
    return listener


def _first_lines(
    store: StoreReader, host: str, port: int, token: str | None, *, read_only: bool
) -> Iterator[str]:
    """Yield where the pages are and what their visitors may do."""
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    yield f"store {store.label}"
    yield f"Optuna dashboard {address}/dashboard"
    yield f"more pages       {address}{PREFIX}"
    if token is not None:
        yield f"log in once at   {address}/?token=TOKEN (the text of {TOKEN_VARIABLE})"
    who = "this machine" if is_loopback(host) else "the network"
    who = f"everyone on {who}" if token is None else "everyone who knows the token"
    may = "read everything" if read_only else f"{MAY_CHANGE} (--read-only prevents this)"
    yield f"{who} can {may}"
    if is_loopback(host):
        yield from _tunnel(host, port)
    else:
        yield "the connection is not encrypted; use a proxy with TLS, or ssh -L"
    yield "stop it with Ctrl-C"


_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""Private networks, whose addresses are only valid inside them (RFC 1918)."""


def _tunnel(host: str, port: int) -> Iterator[str]:
    """Yield the command to type at home to reach a dashboard that was started over SSH.

    There is no line without SSH. The address in ``SSH_CONNECTION`` may be another machine, because
    a batch system passes the environment of the login node on to a shell on a compute node.
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
        yield f"                   (instead of {reached}, type the name that you log in to)"


def _is_this_machine(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            tried.bind((address, 0))
    except OSError:
        return False
    return True
