"""The lines of a launch."""

from __future__ import annotations

from hpsearch.progress import Progress
from hpsearch.runs import Completion


def test_the_best_so_far_counts_what_earlier_launches_found() -> None:
    said: list[str] = []
    progress = Progress("trial", 2, said.append, best=(0.5, "1"))
    progress.finished("4", Completion(2, 2, 0.75))
    progress.finished("5", Completion(2, 2, 0.25))
    assert said[0].endswith("(best so far 0.5, trial 1)")
    assert said[1].endswith("the best so far")
    assert progress.best == (0.25, "5")
