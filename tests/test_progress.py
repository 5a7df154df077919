"""The lines of a launch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hpsearch import executor
from hpsearch.api.drive import drive
from hpsearch.cost.estimate import TimeLeft
from hpsearch.runs.messages import Completion, EpochMetrics, Failure, Finished, RunFacts
from hpsearch.terminal.progress import Progress


def test_the_best_so_far_counts_what_earlier_launches_found() -> None:
    said: list[str] = []
    progress = Progress("trial", TimeLeft([]), say=said.append, best=(0.5, "1"))
    progress.finished("4", Completion(2, 2, 0.75))
    progress.finished("5", Completion(2, 2, 0.25))
    assert said[0].endswith("(best so far 0.5, trial 1)")
    assert said[1].endswith("the best so far")
    assert progress.best == (0.25, "5")


def test_the_end_of_a_run_says_how_many_are_done_running_and_failed() -> None:
    said: list[str] = []
    estimate = TimeLeft([("a", 1, 1.0), ("b", 1, 1.0), ("c", 1, 1.0)])
    progress = Progress("run", estimate, total=5, done=2, say=said.append)
    facts = RunFacts(4321, "somewhere", "cpu", "data", "split", 2.0)
    for key in ("a", "b"):
        progress.started(key, facts)
    progress.epoch("a", EpochMetrics(1, 1e-3, 60.0, 1.0, 1.0, {"mu": 1.0}, {"mu": 0.5}))
    progress.finished("a", Completion(1, 1, 1.0, 1.0, {"mu": 0.5}))
    assert "; 3 of 5 done, 1 running, about " in said[-1]
    assert said[-1].endswith(" left")
    progress.finished("b", Failure("diverged", "no end of losses"))
    assert "failed (diverged): no end of losses; 3 of 5 done, 0 running, 1 failed" in said[-1]


def test_the_launch_ends_with_how_right_its_estimates_were() -> None:
    said: list[str] = []
    progress = Progress("run", TimeLeft([("a", 2, 1.0)]), say=said.append)
    progress.ended()
    assert said == []
    progress.started("a", RunFacts(1, "somewhere", "cpu", "data", "split", 2.0))
    for epoch in (1, 2):
        progress.epoch("a", EpochMetrics(epoch, 1e-3, 60.0, 1.0, 1.0, {}, {}))
    progress.finished("a", Completion(2, 2, 1.0, 1.0, {"mu": 0.5}))
    progress.ended()
    # No time has passed where two minutes were estimated.
    assert said[-1].startswith("estimate check: the time left was ")
    assert "too long at first" in said[-1]


def test_the_first_traceback_is_shown_when_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work, placement, on_event):
        on_event(Finished("0", Failure("diverged", "no end of losses")))
        for key in ("1", "2"):
            failure = Failure("exception", f"KeyError: {key}", f"Traceback of {key}:\n  line\n")
            on_event(Finished(key, failure))

    monkeypatch.setattr(executor, "run", run)
    said: list[str] = []
    progress = Progress("trial", TimeLeft([]), say=said.append)
    drive(SimpleNamespace(finished=False), progress, executor.Placement(), "hpsearch status quick")
    assert said == [
        "trial 0: failed (diverged): no end of losses",
        "trial 1: failed (exception): KeyError: 1",
        "the traceback of trial 1; all of them: hpsearch status quick --json",
        "Traceback of 1:",
        "  line",
        "trial 2: failed (exception): KeyError: 2",
    ]


def test_files_that_were_damaged_are_said_where_starts_are_not() -> None:
    said: list[str] = []
    progress = Progress("trial", TimeLeft([]), say=said.append, follow=lambda line: None)
    facts = RunFacts(4321, "somewhere", "cpu", "data", "split", 2.0, damaged=("a", "b"))
    progress.started("4", facts)
    assert said == ["trial 4: skipped damaged files: a, b"]


def test_more_than_a_day_is_said_once() -> None:
    said: list[str] = []
    progress = Progress("trial", TimeLeft([(None, 1_000, 1.0)]), say=said.append)
    progress.started("0", RunFacts(1, "somewhere", "cpu", "data", "split", 2.0))
    for epoch, seconds in ((1, 60.0), (2, 600.0), (3, 600.0)):
        progress.epoch("0", EpochMetrics(epoch, 1e-3, seconds, 1.0, 1.0, {}, {}))
    assert [line.startswith("this takes more than a day; --dry-run") for line in said] == [
        False,  # the start
        False,  # 17 hours
        False,
        True,
        False,
    ]
