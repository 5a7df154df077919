"""A study through launches that end well, badly and not at all, on both stores."""

from __future__ import annotations

import math
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from support.launches import BOTH_DATABASES, QUICK, Launches, complete, loss_of, space, train
from support.store_examples import FACTS, metrics, new_url

from hpsearch.api.inputs import check_before_writing
from hpsearch.config.architecture import count_weights
from hpsearch.config.export import Winner
from hpsearch.config.run import TrialConfig
from hpsearch.config.space import Budget, SearchSpace
from hpsearch.results.status import read_status
from hpsearch.runs.messages import Assignment, Completion, Failure, FailureKind, Work
from hpsearch.search.failures import LEAST_TOTAL_LIMIT, SAME_FAILURES, Failures
from hpsearch.search.launch import launch_study
from hpsearch.search.quote import draw_configs
from hpsearch.search.samplers import SAMPLERS, SeededPerTrial
from hpsearch.search.study import Study
from hpsearch.search.verify import verify
from hpsearch.search.work import Search, StartCounts
from hpsearch.store import Store
from hpsearch.system.errors import HpsearchError, InputError

DIVERGED = Failure("diverged", "the loss of step 7 is not finite", epoch=1, step=7)
BROKEN = Failure("exception", "ValueError: bad shape 3", "Traceback: the first one")


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(getattr(request, "param", "sqlite"), tmp_path, request)


# --- A search that goes well ----------------------------------------------------------------------


def test_a_search_is_a_work(launches: Launches) -> None:
    work: Work = launches()
    assert not work.finished


@BOTH_DATABASES
def test_every_trial_is_recorded(launches: Launches, url: str) -> None:
    search = launches()
    assert str(search.at_start) == "0 complete, 0 resumed, 3 left"
    launches.run_out(search)
    assert search.next() is None
    assert search.breakdown is None
    assert launches.states() == {"COMPLETE": 3}

    storage = optuna.storages.RDBStorage(url)  # as any reader without hpsearch
    trials = optuna.load_study(study_name="quick", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    assert [trial.value for trial in trials] == [10.0, 11.0, 12.0]
    assert trials[1].intermediate_values == {1: 12.0, 2: 11.0, 3: 12.0}
    attributes = trials[1].user_attrs
    assert attributes["weights"] == 1234
    assert attributes["seconds_per_epoch"] == 2.0
    assert attributes["best_epoch"] == 2
    assert attributes["split_hash"] == FACTS.split_hash
    config = TrialConfig.from_dict(attributes["config"])
    assert attributes["featurization_vectors"] == config.network.featurization_vectors
    assert trials[1].params["batch_size"] == config.training.batch_size


@BOTH_DATABASES
def test_the_two_records_of_an_epoch_agree(launches: Launches) -> None:
    search = launches()
    assignment = search.next()
    assert assignment is not None
    train(search, assignment, epochs=2)
    train(search, assignment, epochs=2)  # a continued worker tells its earlier epochs again
    search.epoch(assignment.key, metrics(2, 8.0))  # and may have trained the last one anew
    assert launches.trial(0).intermediate_values == {1: 11.0, 2: 8.0}
    assert launches.store.epochs()["validation_loss"].tolist() == [11.0, 8.0]
    search.finish(assignment.key, Completion(2, 1, 0.5))
    assert launches.trial(0).value == 8.0  # what is recorded, whatever the worker says


@BOTH_DATABASES
def test_verdicts_are_told_once(launches: Launches) -> None:
    search = launches()
    assignment = search.next()
    assert assignment is not None
    complete(search, assignment)
    search.finish(assignment.key, BROKEN)
    search.finish(assignment.key, Completion(3, 1, 1.0))
    search.epoch(assignment.key, metrics(9, 1.0))
    search.started(assignment.key, replace(FACTS, split_hash="other"))
    later = launches()
    later.finish(assignment.key, BROKEN)
    later.epoch(assignment.key, metrics(9, 1.0))
    trial = launches.trial(0)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 10.0)
    assert len(launches.store.epochs()) == 3


def test_the_quota_counts_what_is_running(launches: Launches) -> None:
    search = launches(space(2))
    first, second = search.next(), search.next()
    assert first and second and first.key != second.key
    assert search.next() is None
    assert not search.finished
    search.finish(first.key, DIVERGED)
    third = search.next()
    assert third is not None and third.key == "2"
    assert search.next() is None


def test_folders_belong_to_one_study_of_one_store(
    launches: Launches, tmp_path: Path, created: Any
) -> None:
    names = ["../../evil", "/etc", "a", "A"]
    other = created(f"sqlite:///{tmp_path}/other.db")
    folders = []
    for store in (launches.store, other):
        for name in names:
            assignment = launch_study(store, space(), name, launches.root).next()
            assert assignment is not None
            folder = Path(assignment.directory)
            assert folder.is_absolute() and folder.name == assignment.key
            assert folder.resolve().parent.parent == launches.root.resolve()
            folders.append(folder)
    assert len(set(folders)) == 8
    assert not launches.root.exists()  # the worker makes it


