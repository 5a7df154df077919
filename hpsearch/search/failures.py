"""Why a trial failed, as its row says it; and when failures mean that a search cannot succeed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, final

from hpsearch.runs.messages import Failure

SAME_FAILURES = 3
"""So many runs in a row failing by the same error, before any completes, end the launch."""

LEAST_FAILURE_LIMIT = 10
"""So many failures other than divergence are always replaced; and one for each trial wanted."""

FAILURES_PER_TRIAL = 25
"""So many failures per trial wanted, divergences included, end the launch; see the next."""

LEAST_TOTAL_LIMIT = 200
"""So many failures are allowed however few trials are wanted. Where nine in ten draws diverge, as
of the printed Table 3, both limits together end less than one launch in three thousand that would
have succeeded, whatever number it wants; 25 for each trial alone ended 3 % of those that want two.
"""


LONGEST_TRACEBACK = 8_000
"""Characters of a traceback that are kept, the last ones."""


@dataclass(frozen=True)
class Breakdown:
    """Why a launch stops before it has the trials that it wants.

    Attributes:
        reason: one line.
        traceback: of the first failure that had one.
    """

    reason: str
    traceback: str

    def __str__(self) -> str:
        return self.reason


@final
class Failures:
    """The failures of one launch.

    A divergence is a draw that the search learns from, not a fault: it neither counts as one of
    the same errors nor against the limit of the others.
    """

    def __init__(self, wanted: int) -> None:
        """Begin a launch that wants ``wanted`` complete trials."""
        self._wanted = wanted
        self._kinds: Counter[str] = Counter()
        self._shapes: list[str] = []
        self._completed = False
        self._traceback = ""

    def note_completion(self) -> None:
        """A run is complete: the search can succeed."""
        self._completed = True

    def note(self, failure: Failure) -> Breakdown | None:
        """Count a failure; says why if it is the one too many."""
        self._kinds[failure.kind] += 1
        if failure.kind != "diverged":
            self._traceback = self._traceback or failure.traceback
            self._shapes.append(f"{failure.kind}: {shape(failure.message)}")
        why = self._too_many()
        if why is None:
            return None
        return Breakdown(f"{why}; the last: {failure.message}", self._traceback)

    def _too_many(self) -> str | None:
        diverged, total = self._kinds["diverged"], self._kinds.total()
        last = self._shapes[-SAME_FAILURES:]
        if len(last) == SAME_FAILURES and len(set(last)) == 1 and not self._completed:
            return f"{SAME_FAILURES} runs in a row failed by the same error and none is complete"
        if total - diverged >= max(self._wanted, LEAST_FAILURE_LIMIT):
            return f"{total - diverged} runs failed beside {diverged} that diverged"
        if total >= max(FAILURES_PER_TRIAL * self._wanted, LEAST_TOTAL_LIMIT):
            return f"{total} runs failed, {diverged} of them diverged"
        return None


def shape(message: str) -> str:
    """``message`` without its numbers: addresses, sizes and process ids differ, the cause not."""
    return re.sub(r"\d+", "#", message)


def failed(failure: Failure) -> dict[str, Any]:
    """Attributes of a trial that failed, for its row.

    ``failure`` comes last: a row that has it has the others too.
    """
    attributes = {
        "failure_reason": failure.message,
        "failure_traceback": failure.traceback[-LONGEST_TRACEBACK:],
        "failure_epoch": failure.epoch,
        "failure_step": failure.step,
        "failure": failure.kind,
    }
    return {key: value for key, value in attributes.items() if value not in ("", None)}


def refused(reason: str) -> dict[str, Any]:
    """Attributes of a trial that was drawn beyond the budget and never trained."""
    return {"failure_reason": reason, "failure": "refused"}


def dropped(reason: str) -> dict[str, Any]:
    """Attributes of an abandoned trial that is not to go on."""
    return {"failure_reason": reason, "failure": "given_up"}
