"""The pages of a search draw the store's numbers."""

from __future__ import annotations

import math

import pytest
from support.commands import PLAIN_QUICK
from support.made_up import run_search

from hpsearch.config.space import Budget, SearchSpace
from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.pages.files import folder, load_page
from hpsearch.results.status import read_status
from hpsearch.results.tables import search_table
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.store import Store, TrialRecord
from hpsearch.terminal.status import ended_rows

TRIALS = 12
"""Trial 0 has diverged; trial k has the loss 1/k."""

PAGES = ("failures", "features", "importance", "parallel", "search_cost")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    with Store.create(url) as store:
        run_search(store, TRIALS)
    return url


@pytest.fixture
def store(url):
    with Store.open(url) as store:
        yield store


def draw(store, name, study=None):
    return load_page(folder() / f"{name}.py").figure(store, study)


def configurations(store):
    runs = store.runs()
    return dict(zip(runs["key"].astype(int), runs["configuration"], strict=True))


def test_scalars_and_vectors_are_the_configurations(store):
    [markers] = draw(store, "features").data
    networks = {k: v["network"] for k, v in configurations(store).items()}
    best_first = range(TRIALS, 0, -1)
    assert list(markers.x) == [networks[k]["featurization_scalars"] for k in best_first]
    assert list(markers.y) == [networks[k]["featurization_vectors"] for k in best_first]
    assert list(markers.customdata) == pytest.approx([1 / k for k in best_first])
    # The ten best have numbers, those of one place together.
    places: dict[tuple[int, int], list[str]] = {}
    for k in range(TRIALS, 2, -1):
        place = networks[k]["featurization_scalars"], networks[k]["featurization_vectors"]
        places.setdefault(place, []).append(str(k))
    assert [text for text in markers.text if text] == [", ".join(each) for each in places.values()]
    assert list(markers.text[-2:]) == ["", ""]


def test_costs_are_weights_and_seconds(store):
    by_weights, by_seconds = draw(store, "search_cost").data
    assert list(by_weights.x) == [4321] * TRIALS  # as made up
    assert list(by_seconds.x) == [5.0] * TRIALS  # two epochs of 2.5 s
    for markers in (by_weights, by_seconds):
        assert list(markers.y) == pytest.approx([1 / k for k in range(TRIALS, 0, -1)])
        assert list(markers.customdata) == list(range(TRIALS, 0, -1))


def test_failures_are_counted_by_reason(store):
    [bars] = draw(store, "failures").data
    assert list(bars.x) == [1]
    assert list(bars.y) == ["diverged: the loss is not finite at step # | x"]
    assert list(bars.customdata) == ["0"]


def test_refused_draws_are_called_so_and_counted_by_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("hpsearch.search.work.REFUSALS", 3)
    # The launch would refuse such a budget; a study of an earlier version may have it.
    monkeypatch.setattr("hpsearch.search.launch.DRAWS_TRIED", 0)
    space = SearchSpace.parse(PLAIN_QUICK, "quick.yaml")
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        budget = Budget(max_parameters=10)
        search = launch_study(store, space.model_copy(update={"budget": budget}), "tight", tmp_path)
        assert search.next() is None
        [bars] = draw(store, "failures").data
        assert (list(bars.x), list(bars.y)) == ([3], ["refused: above max_parameters"])
        assert list(search_table(Study.open(store))["state"]) == ["refused"] * 3
        _, *ended = ended_rows(read_status(store))
        assert [state for _, state, *_ in ended] == ["refused"] * 3


def test_parallel_coordinates_for_the_sum_and_for_every_target(store):
    figure = draw(store, "parallel")
    assert [trace.name for trace in figure.data] == [
        "all targets",
        *(target(name).symbol for name in TARGET_NAMES),
    ]
    assert [trace.visible for trace in figure.data] == [True] + [False] * len(TARGET_NAMES)
    whole, first, *_ = figure.data
    logs = [math.log10(1 / k) for k in range(1, TRIALS + 1)]
    assert list(whole.dimensions[-1]["values"]) == pytest.approx(logs)
    # Made up: every target has a twelfth of the sum.
    of_target = [log - math.log10(len(TARGET_NAMES)) for log in logs]
    assert list(first.dimensions[-1]["values"]) == pytest.approx(of_target)
    axes = {axis.label: axis for axis in whole.dimensions}
    drawn = configurations(store)
    neurons = [drawn[k]["network"]["radial_mlp_neurons"] for k in range(1, TRIALS + 1)]
    assert list(axes["radial mlp neurons"]["values"]) == neurons
    bases = axes["radial basis"]
    names = [bases.ticktext[int(number)] for number in bases["values"]]
    assert names == [drawn[k]["network"]["radial_basis"] for k in range(1, TRIALS + 1)]
    [menu] = figure.layout.updatemenus
    assert [sum(button.args[0]["visible"]) for button in menu.buttons] == [1] * 13


def test_importances_are_parts_of_a_whole(store):
    figure = draw(store, "importance")
    [heat] = figure.data
    assert list(heat.y) == ["all targets", *(target(name).symbol for name in TARGET_NAMES)]
    assert len(heat.x) == 12
    for row in heat.z:
        assert sum(row) == pytest.approx(100, abs=len(row) / 2)
        assert min(row) >= 0
    assert "mostly chance" in figure.layout.title.text


def test_a_parameter_that_decides_is_found():
    optuna = pytest.importorskip("optuna")
    from hpsearch.search.study import importances

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        trial = study.ask()
        for name in ("deciding", "idle"):
            trial.suggest_float(name, 0.0, 1.0)
        study.tell(trial, 0.0)
    trials = study.get_trials()
    losses = {"one": {t.number: t.params["deciding"] for t in trials}, "few": {0: 1.0}}
    records = [
        TrialRecord(t.number, "COMPLETE", 0.0, 0, None, None, None, None, {}, t.params)
        for t in trials
    ]
    table = importances(records, {t.number: t.distributions for t in trials}, losses)
    assert list(table.index) == ["one"]
    assert list(table.columns) == ["deciding", "idle"]
    assert table.loc["one", "deciding"] > 0.8


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_drawn_where_there_is_nothing(tmp_path, name):
    with Store.create(f"sqlite:///{tmp_path}/empty.db") as store:
        assert draw(store, name) is None
        assert draw(store, name, "unknown") is None
