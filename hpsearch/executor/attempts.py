"""New attempts at a run that was out of memory, or whose worker died or hung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.runs.messages import Failure, Report

LOST_WORKERS = 2
"""How often a run is resumed after its worker process died."""

HANGS = 1
"""How often a run is resumed after its worker sent no report and was killed."""

SMALLER = 4
"""Number of micro-batches after the first split of a batch; the second leaves single molecules."""


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run.

    Attributes:
        number: counted from 1.
        alone: whether the run has all cores of a machine, or its whole GPU, to itself.
        pieces: micro-batches of a batch; they change a step only by rounding.
    """

    number: int = 1
    alone: bool = False
    pieces: int = 1

    def __str__(self) -> str:
        parts = ["from its last checkpoint"]
        if self.alone:
            parts.append("alone on its device")
        if self.pieces > 1:
            parts.append(f"in {self.pieces} micro-batches per step")
        return ", ".join(parts)


@dataclass(frozen=True)
class Retried:
    """A run failed and is resumed from its last checkpoint."""

    key: str
    failure: Failure
    attempt: Attempt


Event = Report | Retried
"""The argument of ``on_event`` of :func:`hpsearch.executor.run`."""


def next_attempt(
    failures: Sequence[Failure], batch_size: int, *, was_alone: bool
) -> Attempt | None:
    """Return the next attempt after ``failures``; ``None`` if the run is not tried again.

    A run that is out of memory is tried alone, then with the batch in four parts, then with single
    molecules. Every attempt resumes from the last checkpoint, so that little is trained twice.

    Args:
        failures: the run's failures, the last one at the end.
        batch_size: molecules in a step.
        was_alone: whether the run never had a neighbour; then running it alone would not help.
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


def final_failure(failures: Sequence[Failure]) -> Failure:
    """Return the failure with which the run ends after its last attempt."""
    last = failures[-1]
    if last.kind != "out_of_memory" or len(failures) == 1:
        return last
    return Failure(
        "infeasible",
        "needs more memory than is available, even alone and with one molecule per micro-batch: "
        f"{last.message}",
        last.traceback,
        last.epoch,
        last.step,
    )
