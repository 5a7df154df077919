"""A process that a benchmark asks for figures, line by line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any


class Child:
    """A process that answers each line of its standard input with a line of JSON."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environment),
            cwd=folder,
        )

    def send(self, word: str) -> None:
        """Send a line; it does not wait for the answer."""
        _pipe(self._process.stdin).write(f"{word}\n")
        _pipe(self._process.stdin).flush()

    def answer(self) -> Any:
        """Return the next answer."""
        return json.loads(_pipe(self._process.stdout).readline())

    def end(self) -> None:
        """Close it."""
        _pipe(self._process.stdin).close()
        self._process.wait()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
