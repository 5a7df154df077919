"""How a run is tried again that is short of memory, or whose worker dies or hangs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.runs.messages import Failure, Report

LOST_WORKERS = 2
"""How often a run goes on after its worker process died."""

HANGS = 1
"""How often a run goes on after its worker was killed for its silence."""

SMALLER = 4
"""Parts of a batch at the first cut for want of memory; the second leaves single molecules."""


@dataclass(frozen=True)
class Attempt:
    """How a run is tried.

    Attributes:
        number: from 1.
        alone: whether it has a machine's cores, or its GPU, for itself.
        pieces: micro-batches of a batch; the step is the same up to rounding.
    """

    number: int = 1
    alone: bool = False
    pieces: int = 1

    def __str__(self) -> str:
        parts = ["from its last checkpoint"]
        if self.alone:
            parts.append("alone on its device")
        if self.pieces > 1:
            parts.append(f"in {self.pieces} micro-batches a step")
        return ", ".join(parts)


@dataclass(frozen=True)
class Retried:
    """The run failed and is tried again, from its last checkpoint."""

    key: str
    failure: Failure
    attempt: Attempt


Event = Report | Retried
"""What the caller of :func:`hpsearch.executor.run` is told, after the ``Work``."""


def next_attempt(
    failures: Sequence[Failure], batch_size: int, *, was_alone: bool
) -> Attempt | None:
    """How the run is tried again after ``failures``; ``None`` if it is not.

    Short of memory it is tried alone, then with the batch in four, then molecule by molecule. It
    goes on from its last checkpoint each time, so that little is trained twice.

    Args:
        failures: of this run, the last one at the end.
        batch_size: molecules a step.
        was_alone: whether no attempt had a neighbour; to run it alone would not help then.
    """
    counts = Counter(failure.kind for failure in failures)
    ladder = [Attempt(alone=True)] * (not was_alone)
    ladder += [
        Attempt(alone=True, pieces=pieces)
        for pieces in sorted({min(SMALLER, batch_size), batch_size})
        if pieces > 1
    ]
    short = counts["out_of_memory"]
    again = {
        "worker_lost": counts["worker_lost"] <= LOST_WORKERS,
        "hung": counts["hung"] <= HANGS,
        "out_of_memory": short <= len(ladder),
    }
    if not again.get(failures[-1].kind, False):
        return None
    step = ladder[min(short, len(ladder)) - 1] if short else Attempt()
    return Attempt(len(failures) + 1, step.alone, step.pieces)


def verdict(failures: Sequence[Failure]) -> Failure:
    """What the run ends with, when it is not tried again."""
    last = failures[-1]
    if last.kind != "out_of_memory" or len(failures) == 1:
        return last
    return Failure(
        "infeasible",
        "needs more memory than there is, alone and with one molecule a micro-batch: "
        f"{last.message}",
        last.traceback,
        last.epoch,
        last.step,
    )
