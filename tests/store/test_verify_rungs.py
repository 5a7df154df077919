"""A study with rungs: what a launch decides and stores, and which damage `verify` notices."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from support.commands import PLAIN_QUICK
from support.made_up import metrics
from support.store_examples import FACTS

from hpsearch.config.space import SearchSpace
from hpsearch.cost.estimate import FIRST_RUN_SECONDS
from hpsearch.pages.files import folder, load_page
from hpsearch.results.status import read_status
from hpsearch.runs.messages import Assignment, Completion, Failure
from hpsearch.search.launch import launch_study
from hpsearch.search.samplers import SeededPerTrial
from hpsearch.search.study import Study
from hpsearch.search.verify import verify
from hpsearch.search.work import Search
from hpsearch.store import Store
from hpsearch.system.errors import HpsearchError, InputError
from hpsearch.terminal.status import status_lines

LOSSES = (5.0, 3.0, 8.0, 1.0, 6.0, 2.0)
"""The loss of each trial after its first epoch; it falls as 1 / epoch."""


def space(rungs: str = "{epochs: [2, 4], reduction: 2, tolerance: 0.0}") -> SearchSpace:
    text = PLAIN_QUICK.replace("sampler: tpe", "sampler: random")
    text = text.replace("\nparameters:\n", f"\nrungs: {rungs}\n\nparameters:\n")
    return SearchSpace.parse(text, "x.yaml").with_overrides(trials=len(LOSSES))


def launch(store: Store, folder: Path, **options: Any) -> Search:
    given = {"space": space(), "name": "rungs", "runs_root": folder, **options}
    return launch_study(store, **given)


def train(search: Search, assignment: Assignment, facts: Any = FACTS) -> None:
    """Train a run to the end of its assignment."""
    key, last = assignment.key, assignment.until or 7
    search.started(key, facts)
    for epoch in range(1, last + 1):
        search.epoch(key, metrics(epoch, assignment.config, LOSSES[int(key) % len(LOSSES)]))
    if assignment.until is None:
        search.finish(key, Completion(7, 7, 0.0))
    else:
        search.paused(key, last)


def run(search: Search, most: int = 99) -> None:
    while most and (assignment := search.next()) is not None:
        train(search, assignment)
        most -= 1


@pytest.fixture
def searched(store: Store, tmp_path: Path) -> Store:
    search = launch(store, tmp_path)
    run(search)
    assert search.finished
    store.leave()
    return store


def decided(store: Store) -> list[tuple[str, str, int]]:
    experiment = store.find("rungs")
    return [(d.key, d.kind, d.rung) for d in store.decisions(experiment.id)]


def test_the_best_goes_on_and_the_others_are_stopped(searched: Store) -> None:
    assert decided(searched) == [
        ("0", "pause", 0),
        ("1", "pause", 0),
        ("1", "promotion", 0),
        ("1", "pause", 1),
        ("2", "pause", 0),
        ("3", "pause", 0),
        # Three are better than it, and of six trials three go on.
        ("2", "pruned", 1),
        ("3", "promotion", 0),
        ("3", "pause", 1),
        ("3", "promotion", 1),
        ("3", "complete", 2),
        ("4", "pause", 0),
        ("4", "pruned", 1),
        ("5", "pause", 0),
        ("0", "pruned", 1),
        ("5", "promotion", 0),
        ("5", "pause", 1),
        ("5", "pruned", 2),
        ("1", "pruned", 2),
    ]
    study = Study.open(searched)
    assert str(study.counts()) == "1 of 6 complete, 5 pruned"
    assert {trial.number: trial.state for trial in study.records()} == {
        **dict.fromkeys((0, 1, 2, 4, 5), "PRUNED"),
        3: "COMPLETE",
    }
    assert study.best() == (1.0 / 7, "3")
    origin = study.winner().provenance
    assert origin is not None
    assert origin.trial == 3
    # A stopped trial has its lowest loss as its value, for samplers and dashboards.
    assert study.records(numbers=[1])[0].value == 3.0 / 4
    assert not verify(searched).breaches


def test_the_page_shows_each_trial_at_its_rungs_and_each_decision(searched: Store) -> None:
    page = load_page(folder() / "early_stopping.py")
    drawn = page.figure(searched, "rungs")
    assert drawn is not None
    lines = {trace.hovertemplate.partition(",")[0]: trace for trace in drawn.data}
    stands = {name.removeprefix("trial "): trace.name for name, trace in lines.items()}
    verdicts = {d.key: d.kind for d in searched.decisions(searched.find("rungs").id)}
    assert stands == {k: {"pruned": "stopped"}.get(kind, kind) for k, kind in verdicts.items()}
    best = lines["trial 3"]
    assert (list(best.x), list(best.y)) == ([2, 4, 7], [1 / 2, 1 / 4, 1 / 7])
    assert [each.name for each in drawn.data][-1] == "complete", "the others are drawn below"
    counts = Counter(stands.values())
    assert f"{counts['complete']} complete, {counts['stopped']} stopped" in drawn.layout.title.text
    (section,) = page.tables(searched, "rungs")
    assert [row[0] for row in section.rows] == [key for key, *_ in decided(searched)]
    assert section.rows[0] == ("0", "paused", "1", "2", "2.5", "1 of 1")
    goes_on = [row for row in section.rows if row[1] == "goes on"]
    assert goes_on, "nobody was promoted"
    assert all(row[5].startswith("1 of") or row[5].startswith("2 of") for row in goes_on)


def test_the_time_left_counts_the_parts_that_the_plan_needs(store: Store, tmp_path: Path) -> None:
    """Of six trials all train two epochs, three of them two more, and one its last three: 21."""
    search = launch(store, tmp_path)
    run(search, 1)
    running = search.next()
    assert running is not None
    search.started(running.key, FACTS)
    search.epoch(running.key, metrics(1, running.config, 3.0))
    left = read_status(store).seconds_left
    # Three epochs of 2.5 s are done; one runs, and 17 come in eight parts, rounded to two each.
    assert left == pytest.approx(17 * 2.5 + 9 * FIRST_RUN_SECONDS, rel=0.02)


def test_a_stopped_trial_stays_stopped_when_the_study_is_extended(
    searched: Store, tmp_path: Path
) -> None:
    before = decided(searched)
    run(launch(searched, tmp_path, space=space().with_overrides(trials=8)))
    assert decided(searched)[: len(before)] == before
    assert str(Study.open(searched).counts()) == "1 of 8 complete, 7 pruned"
    assert not verify(searched).breaches


def test_a_paused_trial_is_seen_and_shown(store: Store, tmp_path: Path) -> None:
    search = launch(store, tmp_path)
    run(search, 1)
    study = Study.open(store)
    assert str(study.counts()) == "0 of 6 complete, 1 paused"
    assert str(study.at(study.read()).counts()) == "0 of 6 complete, 1 paused"
    [trial] = study.records()
    assert (trial.state, trial.facts["stage"]) == ("PAUSED", "paused at rung 1 of 2 (epoch 2)")
    store.leave()
    lines = list(status_lines(read_status(store), "s.db", "hpsearch status"))
    assert "no launch is active: paused trials wait for the next launch" in lines
    assert any("paused" in line and "paused at rung 1 of 2 (epoch 2)" in line for line in lines)
    # The rows wait, and nothing is wrong with them.
    assert [breach.rule for breach in verify(store).breaches] == ["count", "terminal"]
    again = launch(store, tmp_path)
    assert str(again.at_start) == "0 complete, 1 paused, 0 resumed, 5 left"
    run(again)
    assert not verify(store).breaches


def test_a_trial_of_an_earlier_launch_comes_before_paused_ones(
    store: Store, tmp_path: Path
) -> None:
    search = launch(store, tmp_path)
    run(search, 2)
    interrupted = search.next()
    assert interrupted is not None
    assert (interrupted.key, interrupted.until) == ("1", 4)
    again = launch(store, tmp_path)
    assert again.next() == interrupted


@pytest.mark.parametrize(("again", "lines"), [(3.0, 0), (3.001, 0), (3.1, 1)])
def test_a_trial_that_is_trained_again_is_compared_with_what_it_was_judged_by(
    store: Store, tmp_path: Path, again: float, lines: int
) -> None:
    said: list[str] = []
    search = launch(store, tmp_path, say=said.append)
    run(search, 2)
    promoted = search.next()
    assert promoted is not None
    assert (promoted.key, promoted.until) == ("1", 4)
    # Its checkpoint is gone, so it begins at the first epoch.
    search.started(promoted.key, FACTS)
    for epoch in range(1, 5):
        search.epoch(promoted.key, metrics(epoch, promoted.config, again))
    line = (
        "trial 1: trained again, its lowest loss at rung 1 is 1.55, but it was judged by 1.5; "
        "the decision stays"
    )
    assert said == [line] * lines


def test_paused_trials_that_were_all_ended_between_two_launches_are_replaced(
    store: Store, tmp_path: Path
) -> None:
    """No row is RUNNING then, as in a study in which nothing is paused."""
    run(launch(store, tmp_path), 1)
    store.leave()
    edit("UPDATE trials SET state = 'FAIL'")(store)
    search = launch(store, tmp_path)
    run(search)
    assert search.finished
    assert ("0", "failed", 1) in decided(store)
    assert {t.state for t in Study.open(store).records()} == {"FAIL", "COMPLETE", "PRUNED"}


def test_a_failed_trial_frees_its_place(store: Store, tmp_path: Path) -> None:
    search = launch(store, tmp_path)
    run(search, 2)
    promoted = search.next()
    assert promoted is not None
    search.finish(promoted.key, Failure("diverged", "the loss is not finite", epoch=3))
    assert decided(store)[-1] == ("1", "failed", 1)
    run(search)
    assert str(Study.open(store).counts()).startswith("2 of 6 complete, 1 failed, 4 pruned")
    assert not verify(store).breaches


def test_tpe_sees_a_paused_trial_as_pruned(store: Store, tmp_path: Path) -> None:
    search = launch(store, tmp_path)
    run(search, 1)
    study = optuna.load_study(study_name="rungs", storage=store.optuna_reader)
    assert study.trials[0].state == optuna.trial.TrialState.RUNNING
    [seen] = SeededPerTrial(space())._read_once(study).get_trials()
    assert seen.state == optuna.trial.TrialState.PRUNED
    assert seen.intermediate_values == {1: 5.0, 2: 2.5}
    assert study.trials[0].state == optuna.trial.TrialState.RUNNING


def test_edited_rungs_are_refused_and_force_keeps_the_recorded_ones(
    searched: Store, tmp_path: Path
) -> None:
    other = space("{epochs: [3], reduction: 2, tolerance: 0.0}")
    with pytest.raises(InputError, match=r"rungs.epochs: \[2, 4\] -> \[3\]"):
        launch(searched, tmp_path, space=other)
    said: list[str] = []
    forced = launch(searched, tmp_path, space=other, force=True, say=said.append)
    assert said == ["the study keeps its rungs, which cannot change within a study"]
    assert forced.space.rungs == space().rungs


def test_rungs_in_seconds_need_timings(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rungs in seconds need timings of this machine"):
        launch(store, tmp_path, space=space("{seconds: [30, 90]}"))
    assert store.experiment("study", "rungs") is None


def edit(*statements: str) -> Callable[[Store], None]:
    def damage(store: Store) -> None:
        with store._writer.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    return damage


OF = "run_id = (SELECT id FROM hpsearch_runs WHERE key = '{}')"

DAMAGES: dict[str, tuple[Callable[[Store], None], str]] = {
    "the loss of a pause": (
        edit(f"UPDATE hpsearch_decisions SET loss = 2.0 WHERE kind = 'pause' AND {OF.format(3)}"),
        "trial 3 the pause at rung 1 (number 18) has the loss 2.0; the lowest of its epochs was",
    ),
    "the epoch of a pause": (
        edit(f"UPDATE hpsearch_decisions SET epoch = 1 WHERE kind = 'pause' AND {OF.format(0)}"),
        "is at epoch 1; the trial pauses after the epochs [2, 4]",
    ),
    "a promotion of a worse trial": (
        edit(
            f"UPDATE hpsearch_decisions SET kind = 'promotion', rung = 0 WHERE kind = 'pruned' AND "
            f"{OF.format(2)}"
        ),
        "trial 2 the promotion at rung 1",
    ),
    "a stop of the best trial": (
        edit(
            f"UPDATE hpsearch_decisions SET kind = 'pruned', rung = 1 WHERE kind = 'promotion' "
            f"AND rung = 0 AND {OF.format(3)}"
        ),
        "was not admissible: it had place 1 of",
    ),
    "the order": (
        edit(
            f"UPDATE hpsearch_decisions SET sequence = 0 WHERE kind = 'promotion' AND rung = 0 AND "
            f"{OF.format(1)}"
        ),
        "trial 1 the promotion at rung 1 (number 0) cannot follow",
    ),
    "a decision deleted": (
        edit(f"DELETE FROM hpsearch_decisions WHERE kind = 'pruned' AND {OF.format(5)}"),
        "trial 5 is PRUNED without a decision to stop it",
    ),
    "a pause deleted": (
        edit(f"DELETE FROM hpsearch_decisions WHERE kind = 'pause' AND {OF.format(4)}"),
        "cannot follow the trial's decisions before it",
    ),
    "the rungs": (
        edit(
            "UPDATE hpsearch_experiments SET provenance = "
            "replace(provenance, '\"reduction\": 2', '\"reduction\": 3')"
        ),
        "the study has",
    ),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a study that has been searched."""
    folder = tmp_path_factory.mktemp("searched")
    with Store.create(f"sqlite:///{folder}/s.db") as store:
        run(launch(store, folder))
    return folder / "s.db"


@pytest.fixture
def copied(template: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(template, tmp_path / "s.db")
    with Store.open(f"sqlite:///{tmp_path}/s.db") as store:
        yield store


@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES)
def test_a_changed_decision_is_named(
    copied: Store, damage: Callable[[Store], None], named: str
) -> None:
    assert not verify(copied).breaches
    damage(copied)
    found = [str(breach) for breach in verify(copied).breaches]
    assert any(named in line for line in found), found


def test_a_launch_on_damaged_decisions_says_so(copied: Store, tmp_path: Path) -> None:
    edit(f"DELETE FROM hpsearch_decisions WHERE kind = 'pause' AND {OF.format(4)}")(copied)
    with pytest.raises(HpsearchError, match="hpsearch verify names the damage"):
        launch(copied, tmp_path)
