"""Named points in the code where the fault suite can stop a process, to kill it or others.

Without ``HPSEARCH_FAILPOINTS`` in the environment a failpoint costs one comparison. With it, the
value is a folder shared with the suite:

1. The suite arms a point by making the file ``arm NAME`` there.
2. The first process that reaches the point renames the file to ``hit NAME PID`` and waits.
3. The suite kills what it wants to kill, then removes the file, and the process continues.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "HPSEARCH_FAILPOINTS"

NAMES = (
    "enqueuing",
    "asked",
    "mid-epoch",
    "checkpoint-renamed",
    "before-tell",
    "inside-commit",
    "reconciling",
    "exit",
    "paused",
    "promoting",
    "promoted",
    "pruning",
    "pruned",
)
"""In this order:

- before the known configurations are enqueued;
- after Optuna was asked for a new trial;
- between two steps of training;
- after a checkpoint was renamed to its final name;
- before a verdict is given to Optuna;
- within a transaction that writes, before its commit;
- while a launch cleans up after an earlier one;
- after the last verdict, before the process ends;
- after the decision on a pause, before Optuna's row says so;
- before the decision on a promotion, and after it, before the trial is assigned;
- before the decision to stop a trial, and after it, before Optuna's row has the verdict.
"""

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
