"""The commands as a person types them, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = Path(sys.executable).parent
HPSEARCH = str(PROGRAMS / "hpsearch")
SIZES = ["--train-size", "64", "--validation-size", "32", "--test-size", "32"]
# Each worker takes seconds to import torch and Ray, so most tests train in one.
ONE = ["--max-concurrent", "1"]
LAUNCH = ["launch", "quick.yaml", "--epochs", "2", *SIZES, "--targets", "mu,U0", *ONE]
ABLATE = ["ablate", "best.yaml", "--epochs", "1", *SIZES, "--targets", "mu", *ONE]
QUICK = (Path(__file__).parents[2] / "search_spaces" / "quick.yaml").read_text()
PLAIN_QUICK = (
    re.sub(r"\nrungs: .*\n", "\n", QUICK)
    .replace("\ntrials: 9\n", "\ntrials: 10\n")
    .replace("epochs: 12", "epochs: 7")
    .replace("early_stopping_patience: 12", "early_stopping_patience: 7")
)
"""The quick space without rungs: ten trials, all of seven epochs."""
SMALL_QUICK = re.sub(
    r"(embedding_size|components|functions|neurons): \{type: int, low: \d+, high: \d+\}",
    r"\1: {type: int, low: 8, high: 12}",
    QUICK,
).replace("blocks: {type: int, low: 1, high: 2}", "blocks: {type: int, low: 1, high: 1}")
"""The quick space with small networks, of which a model is made in a third of the time."""


def environment(**variables: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name != "HPSEARCH_STORAGE"}
    return {**kept, **variables}


def run(
    folder: Path, *command: str, timeout: float = 120, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def hpsearch(folder: Path, *arguments: str) -> str:
    """What the command prints; it must end well and say nothing on standard error."""
    done = run(folder, HPSEARCH, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "storage" / "hpsearch.db")) as database:
        return database.execute(query).fetchall()


class Process:
    """A command that runs while the test looks at it; what it leaves behind is ended."""

    def __init__(self, folder: Path, *command: str, temporary: Path | None = None) -> None:
        self._own = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment(), **({"TMPDIR": str(temporary)} if temporary else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._own.pid
        self.output = ""

    def read_until(self, words: str) -> None:
        assert self._own.stdout is not None
        while words not in self.output:
            line = self._own.stdout.readline()
            assert line, f"'{words}' never came: {self.output}"
            self.output += line

    def end(self, number: int) -> tuple[int, str]:
        """Sends the signal to the whole group, as a terminal does; exit code and errors."""
        os.killpg(self.pid, number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        output, errors = self._own.communicate(timeout=60)
        self.output += output
        return self._own.returncode, errors

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        if self._own.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._own.communicate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def get(port: int, path: str) -> str:
    """The page, as soon as somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def as_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, HPSEARCH, *arguments, timeout=60)


def refused(
    folder: Path,
    arguments: list[str],
    *words: str,
    typed: Callable[..., subprocess.CompletedProcess[str]] = as_process,
) -> str:
    """Holds that the command is refused in one line with ``words`` and has written nothing."""
    before = listing(folder)
    done = typed(folder, *arguments)
    after = listing(folder)

    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"hpsearch: [^\n]+\n", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "sesame" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert after == before
    return done.stderr
