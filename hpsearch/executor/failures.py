"""The failure of a run whose worker sent no report of it, from the error that Tune has."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayTaskError

from hpsearch.runs.messages import Failure

FIX_AND_RELAUNCH = "; the same command goes on once that is mended"
"""Ends the message of a failure that is the machine's."""


def tune_error(trial: Any) -> tuple[str, bool]:
    """The error with which Tune gave up ``trial``, and whether it was raised in the worker.

    Read from the trial's folder, where Tune has just put it and whence callbacks are to take it.
    """
    text, raised = "", False
    with suppress(OSError):
        text = Path(trial.error_file).read_text()
        # A heading with the number of the failure and the time.
        text = text.partition("\n")[2].strip()
    with suppress(Exception), Path(trial.pickled_error_file).open("rb") as file:
        raised = isinstance(cloudpickle.load(file), RayTaskError)
    return text, raised


def failure_from_tune(text: str, raised: bool) -> Failure:
    """The failure that an error of Tune's stands for.

    Args:
        text: the error, as :func:`tune_error` gave it.
        raised: whether it was raised in the worker.
    """
    if raised:
        said = last_line(text)
        if said.startswith(("ImportError", "ModuleNotFoundError", "OSError")):
            return Failure("machine", said + FIX_AND_RELAUNCH, text)
        return Failure("exception", said, text)
    # No more of Ray's text than needed: it lists the machine's processes with their arguments, and
    # among these may be a store's URL.
    if "running low on memory" in text:
        used = re.search(r"\S+ used / \S+ limit", text)
        return Failure(
            "out_of_memory",
            "Ray killed the worker because its machine ran low on memory"
            + (f" ({used.group()})" if used else ""),
        )
    detail = text.partition("Worker exit detail:")[2] or text
    # Ray goes on to list what may have happened, the same list for every death.
    detail = " ".join(detail.partition("Some common causes include")[0].split())
    return Failure("worker_lost", f"the worker process died: {detail or 'Ray gives no reason'}")


def one_line(error: BaseException) -> str:
    """The first line of what ``error`` says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def last_line(text: str) -> str:
    """Where a traceback says what was raised."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "Ray gives no reason"
