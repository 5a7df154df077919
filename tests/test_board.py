"""A launch on a real pseudo-terminal, as the person before it sees it."""

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
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from test_cli import HPSEARCH, LAUNCH, environment

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


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(columns: int, *command: str, **variables: str) -> Terminal:
        opened.append(Terminal(tmp_path, columns, *command, **variables))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


LONGER = [*LAUNCH, "--epochs", "4", "--trials", "3"]


@pytest.mark.parametrize("columns", [80, 200])
def test_a_launch_draws_its_trials_and_leaves_only_lines(
    terminal: Callable[..., Terminal], columns: int
) -> None:
    # On the wide one without colours.
    variables = {"NO_COLOR": "1"} if columns == 200 else {}
    seen = terminal(columns, HPSEARCH, *LONGER, **variables)
    assert seen.until(lambda: seen.shows("trial", "epoch", "loss", "s/epoch", "weights"))
    assert seen.until(lambda: seen.shows("/4 ", "%"))
    [row] = [line for line in seen.screen.display if "/4 " in line][:1]
    assert "cpu" in row
    assert seen.until(lambda: seen.shows("of 3 done", "running", "best", "left"))
    assert seen.until(lambda: False) is False
    assert seen.process.wait(30) == 0
    said = seen.lines()
    # The table is gone, the ends of the trials stay.
    assert not any("s/epoch" in line for line in said)
    assert sum("complete after 4 epochs" in line for line in said) == 3
    assert not any("epoch 1, validation loss" in line for line in said)
    assert any(line.startswith("next: hpsearch export-best") for line in said)
    # The cursor is back.
    assert seen.raw.rfind(b"\x1b[?25h") > seen.raw.rfind(b"\x1b[?25l") >= 0
    colours = [b"\x1b[%d" % number for number in (*range(31, 38), *range(91, 98))]
    assert columns == 80 or not any(colour in seen.raw for colour in colours)


def test_ctrl_c_leaves_the_command_that_goes_on(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(80, HPSEARCH, *LONGER)
    assert seen.until(lambda: seen.shows("/4 ", "%"))
    seen.type(b"\x03")
    assert seen.until(lambda: False, 60) is False
    assert seen.process.wait(30) == 130
    said = " ".join(seen.lines())
    assert "interrupted; go on where it stopped with: hpsearch launch quick.yaml" in said
    assert "Traceback" not in said
    assert seen.raw.rfind(b"\x1b[?25h") > seen.raw.rfind(b"\x1b[?25l") >= 0


def test_a_dumb_terminal_gets_lines(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(80, HPSEARCH, *LAUNCH, "--trials", "1", TERM="dumb")
    assert seen.until(lambda: False) is False
    # A last "back to plain", which Ray sends, aside.
    assert b"\x1b[" not in seen.raw.removesuffix(b"\x1b[0m")
    assert b"epoch 1, validation loss" in seen.raw
