"""Named instants at which a fault suite may stop a process of ours, to kill it or its neighbours.

Without ``HPSEARCH_FAILPOINTS`` in the environment a failpoint is one comparison. With it, the value
is a folder shared with the suite: the suite arms an instant by making the file ``arm NAME`` there;
the first process that reaches it renames the file to ``hit NAME PID`` and waits until the suite
removes that. What happens to whom meanwhile is the suite's business.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "HPSEARCH_FAILPOINTS"

NAMES = (
    "asked",
    "mid-epoch",
    "checkpoint-renamed",
    "before-tell",
    "inside-commit",
    "reconciling",
    "exit",
)
"""After a new row was asked; between two steps of training; after a checkpoint got its name; before
a verdict is told; within a transaction that writes, before its commit; while a launch looks at what
an earlier one left; after the last verdict, before the process ends."""

_LONGEST_SECONDS = 120.0

_folder = os.environ.get(VARIABLE)


def reach(name: str) -> None:
    """Stop here if the suite has armed ``name``."""
    if _folder is not None:
        _stop(Path(_folder), name)


def _stop(folder: Path, name: str) -> None:
    hit = folder / f"hit {name} {os.getpid()}"
    try:
        (folder / f"arm {name}").rename(hit)
    except FileNotFoundError:
        return
    deadline = time.monotonic() + _LONGEST_SECONDS
    while hit.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
