"""Failed trials: the reasons stored in their rows, and the limits that end a launch."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, final

from hpsearch.runs.messages import Failure

SAME_FAILURES = 3
"""A launch ends when this many runs in a row fail with the same error and none has completed."""

LEAST_FAILURE_LIMIT = 10
"""A launch ends after this many failures other than divergence, or one per wanted trial if more."""

FAILURES_PER_TRIAL = 25
"""A launch ends after this many failures per wanted trial, divergences included."""

LEAST_TOTAL_LIMIT = 200
"""The limit by :data:`FAILURES_PER_TRIAL` is at least this many failures.

Nine in ten samples of Table 3 as printed diverge. With both limits, less than one in three thousand
launches ends although it would have succeeded. Without this one, 3 % of the launches that want two
trials would.
"""


LONGEST_TRACEBACK = 8_000
"""Number of characters of a traceback that are stored, from its end."""


@dataclass(frozen=True)
class Breakdown:
    """The reason why a launch ends early.

    Attributes:
        reason: one line.
        traceback: the first traceback of a failure, if any.
    """

    reason: str
    traceback: str

    def __str__(self) -> str:
        return self.reason


@final
class Failures:
    """Counts the failures of one launch.

    A divergence is not an error: the search learns from it. It counts only towards the limit by
    :data:`FAILURES_PER_TRIAL`.
    """

    def __init__(self, wanted: int) -> None:
        """Start counting for a launch that wants ``wanted`` complete trials."""
        self._wanted = wanted
        self._kinds: Counter[str] = Counter()
        self._shapes: list[str] = []
        self._completed = False
        self._traceback = ""

    def note_completion(self) -> None:
        """Record that a run has completed, so that the search can succeed."""
        self._completed = True

    def note(self, failure: Failure) -> Breakdown | None:
        """Count a failure; return the reason to end the launch, or ``None`` to continue."""
        self._kinds[failure.kind] += 1
        if failure.kind != "diverged":
            self._traceback = self._traceback or failure.traceback
            self._shapes.append(f"{failure.kind}: {shape(failure.message)}")
        why = self._too_many()
        if why is None:
            return None
        return Breakdown(f"{why}; the last error: {failure.message}", self._traceback)

    def _too_many(self) -> str | None:
        diverged, total = self._kinds["diverged"], self._kinds.total()
        last = self._shapes[-SAME_FAILURES:]
        if len(last) == SAME_FAILURES and len(set(last)) == 1 and not self._completed:
            return f"{SAME_FAILURES} runs in a row failed with the same error, and none is complete"
        if total - diverged >= max(self._wanted, LEAST_FAILURE_LIMIT):
            return f"{total - diverged} runs failed, not counting {diverged} that diverged"
        if total >= max(FAILURES_PER_TRIAL * self._wanted, LEAST_TOTAL_LIMIT):
            return f"{total} runs failed, {diverged} of them diverged"
        return None


def shape(message: str) -> str:
    """Return ``message`` without its numbers, so that failures of one cause have the same text.

    Addresses, sizes and process ids differ between runs.
    """
    return re.sub(r"\d+", "#", message)


def failure_attributes(failure: Failure) -> dict[str, Any]:
    """Return the attributes for the row of a failed trial.

    ``failure`` comes last: a row with this attribute has the others too.
    """
    attributes = {
        "failure_reason": failure.message,
        "failure_traceback": failure.traceback[-LONGEST_TRACEBACK:],
        "failure_epoch": failure.epoch,
        "failure_step": failure.step,
        "failure": failure.kind,
    }
    return {key: value for key, value in attributes.items() if value not in ("", None)}


def refusal_attributes(reason: str) -> dict[str, Any]:
    """Return the attributes for the row of a trial that exceeds the budget and is not trained."""
    return {"failure_reason": reason, "failure": "refused"}


def drop_attributes(reason: str) -> dict[str, Any]:
    """Return the attributes for the row of an abandoned trial that is not resumed."""
    return {"failure_reason": reason, "failure": "given_up"}
