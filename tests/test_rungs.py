"""The rule of early stopping: who pauses, who goes on, who is stopped."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import PLAIN_QUICK

from hpsearch.config.run import ScheduleName
from hpsearch.config.rungs import LEAST_EPOCHS_OF_DEFAULT, Rungs, default_rungs
from hpsearch.config.space import SearchSpace
from hpsearch.search.rungs import Ladder, expected_epochs, expected_parts, most_paused
from hpsearch.store import Decision, DecisionKind
from hpsearch.system.errors import InputError
from hpsearch.system.installation import find_space
from hpsearch.terminal.lines import no_rungs_line

# --- An example by hand ---------------------------------------------------------------------------


def test_an_example_by_hand() -> None:
    """Nine trials, one of three goes on; the losses arrive as 5 1 4, 9 2 6, 8 7 3."""
    ladder = Ladder(Rungs(epochs=(1, 3), reduction=3, tolerance=0.0))
    ladder.pause("a", 5.0)
    ladder.pause("b", 1.0)
    assert ladder.next(last=False) is None, "of two trials none is in the best third"
    ladder.pause("c", 4.0)
    assert ladder.next(last=False) == "b"
    assert str(ladder.place("b", last=False)) == "place 1 of 3, 1 go on"
    ladder.promote("b")
    assert ladder.next(last=False) is None
    for key, loss in (("d", 9.0), ("e", 2.0), ("f", 6.0)):
        ladder.pause(key, loss)
    assert ladder.next(last=False) == "e"
    ladder.promote("e")
    ladder.pause("b", 0.9)
    ladder.pause("e", 1.5)
    assert ladder.next(last=False) is None
    assert list(ladder.hopeless(wanted=9)) == ["d", "f", "a"], "three are better than each of them"
    for key in ("d", "f", "a"):
        ladder.prune(key)
    for key, loss in (("g", 8.0), ("h", 7.0), ("i", 3.0)):
        ladder.pause(key, loss)
    # c waited since the beginning, but i has come before it.
    assert ladder.next(last=False) == "i"
    ladder.promote("i")
    ladder.pause("i", 2.5)
    # The third trial at the second rung: the best one goes on.
    assert ladder.next(last=True) == "b"
    ladder.promote("b")
    ladder.complete("b", 0.5)
    assert ladder.next(last=True) is None
    assert ladder.paused == ["e", "i", "c", "h", "g"]


def test_the_best_is_finished_however_few_trials_there_are() -> None:
    ladder = Ladder(Rungs(epochs=(1, 3), always_finish=2))
    ladder.pause("a", 2.0)
    assert ladder.next(last=False) is None
    assert ladder.next(last=True) == "a"
    ladder.promote("a")
    ladder.pause("a", 1.0)
    ladder.pause("b", 3.0)
    assert ladder.next(last=False) is None
    assert ladder.next(last=True) == "a", "the highest rung comes first"
    ladder.promote("a")
    assert ladder.next(last=True) == "b"


def test_a_tie_within_the_tolerance_is_protected() -> None:
    ladder = Ladder(Rungs(epochs=(1,), reduction=2, tolerance=0.05))
    for key, loss in (("a", 100.0), ("b", 104.0), ("c", 106.0), ("d", 200.0)):
        ladder.pause(key, loss)
    chosen = []
    while (key := ladder.next(last=False)) is not None:
        ladder.promote(key)
        chosen.append(key)
    # a is better than c by more than 5 %, b is not; d has three better ones.
    assert chosen == ["a", "b", "c"]
    assert ladder.place("d", last=True).better == 3


def test_a_failed_trial_counts_nowhere() -> None:
    ladder = Ladder(Rungs(epochs=(1,), reduction=2, tolerance=0.0))
    ladder.pause("a", 1.0)
    ladder.pause("b", 2.0)
    ladder.promote("a")
    ladder.fail("a")
    assert ladder.next(last=False) is None
    assert str(ladder.place("b", last=True)) == "place 1 of 1, 1 go on"
    ladder.fail("never seen")


def test_a_trial_that_ended_before_a_rung_counts_there() -> None:
    ladder = Ladder(Rungs(epochs=(1, 5), reduction=2, tolerance=0.0))
    ladder.pause("a", 3.0)
    ladder.complete("b", 1.0)
    assert str(ladder.place("a", last=False)) == "place 2 of 2, 1 go on"
    assert ladder.next(last=True) is None
    ladder.pause("c", 0.5)
    ladder.promote("c")
    ladder.pause("c", 0.4)
    assert str(ladder.place("c", last=False)) == "place 1 of 2, 1 go on"


# --- Any order ------------------------------------------------------------------------------------

LOSSES = st.floats(1.0, 9.0).map(lambda loss: round(loss, 1))
RULES = st.builds(
    Rungs,
    epochs=st.sampled_from([(1,), (1, 2), (1, 3, 9)]),
    reduction=st.integers(2, 4),
    always_finish=st.integers(1, 3),
    tolerance=st.sampled_from([0.0, 0.01, 0.2]),
)


@dataclass
class Simulated:
    """The rule as its definition says it, without sorted lists: every count is made anew."""

    rungs: Rungs
    losses: dict[str, list[float]] = field(default_factory=dict)

    def goes_on(self, key: str, *, last: bool) -> bool:
        rung = len(self.losses[key]) - 1
        mine = self.losses[key][rung]
        there = [losses[rung] for losses in self.losses.values() if len(losses) > rung]
        better = sum(loss < mine - self.rungs.tolerance * mine for loss in there)
        places = len(there) // self.rungs.reduction
        return better < (max(places, self.rungs.always_finish) if last else places)


@given(st.data(), RULES)
@settings(max_examples=300, deadline=None)
def test_it_decides_as_its_definition_says(data: st.DataObject, rungs: Rungs) -> None:
    ladder, simulated = Ladder(rungs), Simulated(rungs)
    paused: list[str] = []
    training: list[str] = []
    for number in range(data.draw(st.integers(1, 40), "steps")):
        step = data.draw(st.sampled_from(["draw", "report", "fail", "stop"]), "step")
        last = data.draw(st.booleans(), "last")
        if step == "draw" or not training:
            training.append(str(number))
        key = data.draw(st.sampled_from(training), "key")
        if step == "report" and ladder.reached(key) < rungs.count:
            loss = data.draw(LOSSES, "loss")
            ladder.pause(key, loss)
            simulated.losses.setdefault(key, []).append(loss)
            training.remove(key)
            paused.append(key)
        elif step == "report":
            training.remove(key)
            ladder.complete(key, 0.5)
        elif step == "fail":
            training.remove(key)
            ladder.fail(key)
            simulated.losses.pop(key, None)
        elif step == "stop":
            for hopeless in list(ladder.hopeless(wanted=len(simulated.losses))):
                assert not simulated.goes_on(hopeless, last=True)
                ladder.prune(hopeless)
                paused.remove(hopeless)
        assert sorted(ladder.paused) == sorted(paused)
        for waiting in paused:
            assert ladder.place(waiting, last=last).goes_on == simulated.goes_on(waiting, last=last)
        chosen = ladder.next(last=last)
        able = [waiting for waiting in paused if simulated.goes_on(waiting, last=False)]
        if last and not able:
            able = [waiting for waiting in paused if simulated.goes_on(waiting, last=True)]
        assert (chosen is None) == (not able)
        if chosen is not None:
            highest = max(len(simulated.losses[waiting]) for waiting in able)
            best = min(
                simulated.losses[waiting][-1]
                for waiting in able
                if len(simulated.losses[waiting]) == highest
            )
            assert (len(simulated.losses[chosen]), simulated.losses[chosen][-1]) == (highest, best)
            ladder.promote(chosen)
            paused.remove(chosen)
            training.append(chosen)


@given(st.lists(LOSSES, min_size=1, max_size=60), RULES, st.integers(1, 64), st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_whole_search_ends_with_the_best_finished(
    losses: list[float], rungs: Rungs, workers: int, order: Random
) -> None:
    """Trials whose losses never change their order: the best ones are trained to their end."""
    ladder = Ladder(rungs)
    epochs = 0
    running: list[str] = []
    new = iter(range(len(losses)))
    complete: set[str] = set()
    drawn = 0
    while True:
        while len(running) < workers:
            last = drawn == len(losses)
            if (key := ladder.next(last=last)) is not None:
                ladder.promote(key)
            elif (number := next(new, None)) is not None:
                key, drawn = str(number), drawn + 1
            else:
                break
            running.append(key)
        if not running:
            break
        key = running.pop(order.randrange(len(running)))
        epochs += 1
        if ladder.reached(key) < rungs.count:
            ladder.pause(key, losses[int(key)])
        else:
            ladder.complete(key, losses[int(key)])
            complete.add(key)
    best = sorted(losses)[: rungs.always_finish]
    finished = sorted(losses[int(key)] for key in complete)
    assert finished[: len(best)] == best
    for key in ladder.paused:
        assert not ladder.place(key, last=True).goes_on


@pytest.mark.parametrize(
    ("kind", "rung"),
    [("promotion", 0), ("pruned", 1), ("pause", 1), ("pause", -1), ("complete", 0)],
)
def test_a_decision_that_cannot_follow_is_refused(kind: DecisionKind, rung: int) -> None:
    ladder = Ladder(Rungs(epochs=(1,)))
    with pytest.raises((ValueError, LookupError)):
        ladder.apply(Decision(1, "a", kind, rung, 1, None if kind == "complete" else 2.0))


# --- What it spends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "most", "epochs", "reduction", "expected"),
    [
        (40, 10, (2, 5), 2, 190),
        (40, 10, (1, 3), 3, 94),
        (40, 200, (25, 50, 100), 2, 2500),
        (40, 200, (7, 22, 67), 3, 788),
    ],
)
def test_the_epochs_of_a_plan(
    trials: int, most: int, epochs: tuple[int, ...], reduction: int, expected: int
) -> None:
    rungs = Rungs(epochs=epochs, reduction=reduction)
    assert expected_epochs(expected_parts(rungs, epochs, most, trials)) == expected


@pytest.mark.parametrize("most", [10, 12, 20, 40, 100, 200])
def test_the_default_plan_keeps_its_promise(most: int) -> None:
    rungs = default_rungs(most, ["plateau"])
    assert rungs is not None
    assert rungs.epochs is not None
    spent = expected_epochs(expected_parts(rungs, rungs.epochs, most, 40))
    assert spent <= (100 / 400 if most < 40 else 1 / 6) * 40 * most
    assert most_paused(rungs, 40) <= 13 * rungs.count


@pytest.mark.parametrize("most", range(1, 60))
def test_default_rungs_fit_any_length(most: int) -> None:
    schedules: tuple[ScheduleName, ...] = ("plateau", "cosine")
    for schedule in schedules:
        rungs = default_rungs(most, [schedule])
        if rungs is None:
            assert most < LEAST_EPOCHS_OF_DEFAULT
            continue
        assert rungs.epochs is not None
        assert 0 < rungs.epochs[0] < most > rungs.epochs[-1]
        assert schedule != "cosine" or rungs.epochs[0] >= most / 4


def test_rungs_in_seconds_become_growing_epochs() -> None:
    rungs = Rungs(seconds=(60.0, 180.0))
    assert rungs.epochs_of(10, 30.0) == (2, 6)
    assert rungs.epochs_of(10, 1000.0) == (1, 2), "a slow trial reaches them after few epochs"
    assert rungs.epochs_of(10, 0.1) == (8, 9), "and none is at or after the end"
    for most, seconds in itertools.product((3, 5, 40), (0.01, 7.0, 59.0, 1e6)):
        first, second = rungs.epochs_of(most, seconds)
        assert 0 < first < second < most
        assert math.isfinite(first)


# --- In a space -----------------------------------------------------------------------------------


def space(line: str, name: str = "quick") -> SearchSpace:
    text = find_space(name).read_text(encoding="utf-8") if name != "quick" else PLAIN_QUICK
    return SearchSpace.parse(
        text.replace("\nparameters:\n", f"\n{line}\n\nparameters:\n"), "x.yaml"
    )


def test_a_space_without_rungs_is_what_it_was() -> None:
    plain = SearchSpace.parse(PLAIN_QUICK, "x.yaml")
    assert plain.early_stopping is None
    assert "rungs" not in plain.model_dump(mode="json")


def test_a_space_with_rungs_is_read_and_stored() -> None:
    given_rungs = space("rungs: {epochs: [2, 4], reduction: 2}")
    assert given_rungs.early_stopping == Rungs(epochs=(2, 4), reduction=2)
    stored = SearchSpace.from_provenance(given_rungs.to_provenance())
    assert (stored.early_stopping, stored.hash) == (given_rungs.early_stopping, given_rungs.hash)
    by_name = space("rungs: default")
    assert by_name.early_stopping == Rungs(epochs=(2,))
    assert by_name.model_dump(mode="json")["rungs"] == "default"
    longer = by_name.with_overrides(epochs=40)
    assert longer.early_stopping == Rungs(epochs=(13,))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rungs: often", "rungs must be 'default', or have epochs or seconds under it, got"),
        ("rungs: {}", "rungs must have epochs, seconds or 'default', and only one, got none"),
        ("rungs: {epochs: [2], seconds: [9]}", "and only one, got epochs and seconds"),
        ("rungs: {epochs: [4, 2]}", "rungs.epochs must grow from each to the next"),
        ("rungs: {epochs: [2, 7]}", "must all be below the 7 epochs of a trial, got 7; delete it"),
        ("rungs: {epochs: [1, 3]}", "must begin at epoch 2 or later with the schedule cosine"),
        ("rungs: {epochs: []}", "rungs.epochs"),
        ("rungs: {seconds: [1, 2, 3, 4, 5, 6, 7]}", "fewer entries than a trial has epochs (7)"),
        ("rungs: {epochs: [2], reduction: 1}", "rungs.reduction must be at least 2, got 1"),
        ("rungs: {epochs: [2], always_finish: 0}", "rungs.always_finish must be at least 1"),
        ("rungs: {epochs: [2], tolerance: 1.0}", "rungs.tolerance must be below 1"),
        ("rungs: {epochs: [2], keep: 1}", "rungs.keep must be a known key, got keep"),
    ],
)
def test_a_mistake_gets_one_line(line: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        space(line)
    assert str(error.value).startswith("x.yaml:")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rungs_need_a_fixed_number_of_epochs() -> None:
    text = space("rungs: {epochs: [2]}").text
    text = text.replace("  epochs: 7\n", "").replace(
        "\nparameters:\n", "\nparameters:\n  epochs: {type: int, low: 3, high: 9}\n"
    )
    with pytest.raises(InputError, match="epochs must be fixed in a space with rungs"):
        SearchSpace.parse(text, "x.yaml")


def test_a_run_that_is_too_short_for_the_default_is_trained_to_its_end() -> None:
    """So a person may shorten a space with --epochs 1."""
    short = space("rungs: default").with_overrides(epochs=1)
    assert short.early_stopping is None
    assert no_rungs_line(short) == (
        "trials of 1 epoch are too short for the default rungs: every trial is trained to its end"
    )
    assert no_rungs_line(space("rungs: default")) is None
    assert no_rungs_line(space("# none")) is None
