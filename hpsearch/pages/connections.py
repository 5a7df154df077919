"""Connections of slow, silent or too many clients, which waitress alone would keep."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from typing import Any, final

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from hpsearch.pages.access import Application


@final
class _Request(HTTPRequestParser):  # type: ignore[misc]
    """A request, also with a Content-Length of more digits than Python makes a number of."""

    def parse_header(self, header_plus: bytes) -> None:
        """Take the first line and the headers."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("Content-Length is invalid") from error


@final
class Connection(HTTPChannel):  # type: ignore[misc]
    """A connection with a time limit for each request.

    waitress renews its time limit with each received byte, so that a client could send one byte now
    and then for ever.

    Attributes:
        waiting_since: time when the client connected, when its last answer was ready, or when it
            began a request that is not complete. Seconds since 1970.
    """

    parser_class = _Request

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.waiting_since = time.time()
        self._has_begun = False
        super().__init__(*arguments, **options)

    def received(self, data: bytes) -> bool:
        """Take a part of a request."""
        if not self._has_begun:
            # At most once per complete request: empty lines must not renew the limit.
            self._has_begun = True
            self.waiting_since = time.time()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer a complete request."""
        super().service()
        self._has_begun = False
        self.waiting_since = time.time()

    @property
    def is_answered(self) -> bool:
        """Whether no complete request waits for its answer."""
        return not self.requests

    def is_late(self, now: float, seconds: float) -> bool:
        """Return whether the client has not sent a request, or not read its answer, in time."""
        since = self.last_activity if self.total_outbufs_len else self.waiting_since
        return self.is_answered and bool(now - since > seconds)

    def end(self) -> None:
        """Close the connection, even if its client does not read."""
        self.will_close = True
        # The server waits until it can write before it closes. Now it can at once.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


@final
class BoundedServer(TcpWSGIServer):  # type: ignore[misc]
    """A server that closes the connection that waits longest when a further client comes.

    waitress accepts no connection any more when the limit is reached. Then 512 silent clients would
    lock out everyone.
    """

    channel_class = Connection

    def readable(self) -> bool:
        """Return whether to accept connections; at the limit, make room first."""
        # waitress counts its two own sockets as well.
        if len(self._map) >= self.adj.connection_limit:
            self._make_room()
        return bool(super().readable())

    def maintenance(self, now: float) -> None:
        """Close the connections of late clients."""
        for connection in self.active_channels.values():
            if connection.is_late(now, self.adj.channel_timeout):
                connection.end()

    def _make_room(self) -> None:
        """Close an eighth of the connections: those whose clients have waited longest."""
        waiting = [each for each in self.active_channels.values() if each.is_answered]
        if any(each.will_close for each in waiting):
            return
        waiting.sort(key=lambda each: each.waiting_since)
        for connection in waiting[: max(self.adj.connection_limit // 8, 1)]:
            connection.end()


def bounded_server(
    application: Application, listener: socket.socket, **adjustments: Any
) -> BoundedServer:
    """Return a waitress server with bounded connections.

    Args:
        application: the application to serve.
        listener: a bound TCP socket.
        adjustments: waitress's settings.
    """
    # Otherwise waitress warns whenever all threads are busy, and when Ctrl-C ends a request.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    settings = Adjustments(sockets=[listener], **adjustments)
    tasks = ThreadedTaskDispatcher()
    tasks.set_thread_count(settings.threads)
    # As waitress's create_server does, which cannot be given a class.
    return BoundedServer(
        application,
        {},
        _sock=listener,
        dispatcher=tasks,
        adj=settings,
        bind_socket=False,
        sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
    )
