"""Why a trial failed, for its row; and how many failures end a launch."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, final

from hpsearch.runs.messages import Failure

SAME_FAILURES = 3
"""So many runs in a row that fail by the same error end the launch, until one has completed."""

LEAST_FAILURE_LIMIT = 10
"""So many failures other than divergence end the launch, or as many as trials wanted if more."""

FAILURES_PER_TRIAL = 25
"""So many failures for each trial wanted, divergences included, end the launch; see the next."""

LEAST_TOTAL_LIMIT = 200
"""Fewer failures never end the launch by that limit, however few trials are wanted.

Nine in ten draws from the printed Table 3 diverge. There both limits together end less than one in
three thousand of the launches that would have succeeded; 25 for each trial alone ended 3 % of those
that want two trials.
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

    A divergence is no fault but a draw that the search learns from. It does not count as a repeated
    error, nor against the limit of failures other than divergence.
    """

    def __init__(self, wanted: int) -> None:
        """Begin a launch that wants ``wanted`` complete trials."""
        self._wanted = wanted
        self._kinds: Counter[str] = Counter()
        self._shapes: list[str] = []
        self._completed = False
        self._traceback = ""

    def note_completion(self) -> None:
        """Count a completed run: the search can succeed."""
        self._completed = True

    def note(self, failure: Failure) -> Breakdown | None:
        """Count a failure; return the reason to stop once there are too many, else ``None``."""
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
    """``message`` without its numbers, so that one cause has one text.

    Addresses, sizes and process ids differ from run to run.
    """
    return re.sub(r"\d+", "#", message)


def failure_attributes(failure: Failure) -> dict[str, Any]:
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


def refusal_attributes(reason: str) -> dict[str, Any]:
    """Attributes of a trial that was drawn beyond the budget and never trained."""
    return {"failure_reason": reason, "failure": "refused"}


def drop_attributes(reason: str) -> dict[str, Any]:
    """Attributes of an abandoned trial that is not to go on."""
    return {"failure_reason": reason, "failure": "given_up"}
