"""When a launch will end, on runs whose seconds are known."""

from __future__ import annotations

import pytest

from hpsearch.cost.estimate import FIRST_RUN_SECONDS, RunSoFar, TimeLeft, left_by_record


def test_runs_that_wait_take_the_first_place_that_is_free() -> None:
    # Two places; epochs of 10 s for cost 1 and, unseen, 20 s for cost 2.
    estimate = TimeLeft([("a", 3, 1.0), ("b", 3, 1.0), ("c", 3, 2.0)])
    assert estimate.left(0.0) is None
    estimate.started("a", 0, 100.0)
    estimate.started("b", 0, 100.0)
    estimate.epoch("a", 10.0, 110.0)
    estimate.epoch("b", 10.0, 110.0)
    # Each has 20 s left and its end, then c takes 60 s and its end.
    assert estimate.left(110.0) == pytest.approx(20 + 60 + 2 * FIRST_RUN_SECONDS)
    # Five seconds later as much less is left.
    assert estimate.left(115.0) == pytest.approx(15 + 60 + 2 * FIRST_RUN_SECONDS)


def test_a_run_of_the_same_cost_is_the_better_measure() -> None:
    estimate = TimeLeft([("a", 2, 1.0), ("b", 2, 2.0), ("c", 4, 2.0)])
    for key, seconds in (("a", 10.0), ("b", 50.0)):
        estimate.started(key, 0, 0.0)
        estimate.epoch(key, seconds, 50.0)
        estimate.epoch(key, seconds, 100.0)
        estimate.finished(key, 2 * seconds + 3.0)
    # 50 s an epoch as b had, not 20 s; three seconds beside the epochs, as the others had.
    assert estimate.left(103.0) == pytest.approx(4 * 50 + 3)


def test_what_goes_on_has_fewer_epochs_left() -> None:
    estimate = TimeLeft([("a", 10, 1.0)])
    estimate.started("a", 6, 0.0)
    estimate.epoch("a", 10.0, 10.0)
    assert estimate.left(10.0) == pytest.approx(3 * 10 + FIRST_RUN_SECONDS)
    # Tried again from its fourth epoch.
    estimate.started("a", 4, 20.0)
    estimate.epoch("a", 10.0, 30.0)
    assert estimate.left(30.0) == pytest.approx(5 * 10 + FIRST_RUN_SECONDS)


def test_trials_whose_keys_are_not_known_before_take_any_place_in_line() -> None:
    estimate = TimeLeft([(None, 2, 1.0)] * 3)
    estimate.started("7", 0, 0.0)
    estimate.epoch("7", 10.0, 10.0)
    assert estimate.left(10.0) == pytest.approx(10 + 2 * 20 + 3 * FIRST_RUN_SECONDS)


def test_another_trial_comes_in_the_place_of_one_that_failed() -> None:
    estimate = TimeLeft([(None, 4, 1.0)] * 2)
    estimate.started("7", 0, 0.0)
    estimate.epoch("7", 10.0, 10.0)
    estimate.finished("7", 10.0, failed=True)
    assert estimate.left(10.0) == pytest.approx(2 * 40)
    for key in ("8", "9"):
        estimate.started(key, 0, 10.0)
        assert estimate.epochs(key) == 4
    estimate.finished("8", 60.0)
    # A run that has a name, an ablation's, is not replaced.
    named = TimeLeft([("a", 4, 1.0)])
    named.started("a", 0, 0.0)
    named.epoch("a", 10.0, 10.0)
    named.finished("a", 10.0, failed=True)
    assert named.left(10.0) == 0.0


def test_the_error_is_that_of_the_first_and_of_the_half_way_estimate() -> None:
    estimate = TimeLeft([("a", 4, 1.0)])
    estimate.started("a", 0, 0.0)
    for epoch, end in enumerate((10.0, 20.0, 32.0, 44.0), start=1):
        estimate.epoch("a", end - (0.0, 10.0, 20.0, 32.0)[epoch - 1], end)
        estimate.left(end)
    estimate.finished("a", 50.0)
    # At 10 s: 30 s and 5 s for the end, of 40 s that it took; at 32 s, the first after half of 50:
    # 10.67 s and 5 s, of 18 s.
    found = estimate.errors(50.0)
    assert found is not None
    assert found[0] == pytest.approx((35 - 40) / 40)
    assert found[1] == pytest.approx((32 / 3 + 5 - 18) / 18)


def test_nothing_is_said_of_estimates_that_nobody_made() -> None:
    estimate = TimeLeft([])
    assert estimate.errors(5.0) is None
    estimate.started("a", 0, 0.0)
    assert estimate.errors(5.0) is None


def test_a_run_says_its_own_epochs_where_they_are_searched() -> None:
    # Six on average; the one that comes has four, and the next counts six again.
    estimate = TimeLeft([(None, 6.0, 1.0)] * 2)
    estimate.started("7", 0, 0.0, epochs=4)
    assert estimate.epochs("7") == 4
    estimate.epoch("7", 10.0, 10.0)
    assert estimate.left(10.0) == pytest.approx(30 + 60 + 2 * FIRST_RUN_SECONDS)
    # Another takes the place of one that failed, of which nothing is known again.
    estimate.finished("7", 10.0, failed=True)
    assert estimate.left(10.0) == pytest.approx(2 * 60)


def test_the_time_left_of_runs_that_others_have_begun() -> None:
    running = RunSoFar(5, 1.0, "running", (4.0, 4.0), silent=1.0)
    assert left_by_record([running]) == pytest.approx(3 * 4 - 1 + FIRST_RUN_SECONDS)
    # Of a network twice as costly nothing is known yet; one that has ended says it.
    waiting = RunSoFar(2, 2.0, "waiting")
    alone = 3 * 4 - 1 + FIRST_RUN_SECONDS
    assert left_by_record([running, waiting]) == pytest.approx(alone + 16 + FIRST_RUN_SECONDS)
    ended = RunSoFar(2, 2.0, "ended", (10.0, 10.0))
    expected = pytest.approx(alone + 20 + FIRST_RUN_SECONDS)
    assert left_by_record([ended, running, waiting]) == expected
    assert left_by_record([ended, waiting]) is None
    assert left_by_record([RunSoFar(5, 1.0, "running")]) is None
