"""A unique name for a process, by which others on the machine can tell whether it still runs."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def mine() -> str:
    """The name of this process: the boot, the process table and the time of its start.

    A process number alone does not suffice, because the system reuses it. The name is empty if the
    system does not report these.
    """
    table, started = _table(), _started(os.getpid())
    return "" if table is None or started is None else f"{table} {started}"


def is_gone(process: int, incarnation: str) -> bool:
    """Whether a process is known to have ended.

    Args:
        process: its number.
        incarnation: the result of :func:`mine` in that process. A process of another machine,
            container or boot is never known to have ended.
    """
    table, _, started = incarnation.rpartition(" ")
    if table == "" or table != _table():
        return False
    current = _started(process)
    # Some systems hide the start of other users' processes.
    return started != current if current is not None else not _exists(process)


def is_here(process: int, incarnation: str) -> bool:
    """Whether a process is known to run on this machine; arguments as in :func:`is_gone`."""
    table, _, started = incarnation.rpartition(" ")
    return table != "" and table == _table() and started == _started(process)


def _table() -> str | None:
    """The boot and the process table (PID namespace) in which this process has its number."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(process: int) -> str | None:
    """Clock ticks from the boot to the start of the process; ``None`` if it cannot be read."""
    try:
        state, *fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended; its parent has only not read the exit status yet.
    return "" if state in ("Z", "X") else fields[18]


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
