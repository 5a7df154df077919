"""The failure of a run whose worker could not report it, from Tune's error."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayTaskError

from hpsearch.runs.messages import Failure

FIX_AND_RELAUNCH = "; fix this, then run the same command again to continue"
"""Ends the message of a failure that the machine caused."""


def tune_error(trial: Any) -> tuple[str, bool]:
    """Return the text of the error that ended ``trial``, and whether the worker raised it.

    Tune writes the error into the trial's folder before it calls callbacks.
    """
    text, raised = "", False
    with suppress(OSError):
        text = Path(trial.error_file).read_text()
        # Without the heading: the number of the failure and the time.
        text = text.partition("\n")[2].strip()
    with suppress(Exception), Path(trial.pickled_error_file).open("rb") as file:
        raised = isinstance(cloudpickle.load(file), RayTaskError)
    return text, raised


def failure_from_tune(text: str, raised: bool) -> Failure:
    """Return the failure that Tune's error means.

    Args:
        text: the error's text, from :func:`tune_error`.
        raised: whether the worker raised it.
    """
    if raised:
        said = last_line(text)
        if said.startswith(("ImportError", "ModuleNotFoundError", "OSError")):
            return Failure("machine", said + FIX_AND_RELAUNCH, text)
        return Failure("exception", said, text)
    # Only a part of Ray's text: it lists the machine's processes with their arguments, which may
    # contain a store's URL.
    if "running low on memory" in text:
        used = re.search(r"\S+ used / \S+ limit", text)
        return Failure(
            "out_of_memory",
            "Ray killed the worker because its machine ran low on memory"
            + (f" ({used.group()})" if used else ""),
        )
    detail = text.partition("Worker exit detail:")[2] or text
    # Without Ray's list of possible causes, which is the same for every death.
    detail = " ".join(detail.partition("Some common causes include")[0].split())
    return Failure("worker_lost", f"the worker process died: {detail or 'Ray gives no reason'}")


def one_line(error: BaseException) -> str:
    """Return the first line of the error's message, or its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def last_line(text: str) -> str:
    """Return the last line of a traceback: the error."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "Ray gives no reason"
