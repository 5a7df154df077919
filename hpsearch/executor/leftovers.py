"""Processes and files that a cluster of Ray's on this machine may leave behind.

Run as a script it is the watcher of a launch, see :func:`watched`. So it imports nothing of ours.
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
    """Starts a process that removes ``folder``, and ends what writes into it, if this one dies.

    SIGKILL may end this process; or Ray does, where a signal to the whole group has ended Ray's
    raylet first.
    """
    with subprocess.Popen(
        [sys.executable, "-I", __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},  # which may hold a password
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
    """Removes ``folder``, and ends what goes on writing into it.

    A process that Ray was about to start when Ray was ended comes up late and begins its logs all
    the same. So the folder has to stay away for a moment.
    """
    deadline = time.monotonic() + _REMOVING_SECONDS
    looks = 0
    while looks < _LOOKS and time.monotonic() < deadline:
        kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
        looks = 0 if folder.exists() or processes_of(folder) else looks + 1
        time.sleep(0.1)


def processes_of(folder: Path) -> list[int]:
    """Every process of the cluster in ``folder`` that has not ended, whoever its parent is by now.

    Known by the logs there that it writes or, before it does, by its arguments or its folder for
    temporary files; some overwrite these with a title. Who only reads there, a backup or a person
    with ``tail -f``, is none of Ray's, and nor is another user's process.
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
    """Whether Ray has started it with a folder of the cluster in its arguments or environment."""
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
    """Whether a descriptor is open for writing, by what the kernel says of it."""
    flags = re.search(r"^flags:\s*([0-7]+)", descriptor.read_text(), re.M)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


def kill_all(folder: Path) -> None:
    """Kills every process of the cluster in ``folder``."""
    for process in processes_of(folder):
        with suppress(OSError):  # it has ended, or may not be killed
            os.kill(process, signal.SIGKILL)


def kill_remaining(folder: Path) -> None:
    """Kills what a cluster that was shut down leaves behind.

    An agent whose raylet was killed looks for the head of the cluster for another minute.
    """
    deadline = time.monotonic() + _LEAVING_SECONDS
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_all(folder)


_LEAVING_SECONDS = 3.0

_REMOVING_SECONDS = 20.0

_LOOKS = 5
"""A tenth of a second apart, at which nothing may be there any more."""


if __name__ == "__main__":
    # Nothing, where the launch was ended before it had removed the folder itself.
    if sys.stdin.buffer.read() != _DONE:
        remove(Path(sys.argv[1]))
