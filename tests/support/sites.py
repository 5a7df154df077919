"""A dashboard over real HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from waitress import wasyncore

from hpsearch.pages.access import Application, Guard
from hpsearch.pages.application import application
from hpsearch.pages.server import Limits, listening, made_server
from hpsearch.store import StoreReader

TOKEN = "0123456789abcdef-+&"
QUOTED = "0123456789abcdef-%2B%26"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


@dataclass(frozen=True)
class Site:
    """A dashboard that is up."""

    port: int

    def ask(
        self, path: str, method: str = "GET", body: Any = None, **headers: str | None
    ) -> Answer:
        """One request; ``Host`` is what a browser sends unless it is given, or None."""
        given = {"host": f"127.0.0.1:{self.port}", "content_type": "application/json", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        data = json.dumps(body or {}).encode()
        for name, value in {"accept_encoding": "gzip", **given}.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        connection.close()
        return Answer(answer.status, answer.headers, text)

    def log_in(self) -> str:
        """The cookie that a browser keeps."""
        answer = self.ask(f"/?token={QUOTED}")
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        return str(answer.headers["Set-Cookie"])


@contextlib.contextmanager
def served(
    store: StoreReader, token: str | None = None, *, read_only: bool = False
) -> Iterator[Site]:
    """A dashboard that is up for as long as the context is open."""
    guard = Guard(application(store), token, read_only=read_only)
    with up(guard, Limits(threads=4)) as port:
        yield Site(port)


@contextlib.contextmanager
def up(application: Application, limits: Limits) -> Iterator[int]:
    """A server on a port of this machine."""
    with listening("127.0.0.1", 0) as listener:
        server = made_server(application, listener, limits)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            # The loop ends when it has no socket left, and only its own thread may close them.
            with contextlib.suppress(OSError):  # it had just been woken, and has closed them
                server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
            thread.join()
            server.task_dispatcher.shutdown()
