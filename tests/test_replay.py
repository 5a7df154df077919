"""Replays of plans of early stopping on recorded curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.made_up import run_search

from hpsearch.cli.program import cli
from hpsearch.config.rungs import Rungs
from hpsearch.pages.files import folder, load_page
from hpsearch.pages.replay import documents
from hpsearch.results.curves import (
    LEAST_TRIALS,
    Curves,
    Noise,
    RecordedCurve,
    read_curves,
    recorded_curves,
)
from hpsearch.results.replay import (
    Plan,
    Replay,
    Replayed,
    parse_plan,
    play,
    summarise,
    upper_bound,
    usual_plans,
)
from hpsearch.store import Store
from hpsearch.system.errors import InputError
from hpsearch.system.installation import find_curves
from hpsearch.terminal.replay import replay_lines

RUNGS = Rungs(epochs=(1, 2), reduction=2, tolerance=0.0)


def curve(number: int, *losses: float, seconds: float = 10.0) -> RecordedCurve:
    return RecordedCurve(number=number, losses=losses, seconds=seconds)


BY_HAND = [
    curve(0, 8.0, 7.0, 6.0, 5.0),
    curve(1, 4.0, 3.5, 3.0, 2.9),
    curve(2, 6.0, 2.0, 1.5, 1.0),  # a late bloomer
    curve(3, 9.0, 8.0, 7.0, 6.0),
]


def test_an_example_by_hand() -> None:
    """One worker, one of two goes on, with promotion.

    0 and 1 pause (8, 4). 1 is the better one, and goes on to epoch 2. At the second rung it is
    alone, and of one trial none goes on. 2 pauses (6): of three trials one goes on, and 1 is
    better. 3 pauses (9): of four trials two go on, 2 among them, to epoch 2 (loss 2). Of two trials
    one goes on: 2, to its end. No trial is left to draw, and no other one goes on.
    """
    result = play(BY_HAND, Plan("", RUNGS), workers=1)
    trained = (1, 2, 4, 1)
    assert result == Replayed(trained, 10.0 * sum(trained), winner=2, complete=1)
    assert result.epochs == 8


def test_full_training_trains_everything() -> None:
    assert play(BY_HAND, Plan("", None), workers=1) == Replayed(
        (4,) * 4, 160.0, winner=2, complete=4
    )
    assert play(BY_HAND, Plan("", None), workers=4) == Replayed(
        (4,) * 4, 40.0, winner=2, complete=4
    )
    # Three workers: the fourth trial starts when the first one ends.
    assert play(BY_HAND, Plan("", None), workers=3).seconds == 80.0


def test_decided_at_once_the_order_matters() -> None:
    plan = Plan("", RUNGS, "stopping")
    # 1 comes before 2, which is worse at the first rung: of three trials only one goes on.
    assert play(BY_HAND, plan, workers=1).winner == 1
    late_first = [BY_HAND[2], *BY_HAND[:2], BY_HAND[3]]
    assert play(late_first, plan, workers=1).winner == 0


def test_a_curve_that_ended_early_counts_at_later_rungs() -> None:
    short = [curve(0, 1.0), *BY_HAND[1:]]
    result = play(short, Plan("", RUNGS), workers=1)
    assert result.winner == 0
    assert result.complete >= 1


def test_the_best_k_after_all() -> None:
    plan = next(plan for plan in usual_plans(4, 4, ["plateau"]) if plan.name.startswith("the best"))
    result = play(BY_HAND, plan, workers=2)
    # Four first epochs, then only trial 1, the best after one epoch, to its end.
    assert (result.epochs, result.winner, result.complete) == (4 + 3, 1, 1)


def test_many_replays_are_summed_up() -> None:
    full = summarise(BY_HAND, Plan("full", None), 1, replays=50)
    assert (full.share, full.regret, full.lost, full.rank) == (1.0, 0.0, 0.0, 1.0)
    assert full.epochs == 16
    assert full.lost_at_most == pytest.approx(1 - 0.05 ** (1 / 50))
    early = summarise(BY_HAND, Plan("early", RUNGS), 1, replays=50)
    assert early.share < 0.8
    assert early.regret_ends[0] >= 0.0
    assert early == summarise(BY_HAND, Plan("early", RUNGS), 1, replays=50), "the seed decides"


def test_the_noise_between_seeds_by_hand() -> None:
    pairs = [[curve(0, 9.0, 1.0), curve(1, 3.0)], [curve(2, 9.0), curve(3, 11.0)]]
    noise = Noise.of(pairs)
    assert noise is not None
    # Deviations from the means 2 and 10: -1/2, 1/2, -1/10, 1/10; two degrees of freedom.
    assert noise.relative == pytest.approx(((0.25 + 0.25 + 0.01 + 0.01) / 2) ** 0.5)
    # The quantiles of chi squared with two degrees are -2 ln(1 - p).
    ends = [(0.52 / (-2 * math.log(part))) ** 0.5 for part in (0.025, 0.975)]
    assert noise.interval == pytest.approx(ends)
    assert (noise.configurations, noise.trials) == (2, 4)
    assert Noise.of([]) is None


def test_an_upper_bound() -> None:
    assert upper_bound(0, 100) == pytest.approx(0.0295, abs=1e-4)  # the rule of three: about 3/100
    assert upper_bound(100, 100) == 1.0
    assert upper_bound(5, 100) > 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,3/3", None),
        ("2", None),
        ("3,1/3", "must grow"),
        ("a/3", "invalid literal"),
        ("1/1", "greater than or equal to 2"),
        ("", "invalid literal"),
    ],
)
def test_a_plan_is_read(text: str, message: str | None) -> None:
    if message is None:
        rungs = parse_plan(text).rungs
        assert rungs is not None
        assert rungs.reduction == 3
        return
    with pytest.raises(InputError, match=message) as error:
        parse_plan(text)
    assert "\n" not in str(error.value)


def recorded(folder: Path, trials: int) -> Curves:
    with Store.create(f"sqlite:///{folder}/s.db") as store:
        run_search(store, trials=trials)
        return recorded_curves(store)


def test_a_study_gives_its_curves(tmp_path: Path) -> None:
    curves = recorded(tmp_path, 6)
    assert [each.number for each in curves.trials] == [1, 2, 3, 4, 5, 6]
    second = curves.trials[1]
    assert (second.losses, second.seconds, second.weights) == ((1.0, 0.5), 2.5, 4321)
    assert second.parameters["featurization_components"] > 0
    assert all(math.isfinite(loss) for each in curves.trials for loss in each.losses)
    assert curves.schedules == ("cosine",)


def test_one_configuration_with_several_seeds_is_one_draw(tmp_path: Path) -> None:
    curves = recorded(tmp_path, 6)
    first, *others = curves.trials
    again = first.model_copy(update={"number": 9, "losses": (2.0, 4.0)})
    both = curves.model_copy(update={"trials": (first, *others, again)})
    assert both.draws == [first, *others]
    assert both.repeated == [[first, again]]
    replay = Replay.of(both, replays=20)
    assert replay.noise == Noise.of([[first, again]])
    lines = list(replay_lines(replay, None))
    assert lines[0] == "20 replays of 6 trials of 2 epochs, drawn with replacement"
    assert any(line.startswith("noise: ") and "2 trials of 1 config" in line for line in lines)


def test_the_files_of_a_replay(tmp_path: Path) -> None:
    curves = recorded(tmp_path, 6)
    files = documents(Replay.of(curves, workers=(1, 4), replays=20))
    (tmp_path / "curves.json").write_text(files["curves.json"])
    assert read_curves(tmp_path / "curves.json") == curves
    content = json.loads(files["replay.json"])
    assert (content["study"], content["trials"], content["noise"]) == ("made-up", 6, None)
    assert {plan["workers"] for plan in content["plans"]} == {1, 4}
    assert "4 trials at a time" in files["replay.html"]
    assert 'id="plans"' in files["replay.html"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "must be a file of curves"),
        (lambda text: text.replace("curves/1", "curves/9"), "format"),
        (lambda text: text.replace('"seconds":2.5', '"seconds":-1', 1), "trials.0.seconds"),
        (lambda text: text.replace('"losses":[', '"losses":["low",', 1), "trials.0.losses.0"),
        (lambda text: "[]", "must be a file of curves"),
    ],
)
def test_a_damaged_file_of_curves_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    text = recorded(tmp_path, 6).model_dump_json()
    damaged = change(text)
    assert damaged != text
    (tmp_path / "curves.json").write_text(damaged)
    with pytest.raises(InputError, match=message) as error:
        read_curves(tmp_path / "curves.json")
    assert "\n" not in str(error.value)


def test_too_few_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 5 complete trials, the study 'made-up' has 3"):
        recorded(tmp_path, 3)


def test_the_page_of_a_search_without_rungs_shows_what_plans_would_have_done(
    tmp_path: Path,
) -> None:
    page = load_page(folder() / "early_stopping.py")
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, 12)
        drawn, rows = page.figure(store, "made-up"), page.frame(store, "made-up")
        (section,) = page.tables(store, "made-up")
    assert drawn is not None
    assert rows is not None
    bars, markers = drawn.data
    assert bars.y[0] == "full training"
    assert list(bars.x) == pytest.approx(list(100 * rows["share"]))
    assert list(markers.x) == pytest.approx(list(100 * rows["regret"]))
    assert [row[0] for row in section.rows] == list(bars.y)
    full = section.rows[0]
    assert (full[3], full[5]) == ("100 %", "0.0 %")


def test_a_search_too_short_for_a_replay_has_no_page(tmp_path: Path) -> None:
    page = load_page(folder() / "early_stopping.py")
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, LEAST_TRIALS - 1)
        assert page.figure(store, "made-up") is None
        assert page.tables(store, "made-up") == []


# --- The shipped curves --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Curves:
    return read_curves(find_curves("table3_log"))


def test_the_shipped_curves(shipped: Curves) -> None:
    assert (len(shipped.draws), shipped.epochs) == (24, 12)
    assert [len(trials) for trials in shipped.repeated] == [3] * 4
    assert len(shipped.recorded.space["content"]["targets"]) == 12
    assert shipped.schedules == ("plateau",)


def test_the_default_plan_is_good_on_the_shipped_curves(shipped: Curves) -> None:
    """Its median regret is at most half of the noise between seeds, for a third of the epochs."""
    replay = Replay.of(shipped, workers=(1, 16, 64), replays=100)
    assert replay.noise is not None
    default = [found for found in replay.found if found.plan.name == "default"]
    assert [found.workers for found in default] == [1, 16, 64]
    assert all(found.regret <= 0.5 * replay.noise.relative for found in default)
    assert default[0].share <= 1 / 3


def test_replay_of_shipped_curves_through_the_command(tmp_path: Path) -> None:
    words = ["replay", "--curves", "table3_log", "--replays", "5", "--workers", "2"]
    found = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "page")])
    assert found.exit_code == 0, found
    assert found.output.startswith("5 replays of 24 trials of 12 epochs")
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        *("replay.html", "replay.json", "curves.json")
    }
    as_json = CliRunner().invoke(cli, [*words, "--json"])
    assert json.loads(as_json.stdout)["noise"]["trials"] == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--curves", "table4"], "--curves must be a file or one of table3_log, got 'table4'"),
        (["quick", "--curves", "table3_log"], "must come without a study"),
        (["--curves", "table3_log", "--plan", "12/3"], "must pause before the last epoch (12)"),
        (["--curves", "table3_log", "--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    found = CliRunner().invoke(cli, ["replay", *words])
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)
