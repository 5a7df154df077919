from __future__ import annotations

import pytest

from hpsearch.executor.attempts import HANGS, LOST_WORKERS, Attempt, final_failure, next_attempt
from hpsearch.runs.messages import Failure

SHORT = Failure("out_of_memory", "no memory", "Traceback: where", epoch=2)
DEAD = Failure("worker_lost", "the worker process died")
HUNG = Failure("hung", "silent")


def attempts(failures: list[Failure], batch_size: int = 16, alone: bool = False) -> list[Attempt]:
    """Every attempt that follows each of the failures, until there is none."""
    found = []
    for number in range(1, len(failures) + 1):
        attempt = next_attempt(failures[:number], batch_size, was_alone=alone)
        if attempt is None:
            break
        found.append(attempt)
    return found


def test_short_of_memory_a_run_is_tried_alone_and_then_in_pieces() -> None:
    assert attempts([SHORT] * 9) == [
        Attempt(2, alone=True),
        Attempt(3, alone=True, pieces=4),
        Attempt(4, alone=True, pieces=16),
    ]


def test_a_run_that_was_alone_is_cut_at_once() -> None:
    assert [a.pieces for a in attempts([SHORT] * 9, alone=True)] == [4, 16]


@pytest.mark.parametrize(("batch_size", "pieces"), [(1, [1]), (2, [1, 2]), (4, [1, 4])])
def test_no_batch_is_cut_finer_than_its_molecules(batch_size: int, pieces: list[int]) -> None:
    assert [a.pieces for a in attempts([SHORT] * 9, batch_size)] == pieces


def test_lost_and_hanging_workers_are_replaced_a_few_times() -> None:
    assert attempts([DEAD] * 9) == [Attempt(n + 2) for n in range(LOST_WORKERS)]
    assert attempts([HUNG] * 9) == [Attempt(n + 2) for n in range(HANGS)]


def test_a_worker_that_dies_in_pieces_goes_on_in_pieces() -> None:
    assert attempts([SHORT, SHORT, DEAD])[-1] == Attempt(4, alone=True, pieces=4)


@pytest.mark.parametrize("kind", ["diverged", "exception", "disk_full", "machine"])
def test_what_would_come_again_is_not_tried_again(kind: str) -> None:
    assert attempts([Failure(kind, "same again")]) == []  # type: ignore[arg-type]


def test_what_never_fits_is_infeasible() -> None:
    found = final_failure([SHORT] * 4)
    assert (found.kind, found.traceback, found.epoch) == ("infeasible", "Traceback: where", 2)
    assert found.message.endswith("one molecule per micro-batch: no memory")
    assert final_failure([DEAD] * 3) == DEAD
    assert final_failure([SHORT, DEAD]) == DEAD
