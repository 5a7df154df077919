"""Processes as /proc shows them: which belong to a launch, which of them train, which are left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


class Waited(AssertionError):
    """Something that should have happened did not, in time."""


def wait_until(
    look: Callable[[], Result], what: str, seconds: float = 60.0, pause: float = 0.01
) -> Result:
    """The first true answer of ``look``.

    Raises:
        Waited: there was none within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise Waited(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(pause)
    return answer


def living() -> list[int]:
    """Every process that has not ended; a zombie has."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            if _fields(int(folder.name))[0] != "Z":
                found.append(int(folder.name))
    return found


def marked(mark: str) -> list[int]:
    """Living processes whose environment or command holds ``mark``, whoever their parent is now."""
    found = []
    for process in living():
        with suppress(OSError):
            folder = Path(f"/proc/{process}")
            # A process that renames itself may overwrite its command.
            texts = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            if process != os.getpid() and any(mark.encode() in text for text in texts):
                found.append(process)
    return found


def title(process: int) -> str:
    """The command of ``process``, or what it calls itself; empty if it is gone."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        return text.replace("\0", " ").strip()
    return ""


def parent(process: int) -> int:
    """The parent of ``process``."""
    return int(_fields(process)[1])


def below(process: int) -> list[int]:
    """Every living process under ``process``, itself left out."""
    parents = {}
    for child in living():
        with suppress(OSError):
            parents[child] = parent(child)
    found = {process}
    while more := {child for child, above in parents.items() if above in found} - found:
        found |= more
    return sorted(found - {process})


def kill(process: int) -> None:
    """SIGKILL; nothing if it has just ended."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _fields(process: int) -> list[str]:
    """State, parent and what follows in /proc/PROCESS/stat."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
