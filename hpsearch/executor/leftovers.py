"""Processes and files that a Ray cluster may leave on this machine.

Run as a script, this file is the watcher of a launch (:func:`watched`). So it imports no other
module of this package.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Start a watcher that cleans up if this process dies.

    The watcher removes ``folder`` and kills the processes that write into it. This process may die
    by SIGKILL, or be ended by Ray if a signal to the process group has ended Ray's raylet first.
    """
    with subprocess.Popen(
        [sys.executable, "-I", __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},  # the environment may contain a password
        start_new_session=True,
    ) as watcher:
        assert watcher.stdin is not None
        try:
            yield
        finally:
            with suppress(OSError):
                watcher.stdin.write(_DONE)
                watcher.stdin.close()


_DONE = b"done"


def remove(folder: Path) -> None:
    """Remove ``folder`` and kill the processes that still write into it.

    A process that Ray was just starting may appear late and create the folder again. So this
    function returns only after the folder has been absent for a moment.
    """
    deadline = time.monotonic() + _REMOVING_SECONDS
    looks = 0
    while looks < _LOOKS and time.monotonic() < deadline:
        kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
        looks = 0 if folder.exists() or processes_of(folder) else looks + 1
        time.sleep(0.1)


def processes_of(folder: Path) -> list[int]:
    """Return the live processes of the cluster in ``folder``, whatever their parent is now.

    A process belongs to the cluster if it writes files in ``folder``, or has ``folder`` in its
    arguments or as its ``TMPDIR``. Processes that only read there (a backup, ``tail -f``) and
    processes of other users do not belong to it.
    """
    inside = f"{folder}/"
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid() or not _is_ours(entry):
            continue
        writes_there = (file.startswith(inside) for file in _written_files(entry))
        if _was_started_there(entry, inside) or any(writes_there):
            found.append(int(entry.name))
    return found


def _is_ours(process: Path) -> bool:
    with suppress(OSError):  # it has ended
        return process.stat().st_uid == os.geteuid()
    return False


def _was_started_there(process: Path, inside: str) -> bool:
    """Whether Ray started the process with the folder in its arguments or environment."""
    with suppress(OSError):
        arguments = (process / "cmdline").read_bytes()
        if b"/ray/" in arguments and os.fsencode(f"={inside}") in arguments:
            return True
        environment = (process / "environ").read_bytes().split(b"\0")
        return os.fsencode(f"TMPDIR={inside}".rstrip("/")) in environment
    return False


def _written_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # it has ended
        for file in (process / "fd").iterdir():
            with suppress(OSError):  # it has been closed
                if _is_written(process / "fdinfo" / file.name):
                    yield str(file.readlink())


def _is_written(descriptor: Path) -> bool:
    """Whether a file descriptor is open for writing, according to ``/proc``."""
    flags = re.search(r"^flags:\s*([0-7]+)", descriptor.read_text(), re.M)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


def kill_all(folder: Path) -> None:
    """Kill all processes of the cluster in ``folder``."""
    for process in processes_of(folder):
        with suppress(OSError):  # it has ended, or may not be killed
            os.kill(process, signal.SIGKILL)


def kill_remaining(folder: Path) -> None:
    """Kill the processes that are left after a cluster was shut down.

    An agent whose raylet was killed tries to reach the cluster's head for another minute.
    """
    deadline = time.monotonic() + _LEAVING_SECONDS
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_all(folder)


_LEAVING_SECONDS = 3.0

_REMOVING_SECONDS = 20.0

_LOOKS = 5
"""How often in a row, a tenth of a second apart, the folder must be absent."""


if __name__ == "__main__":
    # The launch sends _DONE after it has removed the folder itself.
    if sys.stdin.buffer.read() != _DONE:
        remove(Path(sys.argv[1]))
