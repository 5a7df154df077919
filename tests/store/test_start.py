"""Studies that start with known configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial
from support.launches import BOTH_DATABASES, Launches, space, train
from support.store_examples import FACTS, new_url

from hpsearch.config.export import Winner, find_configuration
from hpsearch.config.parameters import split_components
from hpsearch.config.space import SearchSpace
from hpsearch.config.start import Start, other_terms, parameters_of, read_starts
from hpsearch.results.status import read_status
from hpsearch.results.tables import search_table
from hpsearch.runs.messages import Failure
from hpsearch.search.launch import launch_study
from hpsearch.search.quote import draw_configs
from hpsearch.search.start import KnownTrial, known_trials, start_lines
from hpsearch.search.study import Study
from hpsearch.search.verify import verify
from hpsearch.system.errors import InputError
from hpsearch.system.installation import find_space

SHIPPED = ("quick", "table3", "table3_log")
PAPER = find_configuration("paper_l1net")
TABLE3 = SearchSpace.load(find_space("table3"))


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(getattr(request, "param", "sqlite"), tmp_path, request)


# --- From a configuration to parameters -----------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_parameters_of_a_draw_give_the_same_network(name: str) -> None:
    """Also where components and fraction round to scalars and vectors that add up to more."""
    drawn_from = SearchSpace.load(find_space(name))
    configs = draw_configs(drawn_from, 200)
    for config in configs:
        again = drawn_from.suggest(FixedTrial(parameters_of(drawn_from, config)))
        assert again.network == config.network
        assert again.training.learning_rate == config.training.learning_rate
        assert again.training.batch_size == config.training.batch_size


@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.396, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("components", [80, 81, 144])
def test_widths_beyond_the_range_come_from_components_within_it(
    components: int, fraction: float
) -> None:
    """144 components with the fraction 0.4 round to 58 scalars and 29 vectors, which are 145."""
    scalars, vectors = split_components(components, fraction)
    network = PAPER.config.network.model_copy(
        update={"featurization_scalars": scalars, "featurization_vectors": vectors}
    )
    config = PAPER.config.model_copy(update={"network": network})
    found = parameters_of(TABLE3, config)
    assert TABLE3.suggest(FixedTrial(found)).network == network


def test_the_paper_s_network_is_in_table_3() -> None:
    found = parameters_of(TABLE3, PAPER.config)
    assert found["featurization_components"] == 144
    assert TABLE3.suggest(FixedTrial(found)).network == PAPER.config.network
    assert list(other_terms(TABLE3, PAPER.config)) == ["epochs 10 instead of 200"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 26}, "batch_size must be from 8 to 25, got 26"),
        ({"radial_basis": "x"}, "radial_basis must be one of cosine, gaussian, bessel, got x"),
        ({"featurization_blocks": 6}, "featurization_blocks must be from 2 to 5, got 6"),
        ({"featurization_vectors": 40}, "featurization_components must be from 80 to 144, got 177"),
        ({"residual": False}, "residual must be true, as the space fixes it, got false"),
        ({"learning_rate": 0.31}, "learning_rate must be from 1.0e-6 to 0.3, got 0.31"),
    ],
)
def test_a_field_outside_the_space_is_named_with_its_range(
    changes: dict[str, object], message: str
) -> None:
    config = PAPER.config
    sections = {}
    for name in ("network", "training"):
        section = getattr(config, name)
        mine = {field: value for field, value in changes.items() if hasattr(section, field)}
        sections[name] = section.model_copy(update=mine)
    with pytest.raises(ValueError) as caught:
        parameters_of(TABLE3, config.model_copy(update=sections))
    assert str(caught.value) == message


# --- What a file may say --------------------------------------------------------------------------


def with_start(text: str) -> SearchSpace:
    written = find_space("quick").read_text("utf-8")
    return SearchSpace.parse(f"{written}\nstart_with:\n{text}", "a.yaml")


def test_entries_do_not_change_the_hash() -> None:
    plain = SearchSpace.parse(find_space("quick").read_text("utf-8"), "a.yaml")
    started = with_start("  - paper_l1net\n  - {study: first, best: 3, repeats: 2}\n")
    assert started.hash == plain.hash
    assert started.start_with == (
        Start(configuration="paper_l1net"),
        Start(study="first", best=3, repeats=2),
    )
    assert SearchSpace.from_provenance(started.to_provenance()).start_with == started.start_with


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  - {}", "start_with[0] must have either configuration or study, got none"),
        (
            "  - {configuration: a, study: b, best: 1}",
            "start_with[0] must have either configuration or study, got both",
        ),
        ("  - {study: b}", "start_with[0] must have either best or trials beside study, got none"),
        (
            "  - {study: b, best: 1, trials: [3]}",
            "start_with[0] must have either best or trials beside study, got both",
        ),
        ("  - {configuration: a, best: 1}", "start_with[0] must have best only beside study"),
        ("  - {study: b, best: 0}", "start_with[0].best must be at least 1, got 0"),
        ("  - {study: b, trials: [-1]}", "start_with[0].trials[0] must be at least 0, got -1"),
        ("  - {study: b, trials: []}", "start_with[0].trials must have at least 1 entries"),
        ("  - {study: b, best: 1, repeats: 101}", "repeats must be at most 100, got 101"),
        ("  - 7", "start_with[0] must be a mapping"),
        ("  - {studie: b}", "start_with[0].studie must be a known key, got studie"),
    ],
)
def test_a_bad_entry_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        with_start(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("a.yaml:")


def test_files_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    PAPER.write(tmp_path / "mine.yaml")
    listed = tmp_path / "list.yaml"
    listed.write_text("start_with:\n  - mine.yaml\n  - paper_l1net\n")
    first, second = read_starts(str(listed))
    assert first.configuration == str(tmp_path / "mine.yaml")
    assert second.configuration == "paper_l1net"
    assert read_starts(str(tmp_path / "mine.yaml"))[0].configuration == str(tmp_path / "mine.yaml")


# --- Launches -------------------------------------------------------------------------------------


def known(*configurations: int, repeats: int = 1) -> list[KnownTrial]:
    """Draws of the quick space, as known configurations."""
    drawn = draw_configs(space(), 10)
    return [
        KnownTrial(
            f"draw {n}", f"key {n}", parameters_of(space(), drawn[n]), drawn[n], repeats, False
        )
        for n in configurations
    ]


@BOTH_DATABASES
def test_known_configurations_come_first_and_once(launches: Launches) -> None:
    said: list[str] = []
    search = launches(space(4), known=known(7, 3), say=said.append)
    assert said == ["starts with: draw 7", "starts with: draw 3"]
    first = search.next()
    assert first is not None
    assert first.config.network == draw_configs(space(), 8)[7].network
    train(search, first, epochs=1)
    # A launch that dies and comes back enqueues nothing again, and loses nothing.
    said.clear()
    later = launches(space(4), known=known(7, 3), say=said.append)
    assert said == []
    launches.run_out(later)
    assert launches.states() == {"COMPLETE": 4}
    origins = launches.store.attribute_values("quick", "origin")
    assert origins == {0: "draw 7", 1: "draw 3"}
    networks = [launches.trial(n).user_attrs["config"]["network"] for n in range(4)]
    draws = [config.network.model_dump() for config in draw_configs(space(), 8)]
    assert networks[:2] == [draws[7], draws[3]]
    assert networks[2:] == draws[2:4], "the trials after them are those of the sampler"
    # The made-up epochs are few, and their targets do not sum to the losses.
    assert {breach.rule for breach in verify(launches.store).breaches} <= {"targets", "length"}


def test_repeats_differ_in_the_seed_alone(launches: Launches) -> None:
    search = launches(space(3), known=known(5, repeats=3))
    launches.run_out(search)
    configs = [launches.trial(n).user_attrs["config"] for n in range(3)]
    seeds = {config["training"].pop("seed") for config in configs}
    assert len(seeds) == 3
    assert configs[0] == configs[1] == configs[2]
    # More repeats later: only the new ones are enqueued.
    again = launches(space(4), known=known(5, repeats=4))
    launches.run_out(again)
    assert list(launches.store.attribute_values("quick", "origin")) == [0, 1, 2, 3]


def test_a_failed_one_is_not_drawn_again(launches: Launches) -> None:
    search = launches(space(2), known=known(5))
    assignment = search.next()
    assert assignment is not None
    search.started(assignment.key, FACTS)
    search.finish(assignment.key, Failure("diverged", "not finite"))
    again = launches(space(2), known=known(5))
    launches.run_out(again)
    assert launches.states() == {"FAIL": 1, "COMPLETE": 2}
    assert list(launches.store.attribute_values("quick", "origin")) == [0]


@BOTH_DATABASES
def test_a_launch_that_dies_at_the_enqueuing_enqueues_all_or_none(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three fails: the first must not stay alone."""
    enqueue, calls = optuna.Study.enqueue_trial, []

    def failing(study: optuna.Study, *given: Any, **options: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError("the process dies")
        enqueue(study, *given, **options)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", failing)
    with pytest.raises(RuntimeError, match="the process dies"):
        launches(space(3), known=known(1, 2, 3))
    assert launches.states() == {}
    search = launches(space(3), known=known(1, 2, 3))
    launches.run_out(search)
    assert launches.store.attribute_values("quick", "origin") == {
        0: "draw 1",
        1: "draw 2",
        2: "draw 3",
    }


def test_no_more_are_enqueued_than_the_study_has_trials(launches: Launches) -> None:
    with pytest.raises(InputError) as caught:
        launches(space(2), known=known(1, 2, 3))
    assert str(caught.value) == (
        "the study 'quick' must have a trial for each of 3 known configurations, got 2 of 2 trials "
        "left; use --trials 3"
    )
    assert launches.store.experiment("study", "quick") is None
    launches.run_out(launches(space(2), known=known(1)))
    with pytest.raises(InputError, match=r"for each of 1 known configurations, got 0 of 2 .* 3$"):
        launches(space(2), known=known(1, 4))
    launches.run_out(launches(space(3), known=known(1, 4)))
    assert launches.states() == {"COMPLETE": 3}


# --- Sources --------------------------------------------------------------------------------------


def test_the_best_trials_of_a_study_start_another(launches: Launches) -> None:
    launches.run_out(launches(space(5)))
    entry = Start(study="quick", best=2)
    trials = known_trials(space(), [entry], launches.store)
    assert [trial.origin for trial in trials] == ["quick, trial 0", "quick, trial 1"]
    other = launch_study(launches.store, space(4), "other", launches.root, known=trials)
    launches.run_out(other)
    for number in range(2):
        config = launches.trial(number, "other").user_attrs["config"]
        assert config["network"] == launches.trial(number).user_attrs["config"]["network"]
    # Another trial is the best now: the entry stays as it was.
    changed = known_trials(space(), [Start(study="quick", trials=(3, 4))], launches.store)
    changed = [
        KnownTrial(t.origin, trials[0].key, t.parameters, t.config, 1, True) for t in changed
    ]
    launch_study(launches.store, space(6), "other", launches.root, known=changed)
    assert len(launches.store.attribute_values("other", "origin")) == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Start(study="quick", best=9), "must have 9 complete trials, got 2; ask for fewer"),
        (Start(study="quick", trials=(7,)), "trial 7 must have a configuration in the study"),
        (Start(study="nothing", best=1), "nothing"),
        (Start(configuration="nowhere.yaml"), "which is no file"),
        (Start(configuration="quick"), "must be an exported configuration"),
        (Start(configuration="paper_l1net"), "paper_l1net must be within the space: "),
    ],
)
def test_a_source_that_does_not_serve_is_named(
    launches: Launches, entry: Start, message: str
) -> None:
    launches.run_out(launches(space(2)))
    with pytest.raises(InputError) as caught:
        known_trials(space(), [entry], launches.store)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tables_say_where_a_trial_starts_from(launches: Launches) -> None:
    search = launches(space(3), known=known(2))
    running = search.next()
    assert running is not None
    train(search, running, epochs=1)
    assert read_status(launches.store, "quick").origins == {"0": "draw 2"}
    later = launches(space(3), known=known(2))
    launches.run_out(later)
    study = Study.open(launches.store, "quick")
    assert search_table(study)["origin"].tolist()[0] == "draw 2"
    assert search_table(study)["origin"].isna().tolist() == [False, True, True]
    rows = read_status(launches.store, "quick").rows
    assert [row["origin"] for row in rows] == ["draw 2", None, None]


def test_an_export_is_named_by_its_study_until_it_is_edited(
    launches: Launches, tmp_path: Path
) -> None:
    launches.run_out(launches(space(2)))
    winner = Study.open(launches.store, "quick").winner()
    winner.write(tmp_path / "best.yaml")
    (trial,) = known_trials(space(), read_starts(str(tmp_path / "best.yaml")), None)
    assert trial.origin == "quick, trial 0"
    edited = winner.model_copy(update={"name": "mine", "provenance": None})
    assert isinstance(edited, Winner)
    edited.write(tmp_path / "mine.yaml")
    (trial,) = known_trials(space(), read_starts(str(tmp_path / "mine.yaml")), None)
    assert trial.origin == "mine"
    longer = space(epochs=9)
    assert list(start_lines(longer, [trial])) == ["starts with: mine (here epochs 9 instead of 7)"]
