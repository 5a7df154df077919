"""A program on a pseudo-terminal, and the screen that a person sees."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

from support.commands import environment

ROWS = 24


class Terminal:
    """A program on a pseudo-terminal, and the screen that it draws."""

    def __init__(self, folder: Path, columns: int, *command: str, **variables: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        settings = {**environment(), "TERM": "xterm-256color", **variables}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            if name not in variables:
                settings.pop(name, None)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=settings,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._ours = ours
        self.raw = b""
        self.screen = pyte.HistoryScreen(columns, ROWS, history=10_000)
        self._stream = pyte.ByteStream(self.screen)

    def read(self, seconds: float) -> bool:
        """What has come meanwhile; whether more may come."""
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if not ready:
            return True
        try:
            text = os.read(self._ours, 65_536)
        except OSError:  # the other side has been closed
            return False
        self.raw += text
        self._stream.feed(text)
        return bool(text)

    def until(self, seen: Callable[[], bool], seconds: float = 90.0) -> bool:
        """Read until ``seen``, or the program's end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if seen():
                return True
            if not self.read(0.2):
                return seen()
        return False

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def lines(self) -> list[str]:
        """The screen and what has left it at the top."""
        width = self.screen.columns
        above = ["".join(row[n].data for n in range(width)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    def shows(self, *words: str) -> bool:
        """Whether one line of the screen has all the words."""
        return any(all(word in line for word in words) for line in self.screen.display)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)