# --- Launches that die ----------------------------------------------------------------------------


@BOTH_DATABASES
def test_a_relaunch_finishes_what_was_left(launches: Launches) -> None:
    search = launches(space(4))
    runs = [search.next() for _ in range(3)]
    assert all(runs)
    complete(search, runs[0])  # type: ignore[arg-type]
    train(search, runs[1], epochs=2)  # type: ignore[arg-type]
    del search  # and with it the process

    later = launches(space(4))
    assert later.at_start == StartCounts(complete=1, resumed=2, left=1, epochs=(2, 0))
    assert str(later.at_start) == "1 complete, 2 resumed from epochs 2 and 0, 1 left"
    continued = [later.next() for _ in range(3)]
    assert continued[0] == replace(runs[1], expected_split=FACTS.split_hash)  # type: ignore
    assert continued[1] == replace(runs[2], expected_split=FACTS.split_hash)  # type: ignore
    assert continued[2] is not None and continued[2].key == "3"
    assert later.next() is None
    for assignment in continued:
        assert assignment is not None
        complete(later, assignment)
    assert later.finished
    assert launches.states() == {"COMPLETE": 4}
    assert str(launches(space(4)).at_start) == "4 complete, 0 resumed, 0 left"


@BOTH_DATABASES
def test_a_death_while_drawing_leaves_no_hole(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = launches(name="undisturbed").next()
    search = launches()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_run", dies)
        with pytest.raises(KeyboardInterrupt):
            search.next()
    drawn = launches.trial(0).params
    assert drawn

    later = launches()
    assert later.at_start.resumed == 1
    assignment = later.next()
    assert assignment is not None and undisturbed is not None
    assert assignment.key == "0"
    assert assignment.config == undisturbed.config
    assert launches.trial(0).params == drawn


@BOTH_DATABASES
def test_a_death_after_the_ask_leaves_no_hole(launches: Launches) -> None:
    launches()
    storage = launches.store.optuna_storage
    optuna.load_study(study_name="quick", storage=storage).ask()
    search = launches()
    launches.run_out(search)
    assert launches.states() == {"COMPLETE": 3}


@BOTH_DATABASES
def test_a_death_before_the_verdict_is_told(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = launches()
    assignment = search.next()
    assert assignment is not None

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hpsearch.search.trials.TrialRows.fail", dies)
        with pytest.raises(KeyboardInterrupt):
            search.finish(assignment.key, BROKEN)
    assert launches.states() == {"RUNNING": 1}
    later = launches()
    assert launches.states() == {"FAIL": 1}
    assert later.at_start == StartCounts(0, 0, 3)


def test_more_trials_extend_a_study_and_fewer_end_it(launches: Launches) -> None:
    launches.run_out(launches(space(2)))
    longer = launches(space(5))
    assert str(longer.at_start) == "2 complete, 0 resumed, 3 left"
    for _ in range(3):
        longer.next()
    assert Study.open(launches.store).counts().wanted == 5
    shorter = launches(space(3))
    assert shorter.at_start == StartCounts(complete=2, resumed=1, left=0, epochs=(0,))
    launches.run_out(shorter)
    # The two that are not wanted any more have ended as well.
    assert launches.states() == {"COMPLETE": 3, "FAIL": 2}
    assert launches.trial(4).user_attrs["failure"] == "given_up"


def test_without_a_number_the_study_keeps_its_trials(launches: Launches) -> None:
    longer = launches(space(5))
    for _ in range(3):
        longer.next()
    said: list[str] = []
    again = launches(space(2), keep_trials=True, say=said.append)
    assert said == [
        "the study keeps its 5 trials; the space has 2 (--trials 2 asks for fewer)",
    ]
    assert str(again.at_start) == "0 complete, 3 resumed from epoch 0, 2 left"
    assert again.space.trials == 5
    launches.run_out(again)
    assert launches.states() == {"COMPLETE": 5}
    # What was asked for in so many words holds for the launches after it.
    assert launches(space(3)).space.trials == 3
    assert launches(space(2), keep_trials=True).space.trials == 3
    assert launches(space(4), keep_trials=True).space.trials == 4


@BOTH_DATABASES
def test_no_configuration_comes_twice(launches: Launches) -> None:
    seen = []
    for _ in range(4):
        search = launches(space(12))
        for _ in range(2):
            assignment = search.next()
            assert assignment is not None
            complete(search, assignment)
            seen.append(launches.trial(int(assignment.key)).params["learning_rate"])
    assert len(set(seen)) == 8


# --- Failures -------------------------------------------------------------------------------------


def test_a_failed_trial_is_replaced_and_says_why(launches: Launches) -> None:
    search = launches()
    assignment = search.next()
    assert assignment is not None
    train(search, assignment, epochs=1)
    search.finish(assignment.key, replace(DIVERGED, traceback="x" * 20_000 + "end\0"))
    launches.run_out(search)
    assert launches.states() == {"FAIL": 1, "COMPLETE": 3}
    trial = launches.trial(0)
    assert trial.value is None
    assert trial.user_attrs["failure"] == "diverged"
    assert trial.user_attrs["failure_step"] == 7
    assert trial.user_attrs["failure_reason"] == DIVERGED.message
    assert trial.user_attrs["failure_traceback"].endswith("end\0")
    assert len(trial.user_attrs["failure_traceback"]) == 8_000


def test_nine_in_ten_may_diverge(launches: Launches) -> None:
    search = launches(space(2))
    while not search.finished:
        assignment = search.next()
        assert assignment is not None
        if int(assignment.key) % 10 == 9:
            complete(search, assignment)
        else:
            search.finish(assignment.key, DIVERGED)
    assert search.breakdown is None
    assert launches.states() == {"COMPLETE": 2, "FAIL": 18}


def test_a_completion_without_a_number_is_a_divergence(launches: Launches) -> None:
    search = launches()
    assignment = search.next()
    assert assignment is not None
    search.started(assignment.key, FACTS)
    search.epoch(assignment.key, metrics(1, math.nan))
    search.finish(assignment.key, Completion(1, 1, math.nan))
    trial = launches.trial(0)
    assert (trial.state, trial.user_attrs["failure"]) == (TrialState.FAIL, "diverged")


def test_the_same_error_from_the_start_ends_the_launch(launches: Launches) -> None:
    search = launches()
    for number in range(SAME_FAILURES):
        assert not search.finished
        assignment = search.next()
        assert assignment is not None
        search.finish(assignment.key, DIVERGED)
        assignment = search.next()
        assert assignment is not None
        failure = replace(BROKEN, message=f"bad shape {number}", traceback=f"Traceback {number}")
        search.finish(assignment.key, failure)
    assert search.finished
    assert search.next() is None
    assert search.breakdown is not None
    assert search.breakdown.traceback == "Traceback 0"
    assert "3 runs in a row failed with the same error" in str(search.breakdown)
    # What a person launches again is tried again.
    again = launches()
    assert again.breakdown is None
    launches.run_out(again)
    assert launches.states()["COMPLETE"] == 3


def test_a_launch_that_gave_up_leaves_no_row_running(launches: Launches) -> None:
    search = launches()
    for number in range(SAME_FAILURES):
        assignment = search.next()
        assert assignment is not None
        if number == SAME_FAILURES - 1:
            optuna.load_study(study_name="quick", storage=launches.store.optuna_storage).ask()
        search.finish(assignment.key, BROKEN)
    assert search.breakdown is not None
    assert launches.states() == {"FAIL": 4}


def test_one_completion_lifts_the_suspicion(launches: Launches) -> None:
    search = launches()
    first = search.next()
    assert first is not None
    complete(search, first)
    for _ in range(SAME_FAILURES):
        assignment = search.next()
        assert assignment is not None
        search.finish(assignment.key, BROKEN)
    assert search.breakdown is None


def test_failures_are_bounded(launches: Launches) -> None:
    search = launches(space(1))
    search._failures = Failures(1)
    for _ in range(LEAST_TOTAL_LIMIT - 1):
        assert search._failures.note(DIVERGED) is None
    assignment = search.next()
    assert assignment is not None
    search.finish(assignment.key, DIVERGED)
    assert search.finished
    assert "200 runs failed, 200 of them diverged" in str(search.breakdown)


@pytest.mark.parametrize(("wanted", "limit"), [(1, 200), (2, 200), (8, 200), (9, 225), (40, 1000)])
def test_a_search_of_which_nine_in_ten_draws_diverge_is_not_given_up(
    wanted: int, limit: int
) -> None:
    failures = Failures(wanted)
    for number in range(1, limit):
        assert failures.note(DIVERGED) is None, number
    assert failures.note(DIVERGED) is not None
    # So many failures before the last completion: a negative binomial tail.
    ended = sum(comb(limit - 1 + k, k) * 0.1**k * 0.9**limit for k in range(wanted))
    assert ended < 1 / 3_000


def test_the_best_trial_is_known_to_later_launches(launches: Launches) -> None:
    search = launches(space(2))
    found = []
    for _ in range(2):
        assert Study.open(launches.store, "quick").best() == min(found, default=None)
        assignment = search.next()
        assert assignment is not None
        complete(search, assignment)
        found.append((loss_of(assignment, 2), assignment.key))
    assert Study.open(launches.store, "quick").best() == min(found)


# --- What others do -------------------------------------------------------------------------------


@BOTH_DATABASES
def test_a_trial_told_by_someone_else(launches: Launches) -> None:
    search = launches()
    first, second = search.next(), search.next()
    assert first and second
    other = optuna.load_study(study_name="quick", storage=launches.store.optuna_by_hand)
    train(search, first, epochs=1)
    train(search, second, epochs=1)
    other.tell(0, state=TrialState.FAIL)
    other.tell(1, 0.001)
    complete(search, first)
    complete(search, second)
    assert launches.trial(0).state == TrialState.FAIL
    assert launches.trial(1).value == 0.001
    launches.run_out(search)
    assert launches.states() == {"COMPLETE": 3, "FAIL": 1}
    origin = Study.open(launches.store).winner().provenance
    assert origin is not None and origin.trial == 2  # not the value told by hand


def test_a_pruned_trial_has_its_verdict(launches: Launches) -> None:
    search = launches()
    first = search.next()
    assert first is not None
    train(search, first, epochs=1)
    other = optuna.load_study(study_name="quick", storage=launches.store.optuna_by_hand)
    other.tell(0, state=TrialState.PRUNED)
    search.finish(first.key, DIVERGED)
    launches.run_out(search)
    assert launches.states() == {"COMPLETE": 2, "PRUNED": 1}
    assert launches().at_start == StartCounts(complete=2, resumed=0, left=0, pruned=1)


@BOTH_DATABASES
def test_a_trial_deleted_by_someone_else(launches: Launches) -> None:
    search = launches()
    runs = [search.next() for _ in range(2)]
    _delete(launches.store, 1)
    for assignment in runs:
        assert assignment is not None
        complete(search, assignment)
    launches.run_out(search)
    assert launches.states()["COMPLETE"] == 3
    launches.run_out(launches(space(4)))
    assert launches.states()["COMPLETE"] == 4


@BOTH_DATABASES
def test_a_number_given_twice_is_not_used(launches: Launches) -> None:
    search = launches()
    first, second = search.next(), search.next()
    assert first and second
    _delete(launches.store, 1)
    third = search.next()
    assert third is not None
    assert third.key == "2"  # 1 is still being trained, in a folder of that name
    train(search, second)
    assert launches.trial(1).state == TrialState.FAIL
    complete(search, third)
    assert launches.trial(2).state == TrialState.COMPLETE


@BOTH_DATABASES
def test_a_number_given_twice_is_not_used_by_a_later_launch(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = launches(space(2))
    assert search.next() and search.next()
    _delete(launches.store, 1)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_drop", dies)
        with pytest.raises(KeyboardInterrupt):
            search.next()
    assert launches.states() == {"RUNNING": 2}
    later = launches(space(2))
    launches.run_out(later)
    assert launches.trial(1).state == TrialState.FAIL
    assert not launches.trial(1).params
    assert launches.states() == {"COMPLETE": 2, "FAIL": 1}


@BOTH_DATABASES
def test_a_study_deleted_by_someone_else(launches: Launches) -> None:
    search = launches()
    search.next()
    optuna.delete_study(study_name="quick", storage=launches.store.optuna_storage)
    with pytest.raises(HpsearchError, match="was deleted from the store"):
        search.next()
    with pytest.raises(HpsearchError, match="deleted or renamed outside"):
        Study.open(launches.store)
    with pytest.raises(InputError, match="choose another name with --study"):
        launches()


@BOTH_DATABASES
def test_a_study_that_is_not_ours(launches: Launches) -> None:
    optuna.create_study(study_name="quick", storage=launches.store.optuna_storage)
    with pytest.raises(InputError, match="that hpsearch did not make"):
        launches()
    assert launches.store.experiments().empty


# --- Refusals -------------------------------------------------------------------------------------


def test_another_space_is_refused(launches: Launches) -> None:
    launches()
    before = launches.store.experiments().to_dict()
    with pytest.raises(InputError) as error:
        launches(space(epochs=2, train_size=30, seed=4))
    assert "\n" not in str(error.value)
    assert "data.train_size: 1000 -> 30" in str(error.value)
    assert "training.epochs: 7 -> 2" in str(error.value)
    assert "seed: 0 -> 4" in str(error.value)
    assert launches.store.experiments().to_dict() == before
    assert launches.states() == {}
    assert launches(space(epochs=2), name="another").at_start.complete == 0


def test_comments_and_the_description_may_change(launches: Launches) -> None:
    launches()
    text = QUICK.text.replace("description:", "# a comment\ndescription: New.") + "\n# the end\n"
    launches(SearchSpace.parse(text, "x").with_overrides(trials=4, sampler="random"))
    assert "# the end" in Study.open(launches.store).provenance["space"]["text"]


@pytest.mark.parametrize("what", ["data_hash", "split_hash"])
def test_other_molecules_are_refused_before_a_trial_is_touched(
    launches: Launches, what: str
) -> None:
    search = launches()
    first = search.next()
    assert first
    seen = {"data_hash": FACTS.data_hash, "split_hash": FACTS.split_hash}
    search.started(first.key, FACTS)
    with pytest.raises(InputError, match=rf"{what[:4]}\w* hash: \w{{12}} -> eeeeeeeeeeee; restore"):
        launches(molecules={**seen, what: "e" * 64})
    assert launches.states() == {"RUNNING": 1}
    assert launches(molecules=seen).at_start.resumed == 1
    assert launches(molecules={**seen, what: "e" * 64}, force=True).at_start == StartCounts(0, 0, 3)


def test_other_data_end_the_launch(launches: Launches) -> None:
    search = launches()
    first, second = search.next(), search.next()
    assert first and second
    assert first.expected_split is None
    search.started(first.key, FACTS)
    for changed in ({"data_hash": "e" * 64}, {"split_hash": "e" * 64}):
        with pytest.raises(InputError, match=r"hash was .* has eeeeeeeeeeee; restore"):
            search.started(second.key, replace(FACTS, **changed))
    third = search.next()
    assert third is not None
    assert third.expected_split == FACTS.split_hash


def test_names_are_refused_before_anything_is_written(launches: Launches) -> None:
    for name in ("", "a\nb", "x" * 201):
        with pytest.raises(InputError, match="the name of a study"):
            launches(name=name)
    assert launches.store.experiments().empty


@BOTH_DATABASES
def test_a_study_with_a_name_that_is_no_longer_allowed_goes_on(
    launches: Launches, url: str
) -> None:
    launches.run_out(launches(name="new"))
    old = "gpj.exe\u202e"
    with launches.store._database.engine.begin() as connection:
        for table, column in (("hpsearch_experiments", "name"), ("studies", "study_name")):
            rename = sa.text(f"UPDATE {table} SET {column} = :old WHERE {column} = 'new'")
            connection.execute(rename, {"old": old})
    assert check_before_writing(url, launches.root, old, "study") == launches.root
    with pytest.raises(InputError, match=r"formatting characters.* U\+202E"):
        check_before_writing(url, launches.root, f"{old}2", "study")
    assert launches(space(4), name=old).at_start == StartCounts(3, 0, 1)
    assert launches.states(old) == {"COMPLETE": 3}
    assert Study.open(launches.store, old).winner().name == old
    assert read_status(launches.store, old).name == old


@BOTH_DATABASES
def test_sql_is_only_a_name(launches: Launches) -> None:
    name = "x'; DROP TABLE trials; --"
    launches.run_out(launches(name=name))
    assert launches.states(name) == {"COMPLETE": 3}
    assert Study.open(launches.store, name).winner().name == name


# --- Samplers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "gp" else ()) for n in SAMPLERS]
)
def test_samplers_draw_by_the_trial_number(name: str) -> None:
    chosen = QUICK.model_copy(update={"sampler": name, "startup_trials": 2})

    def draws(sampler: SeededPerTrial, trials: int) -> list[TrialConfig]:
        study = optuna.create_study(sampler=sampler)
        found = []
        for number in range(trials):
            trial = study.ask()
            found.append(chosen.suggest(trial))
            study.tell(trial, float(number))
        return found

    first = draws(SeededPerTrial(chosen), 4)
    assert first == draws(SeededPerTrial(chosen), 4)
    assert len({config.training.learning_rate for config in first}) == 4
    other = draws(SeededPerTrial(chosen.model_copy(update={"seed": 1})), 4)
    assert first[0].training.learning_rate != other[0].training.learning_rate


def test_an_unknown_sampler_is_refused(launches: Launches) -> None:
    with pytest.raises(InputError, match="one of random, tpe, gp, qmc; got 'best'"):
        launches(QUICK.model_copy(update={"sampler": "best"}))
    assert launches.store.experiments().empty


# --- Reading --------------------------------------------------------------------------------------


@BOTH_DATABASES
def test_the_winner_is_the_lowest_on_validation(launches: Launches, tmp_path: Path) -> None:
    search = launches()
    launches.run_out(search)
    winner = Study.open(launches.store).winner()
    run = launches.store.run(Study.open(launches.store).experiment_id, "0")
    assert run is not None and winner.config == run.config
    origin = winner.provenance
    assert origin is not None
    assert (origin.study, origin.trial, origin.validation_loss) == ("quick", 0, 10.0)
    assert origin.zero_output_loss == 12.5
    assert (origin.data_hash, origin.split_hash) == (FACTS.data_hash, FACTS.split_hash)
    assert origin.space_hash == space().hash
    assert set(origin.validation_maes) == set(winner.config.targets)
    assert origin.validation_maes["U0"].unit == "meV"
    assert "torch" in origin.versions
    assert "e3nn" not in origin.versions  # the tests' oracle: no run imports it
    winner.write(tmp_path / "best.yaml")
    assert Winner.read(tmp_path / "best.yaml") == winner


def test_the_test_set_decides_only_when_asked(launches: Launches) -> None:
    search = launch_study(launches.store, space(2), None, launches.root, evaluate_test=True)
    first, second = search.next(), search.next()
    assert first and second and first.evaluate_test
    for assignment, test_loss in ((first, 9.0), (second, 8.0)):
        train(search, assignment)
        search.finish(assignment.key, Completion(3, 2, 10.0, test_loss=test_loss))
    study = Study.open(launches.store)
    chosen = [study.winner(), study.winner("validation"), study.winner("test")]
    assert [winner.provenance and winner.provenance.trial for winner in chosen] == [0, 0, 1]
    longer = launches(space(3))
    assignment = longer.next()
    assert assignment is not None and not assignment.evaluate_test
    complete(longer, assignment)
    with pytest.raises(InputError, match="1 of 3 have none"):
        study.winner("test")


def test_no_winner_says_why(launches: Launches) -> None:
    search = launches()
    for failure in (
        DIVERGED,
        BROKEN,
        replace(DIVERGED, message="the loss of step 9 is not finite"),
    ):
        assignment = search.next()
        assert assignment is not None
        search.finish(assignment.key, failure)
    search.next()
    with pytest.raises(HpsearchError) as error:
        Study.open(launches.store).winner()
    assert str(error.value) == (
        "the study 'quick' has no winner: 0 of 3 complete, 1 running, 3 failed; "
        "most frequent failure: the loss of step 7 is not finite"
    )


@BOTH_DATABASES
def test_counts_and_trials(launches: Launches) -> None:
    search = launches()
    first, second = search.next(), search.next()
    assert first and second
    complete(search, first)
    train(search, second, epochs=1)
    study = Study.open(launches.store, "quick")
    assert str(study.counts()) == "1 of 3 complete, 1 running"
    frame = study.trials()
    assert frame["number"].tolist() == [0, 1]
    assert frame["state"].tolist() == ["COMPLETE", "RUNNING"]
    assert frame["best_loss"].tolist() == [10.0, 12.0]
    assert frame["last_loss"].tolist() == [11.0, 12.0]
    assert frame["epochs"].tolist() == [3, 1]
    assert "params_learning_rate" in frame.columns


def test_readers_name_what_there_is(launches: Launches) -> None:
    with pytest.raises(InputError, match="has no study"):
        Study.open(launches.store)
    launches(name="one")
    launches(name="two")
    assert Study.open(launches.store).name == "two"
    with pytest.raises(InputError, match="one, two; got 'three'"):
        Study.open(launches.store, "three")
    assert Study.open(launches.store, "one").trials().empty


@BOTH_DATABASES
def test_a_reader_sees_a_search_in_another_process(launches: Launches, url: str) -> None:
    search = launches()
    with Store.open(url) as store:
        study = Study.open(store)
        for expected in (1, 2, 3):
            assignment = search.next()
            assert assignment is not None
            complete(search, assignment)
            assert study.counts().complete == expected


def _delete(store: Store, number: int) -> None:
    """What a person does with an SQL shell; Optuna has no such call."""
    states = store.trial_states("quick")
    assert states is not None
    trial_id = next(row.trial_id for row in states if row.number == number)
    with store._writer.begin() as connection:
        for table in ("params", "values", "user_attributes", "system_attributes"):
            connection.exec_driver_sql(f"DELETE FROM trial_{table} WHERE trial_id = {trial_id}")
        connection.exec_driver_sql(
            f"DELETE FROM trial_intermediate_values WHERE trial_id = {trial_id}"
        )
        connection.exec_driver_sql(f"DELETE FROM trials WHERE trial_id = {trial_id}")


# --- Files ----------------------------------------------------------------------------------------


def weights_of(assignment: Assignment) -> Path:
    path = Path(assignment.directory) / f"best-00002-{'0' * 16}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@BOTH_DATABASES
def test_the_best_trials_alone_keep_their_weights(launches: Launches) -> None:
    search = launches(space(9))
    files = {}
    while not search.finished:
        assignment = search.next()
        assert assignment is not None
        files[int(assignment.key)] = weights_of(assignment)
        complete(search, assignment)
    # Values are 10 to 16 for trials 0 to 6, then 10 and 11.
    assert {number for number, path in files.items() if path.exists()} == {0, 1, 2, 7, 8}
    files[5].touch()  # as a launch leaves it that dies before it has removed it
    foreign = files[5].parent.parent / "elsewhere" / files[5].name
    foreign.parent.mkdir()
    foreign.touch()
    launches(space(9))
    assert {number for number, path in files.items() if path.exists()} == {0, 1, 2, 7, 8}
    assert foreign.exists()


@pytest.mark.parametrize("kind", ["disk_full", "machine"])
def test_what_is_no_fault_of_the_trial_is_no_verdict(launches: Launches, kind: FailureKind) -> None:
    search = launches()
    assignment = search.next()
    assert assignment is not None
    train(search, assignment, epochs=1)
    with pytest.raises(HpsearchError, match="run 0 of the study 'quick': no space") as caught:
        search.finish(assignment.key, Failure(kind, "no space"))
    assert caught.value.exit_code == 1
    assert launches.states() == {"RUNNING": 1}
    assert "failure" not in launches.trial(0).user_attrs
    again = launches()
    assert again.at_start.resumed == 1
    launches.run_out(again)
    assert launches.states() == {"COMPLETE": 3}


# --- What a reviewer thought of -------------------------------------------------------------------


def test_a_row_put_in_line_with_an_impossible_value_fails_and_the_search_goes_on(
    launches: Launches,
) -> None:
    search = launches(space(1))
    study = optuna.load_study(study_name="quick", storage=launches.store.optuna_storage)
    study.enqueue_trial({"learning_rate": "fast"})
    launches.run_out(search)
    assert launches.states() == {"FAIL": 1, "COMPLETE": 1}
    assert "give no valid configuration" in launches.trial(0).user_attrs["failure_reason"]


@BOTH_DATABASES
def test_epochs_that_a_fresh_start_does_not_repeat_are_forgotten(launches: Launches) -> None:
    """A run that begins anew on another machine may stop earlier, at other numbers."""
    search = launches(space(1))
    assignment = search.next()
    assert assignment is not None
    train(search, assignment, epochs=5)
    later = launches(space(1))
    assignment = later.next()
    assert assignment is not None
    later.started(assignment.key, replace(FACTS, resumed_from=3))
    assert sorted(launches.trial(0).intermediate_values) == [1, 2, 3]
    assert launches.store.epochs()["epoch"].tolist() == [1, 2, 3]
    later.started(assignment.key, FACTS)
    assert launches.trial(0).intermediate_values == {}
    later.epoch(assignment.key, metrics(1, 30.0))
    later.finish(assignment.key, Completion(1, 1, 30.0))
    assert launches.trial(0).value == 30.0


@BOTH_DATABASES
def test_a_forced_launch_gives_up_what_saw_other_molecules(launches: Launches) -> None:
    before = {"data_hash": FACTS.data_hash, "split_hash": FACTS.split_hash}
    search = launches(space(3), molecules=before)
    first, second = search.next(), search.next()
    assert first and second
    complete(search, first)
    train(search, second, epochs=1)
    other = {**before, "split_hash": "t" * 64}
    with pytest.raises(InputError, match="other molecules or another split: split hash: s"):
        launches(space(3), molecules=other)
    forced = launches(space(3), molecules=other, force=True)
    assert forced.forced == [f"split hash: {'s' * 12} -> {'t' * 12}"]
    assert forced.at_start == StartCounts(complete=1, resumed=0, left=2)
    assert "other molecules" in launches.trial(1).user_attrs["failure_reason"]
    launches.store.leave()
    assert "facts" not in {breach.rule for breach in verify(launches.store).breaches}


def test_a_forced_launch_gives_up_what_was_about_to_see_other_molecules(launches: Launches) -> None:
    seen = {"data_hash": FACTS.data_hash, "split_hash": FACTS.split_hash}
    search = launches(space(3), molecules=seen)
    assert search.next() is not None  # whose worker has said nothing yet
    other = {**seen, "split_hash": "t" * 64}
    forced = launches(space(3, train_size=30), molecules=other, force=True)
    assert forced.at_start == StartCounts(complete=0, resumed=0, left=3)
    assert "other molecules" in launches.trial(0).user_attrs["failure_reason"]


def test_a_quote_is_not_of_what_a_forced_launch_trains(launches: Launches) -> None:
    search = launches(space(2))
    search.keep_quote({"trials": 2})
    search.keep_quote({"trials": 3})
    assert Study.open(launches.store, search.name).provenance["quote"] == {"trials": 2}
    forced = launches(space(2, epochs=9), force=True)
    assert Study.open(launches.store, search.name).provenance["quote"] is None
    forced.keep_quote({"trials": 4})
    assert Study.open(launches.store, search.name).provenance["quote"] == {"trials": 4}


def test_a_forced_launch_of_the_same_changes_nothing(launches: Launches) -> None:
    launches.run_out(launches(space(2)))
    assert launches(space(2), force=True).forced == []
    launches.store.leave()
    assert "facts" not in {breach.rule for breach in verify(launches.store).breaches}


def test_a_launch_that_waited_judges_by_what_stands_then(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches.run_out(launches(space(2)))
    begin = Store.begin_experiment

    def another_launch_in_between(store: Store, *arguments: Any) -> Any:
        found = begin(store, *arguments)
        store.update_provenance(found.id, trials_wanted_most=9)
        return found

    monkeypatch.setattr(Store, "begin_experiment", another_launch_in_between)
    launches(space(2))
    experiment = launches.store.experiment("study", "quick")
    assert experiment is not None and experiment.provenance["trials_wanted_most"] == 9


# --- Budgets --------------------------------------------------------------------------------------


def budgeted(trials: int, **limits: Any) -> SearchSpace:
    return space(trials).model_copy(update={"budget": Budget(**limits)})


@BOTH_DATABASES
def test_draws_beyond_the_budget_are_recorded_and_take_no_place(launches: Launches) -> None:
    limit = sorted(count_weights(c.network, len(c.targets)) for c in draw_configs(space(4), 20))[8]
    said: list[str] = []
    search = launches(budgeted(4, max_parameters=limit), say=said.append)
    launches.run_out(search)
    study = Study.open(launches.store)
    table = study.trials()
    refused = table[table["failure"] == "refused"]
    trained = table[table["state"] == "COMPLETE"]
    assert len(trained) == 4
    assert len(refused) > 0
    assert (refused["state"] == "FAIL").all()
    for reason in refused["failure_reason"]:
        assert reason.startswith("refused, over the budget: ")
        assert reason.endswith(f" weights, max_parameters is {limit:,}")
    # Each with the parameters that were refused.
    assert refused["params_batch_size"].notna().all()
    configs = enumerate(draw_configs(space(4), len(table)))
    counts = {n: count_weights(c.network, len(c.targets)) for n, c in configs}
    assert {n for n, count in counts.items() if count > limit} == set(refused["number"])
    counted = study.counts()
    assert (counted.complete, counted.failed, counted.refused) == (4, 0, len(refused))
    assert f"{len(refused)} refused" in str(counted)
    assert said == [
        f"trial {row.number}: {row.failure_reason}" for row in refused.itertuples(index=False)
    ]
    # Made-up epochs are too few and do not add up; of the refused trials nothing is wrong.
    found = verify(launches.store).breaches
    assert {breach.trial for breach in found} == set(trained["number"])
    assert {breach.rule for breach in found} == {"targets", "length"}


def test_a_space_with_nothing_within_its_budget_ends_in_words(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.search.launch.DRAWS_TRIED", 0)
    monkeypatch.setattr("hpsearch.search.work.REFUSALS", 7)
    search = launches(budgeted(2, max_parameters=10))
    assert search.next() is None
    assert search.finished
    assert search.breakdown is not None
    assert search.breakdown.reason.startswith(
        "7 configurations in a row were refused, over the budget;"
    )
    assert search.breakdown.reason.endswith("raise the budget or narrow the space")
    assert Study.open(launches.store).counts().refused == 7


def test_a_budget_that_no_draw_satisfies_is_refused_before_anything_is_stored(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.search.launch.DRAWS_TRIED", 30)
    with pytest.raises(
        InputError,
        match=r"it refuses all of 30 random draws, the lightest with \d[\d,]+ weights, "
        r"max_parameters is 10; raise the budget",
    ):
        launches(budgeted(2, max_parameters=10))
    assert launches.store.experiments().empty
    assert launches.store.trial_states("quick") is None


def test_a_measured_budget_needs_timings(launches: Launches) -> None:
    with pytest.raises(InputError, match="needs timings of this machine, got none"):
        launches(budgeted(2, max_memory="1 GB"))


def test_another_budget_is_another_space(launches: Launches) -> None:
    launches(budgeted(2, max_parameters=400_000))
    with pytest.raises(InputError, match=r"budget.max_parameters: 400000 -> 500000"):
        launches(budgeted(2, max_parameters=500_000))
    assert launches(budgeted(2, max_parameters=500_000), force=True).forced


# --- The time left --------------------------------------------------------------------------------


def test_the_time_left_follows_from_the_epochs(launches: Launches) -> None:
    search = launches(space(4, epochs=5))
    assert read_status(launches.store).seconds_left is None
    first, second = search.next(), search.next()
    assert first is not None
    assert second is not None
    assert read_status(launches.store).seconds_left is None
    train(search, first, epochs=3)
    search.started(second.key, FACTS)
    # Epochs of 2 s, and 5 s beside them. The first place is free in 9 s, the second in 15 s, and
    # each then takes a trial of 15 s.
    assert read_status(launches.store).seconds_left == pytest.approx(30, abs=0.5)
