"""Names a process so that another on the same machine can tell whether it still runs."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def mine() -> str:
    """The name of this process: the boot, the table of processes and the instant it started.

    The system gives a process's number to another one later. Empty where the system does not tell.
    """
    table, started = _table(), _started(os.getpid())
    return "" if table is None or started is None else f"{table} {started}"


def is_gone(process: int, incarnation: str) -> bool:
    """Whether a process is known to have ended.

    Args:
        process: its number.
        incarnation: what :func:`mine` gave there; a process of another machine or container, or of
            an earlier boot, is never known to have ended.
    """
    table, _, started = incarnation.rpartition(" ")
    if table == "" or table != _table():
        return False
    found = _started(process)
    # What cannot be read is another user's where the system hides those.
    return started != found if found is not None else not _exists(process)


def is_here(process: int, incarnation: str) -> bool:
    """Whether a process is known to live, on this machine; arguments as of :func:`is_gone`."""
    table, _, started = incarnation.rpartition(" ")
    return table != "" and table == _table() and started == _started(process)


def _table() -> str | None:
    """The machine since its boot, and the table of processes in which we have our number."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(process: int) -> str | None:
    """Ticks from the boot to the process's start; ``None`` where it cannot be read."""
    try:
        state, *fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended; only its parent has not asked for its exit status yet.
    return "" if state in ("Z", "X") else fields[18]


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
