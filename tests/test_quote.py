"""The quote of a search: by simulation, and as a person asks for it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from support.commands import HPSEARCH, LAUNCH, PLAIN_QUICK, QUICK, hpsearch, run
from support.made_up import FACTS, metrics

from hpsearch.cli import program
from hpsearch.config.space import Budget, SearchSpace
from hpsearch.cost.accuracy import MeasuredTrial, QuoteAccuracy
from hpsearch.cost.model import CostModel
from hpsearch.cost.timings import TimedConfig, Timing
from hpsearch.data import qm9
from hpsearch.report.search_sections import search_sections
from hpsearch.results.status import read_status
from hpsearch.runs.messages import Completion
from hpsearch.search.costs import SearchCosts
from hpsearch.search.launch import launch_study
from hpsearch.search.quote import (
    Quote,
    choose_to_time,
    draw_configs,
    is_covered,
    shorter_searches,
    usual_epochs,
)
from hpsearch.search.study import Study
from hpsearch.search.terms import first_terms, require_same_space
from hpsearch.search.work import Search
from hpsearch.store import Store
from hpsearch.system.errors import HpsearchError, InputError
from hpsearch.system.installation import find_space
from hpsearch.terminal.quotes import accuracy_lines, search_quote_lines, short_quote_line
from hpsearch.terminal.status import status_lines

SPACE = SearchSpace.parse(PLAIN_QUICK, "quick.yaml").with_overrides(trials=10, sampler="random")


@pytest.fixture(scope="module")
def model() -> CostModel:
    """Of a machine on which every step takes 0.1 s and a molecule a millisecond."""
    timing = Timing(0.1, 1e-3, 2.0, 10**9, 1, 1, 1)
    flat = CostModel(
        [TimedConfig(config, timing) for config in choose_to_time(draw_configs(SPACE, 50))],
        qm9.load(),
    )
    flat._rates = {name: rate * 0 for name, rate in flat._rates.items()}
    flat._rates["memory"][-1] = 1e9
    flat._rates["start"][0] = 2.0
    flat._rates["step"][2] = 0.1 / 14
    flat.errors = (0.0,)
    return flat


def test_with_a_random_sampler_the_very_trials_are_quoted(model: CostModel) -> None:
    configs = draw_configs(SPACE, SPACE.trials)
    runs = [model.timing(config).run_seconds(7, tested=False) for config in configs]
    quote = Quote.of(SPACE, model, places=1, memory=None)
    assert quote.seconds == pytest.approx((sum(runs),) * 3)
    # Two have a verdict: the others are quoted.
    quote = Quote.of(SPACE, model, places=1, memory=None, done=2)
    assert quote.seconds[1] == pytest.approx(sum(runs[2:]))
    assert quote.trials == 8


def test_core_hours_and_gpu_hours_do_not_depend_on_the_trials_side_by_side(
    model: CostModel,
) -> None:
    configs = draw_configs(SPACE, SPACE.trials)
    hours = sum(model.timing(c).run_seconds(7, tested=False) for c in configs) / 3600
    on_cores = Quote.of(SPACE, model, places=4, memory=None, cpus=2.0)
    assert on_cores.to_dict()["core_hours"] == pytest.approx(2 * hours)
    on_gpus = Quote.of(SPACE, model, places=4, memory=None, cpus=2.0, gpus=0.5)
    assert on_gpus.to_dict()["gpu_hours"] == pytest.approx(hours / 2)
    assert "core_hours" not in on_gpus.to_dict()
    [line] = [line for line in search_quote_lines(on_cores) if "core-hours" in line]
    assert float(line.split()[1]) == pytest.approx(2 * hours, rel=0.06)


def test_errors_of_the_model_widen_the_interval(model: CostModel) -> None:
    wide = CostModel(model.timed, qm9.load())
    wide._rates, wide.errors = model._rates, (-0.3, 0.0, 0.4)
    low, middle, high = Quote.of(SPACE, wide, places=2, memory=None).seconds
    exact = Quote.of(SPACE, model, places=2, memory=None).seconds[1]
    assert low < 0.9 * exact < middle < 1.2 * exact < high


def test_what_does_not_fit_is_counted(model: CostModel) -> None:
    assert Quote.of(SPACE, model, places=2, memory=4 * 10**9).too_large == 0
    assert Quote.of(SPACE, model, places=2, memory=10**9).too_large == 1
    assert Quote.of(SPACE, model, places=2, memory=None).too_large is None


def test_where_every_draw_is_refused_that_is_said_and_no_figures(model: CostModel) -> None:
    tight = SPACE.model_copy(update={"budget": Budget(max_parameters=1)})
    quote = Quote.of(tight, model, places=1, memory=None)
    why = "all 200 sampled configurations exceed the budget"
    assert short_quote_line(quote) == f"estimate: none, because {why}"
    _, budget = search_quote_lines(quote)
    assert budget == f"  budget    {why}"
    assert quote.to_dict()["seconds"] is None


@pytest.mark.parametrize(("count", "timed"), [(1, 1), (3, 3), (8, 8), (20, 8)])
def test_no_configuration_is_timed_twice(count: int, timed: int) -> None:
    configs = draw_configs(SPACE, count)
    found = choose_to_time([*configs, *configs[:2]])
    assert len(found) == len({config.fingerprint for config in found}) == timed


def test_the_disk_holds_the_live_trials_and_the_best(model: CostModel) -> None:
    quote = Quote.of(SPACE, model, places=2, memory=None)
    assert quote.disk_bytes == max(quote.weights) * (2 * 32 + 5 * 4)


def test_a_dry_run_quotes_what_a_launch_would_find_missing(
    model: CostModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPSEARCH_STORAGE", raising=False)
    monkeypatch.setattr(SearchCosts, "measured", lambda costs, *_: replace(costs, model=model))
    (tmp_path / "storage").mkdir()
    (tmp_path / "quick.yaml").write_text(PLAIN_QUICK)

    def dry_run(*options: str) -> str:
        program.cli.main(["launch", "quick.yaml", *options, "--dry-run"], standalone_mode=False)
        return capsys.readouterr().out

    assert "  done " not in dry_run()
    assert not list((tmp_path / "storage").iterdir())
    with Store.create("sqlite:///storage/hpsearch.db") as store:
        search = launch_study(store, SearchSpace.load("quick.yaml"))
        for _ in range(3):
            trial = search.next()
            search.started(trial.key, FACTS)
            search.epoch(trial.key, metrics(1, trial.config))
            search.finish(trial.key, Completion(1, 1, 1.0))
    # The made-up molecules are not this machine's.
    with pytest.raises(InputError, match="launched with other molecules"):
        dry_run()
    said = dry_run("--force")
    assert "  done      3 of 10\n  total     7 trials take " in said
    with pytest.raises(InputError, match=r"another space: training\.epochs"):
        dry_run("--epochs", "3")
    assert json.loads(dry_run("--force", "--json"))["done"] == 3
    done = dry_run("--force", "--trials", "3")
    assert "3 of 3 trials are done, so a launch has nothing to train" in done
    assert "  done " not in dry_run("--study", "other")


def test_the_quote_for_scripts(model: CostModel) -> None:
    quote = Quote.of(SPACE, model, places=2, memory=None)
    figures = json.loads(json.dumps(quote.to_dict()))
    assert figures["trials"] == 10
    assert figures["draws"] == 200
    assert figures["weights"]["least"] == min(quote.weights)
    assert figures["seconds"]["middle"] == quote.seconds[1]
    assert figures["memory_bytes"]["most"] == pytest.approx(1e9)


def test_options_that_bring_it_down(model: CostModel) -> None:
    large = SPACE.with_overrides(train_size=50_000, trials=40)
    whole = Quote.of(large, model, places=1, memory=None).seconds[1]
    ways = dict(shorter_searches(large, model, 1))
    assert set(ways) == {"--train-size 10000", "--epochs 3", "--trials 10"}
    assert ways["--train-size 10000"] == pytest.approx(whole / 5, rel=0.1)
    assert ways["--epochs 3"] == pytest.approx(whole * 3 / 7, rel=0.1)
    assert ways["--trials 10"] == pytest.approx(whole / 4, rel=0.2)


def test_of_a_study_that_is_in_the_store_only_what_its_space_allows_is_offered(
    model: CostModel,
) -> None:
    large = SPACE.with_overrides(train_size=50_000, trials=40)
    fresh = dict(shorter_searches(large, model, 1))
    ways = dict(shorter_searches(large, model, 1, done=5, launched=True))
    assert set(ways) == {
        "--train-size 10000 --study NAME",
        "--epochs 3 --study NAME",
        "--trials 10",
    }
    # Another study begins anew.
    assert ways["--epochs 3 --study NAME"] == fresh["--epochs 3"]
    assert ways["--trials 10"] == pytest.approx(fresh["--trials 10"] / 2, rel=0.2)
    assert "--trials 10" not in dict(shorter_searches(large, model, 1, done=10, launched=True))
    # Without another name it is refused, in words that say what to type.
    stored = first_terms(large)
    require_same_space("quick", stored, large.with_overrides(trials=10), force=False)
    with pytest.raises(InputError, match="or run the same command with --study NAME"):
        require_same_space("quick", stored, large.with_overrides(epochs=3), force=False)


def test_a_measured_budget_is_not_held_by_timings_of_smaller_networks(
    model: CostModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = SearchSpace.load(find_space("table3"))
    for budget in (Budget(max_memory="64 GB"), Budget(max_epoch_seconds=1e-3)):
        limited = large.model_copy(update={"budget": budget})
        quote = Quote.of(limited, model, places=1, memory=None)
        # With the second limit the model refuses every draw, and knows none of them.
        assert bool(quote.configs) == (budget.max_memory is not None)
        assert not is_covered(limited, quote, model)
    known = SPACE.model_copy(update={"budget": Budget(max_epoch_seconds=1e-3)})
    assert is_covered(known, Quote.of(known, model, places=1, memory=None), model)

    # A launch times the space's own, before it writes anything.
    def measure(costs: SearchCosts, *_: Any) -> SearchCosts:
        raise HpsearchError("they are timed")

    def create(url: str) -> Any:
        raise AssertionError("nothing was timed")

    monkeypatch.setattr(SearchCosts, "measured", measure)
    monkeypatch.setattr(Store, "create", create)
    monkeypatch.setattr(CostModel, "from_cache", lambda *_: model)
    monkeypatch.chdir(tmp_path)
    text = find_space("table3").read_text()
    Path("wide.yaml").write_text(
        text.replace("\nparameters:", "\nbudget: {max_memory: 64 GB}\n\nparameters:")
    )
    with pytest.raises(HpsearchError, match="they are timed"):
        program.cli.main(["launch", "wide.yaml"], standalone_mode=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "wide.yaml"]


def test_the_epochs_of_a_space_that_searches_them(model: CostModel) -> None:
    assert usual_epochs(SPACE) == 7
    text = re.sub(r"\n  epochs: \d+", "", PLAIN_QUICK)
    text = text.replace("parameters:", "parameters:\n  epochs: {type: int, low: 4, high: 8}")
    space = SearchSpace.parse(text, "epochs.yaml").with_overrides(trials=4)
    assert usual_epochs(space) == pytest.approx(6, abs=0.5)
    assert "--epochs 3" in dict(shorter_searches(space, model, 1))
    assert usual_epochs(space.with_overrides(epochs=2)) == 2


def taken(quoted: float | None, factor: float, memory: float | None = None) -> MeasuredTrial:
    """A trial of ten epochs that took ``1 / factor`` of a second where ``quoted`` was said."""
    bytes_taken = None if memory is None else int(10**9 / memory)
    return MeasuredTrial(
        10 / factor, 1 / factor, bytes_taken, quoted, None if quoted is None else 10**9
    )


def test_errors_are_the_medians_over_the_trials_that_were_quoted() -> None:
    trials = [taken(1.0, 1.1, 0.8), taken(1.0, 0.5, 1.4), taken(1.0, 1.0), taken(None, 9.0, 9.0)]
    accuracy = QuoteAccuracy.of(None, trials, 0.0)
    assert accuracy is not None
    assert accuracy.trials == 3
    assert accuracy.epoch_error == pytest.approx(0.1)
    assert accuracy.memory_error == pytest.approx(0.3)
    # Of the hours nothing was said.
    assert accuracy.hours_error is None
    assert str(accuracy) == (
        "estimate check (median of 3 trials): time per epoch off by 10 %, memory off by 30 %"
    )
    assert QuoteAccuracy.of(None, trials[3:], 0.0) is None


def test_hours_are_compared_where_all_trials_of_the_quote_are_complete() -> None:
    quote = {
        "done": 0,
        "trials": 3,
        "run_seconds": {"low": 3000.0, "middle": 3600.0, "high": 4500.0},
        "start_seconds": 100.0,
    }
    trials = [MeasuredTrial(seconds, 1.0, None, 1.12) for seconds in (1000.0, 1500.0, 1200.0)]
    accuracy = QuoteAccuracy.of(quote, trials, 600.0)
    epoch, hours = accuracy_lines(accuracy)
    assert epoch == (
        "estimate check (median of 3 trials): time per epoch off by 12 %; total 10 % too low"
    )
    # With three starts, and without the failed trials' time, which no quote holds.
    assert hours == (
        "sum of all trials: estimated 60 min (50 min to 75 min), in fact 67 min; "
        "failed trials took 10 min more"
    )
    assert accuracy is not None
    assert accuracy.to_dict()["hours"] == pytest.approx(-0.1)
    assert str(accuracy) == epoch
    for other in (quote | {"trials": 4}, quote | {"done": 1}, quote | {"run_seconds": None}):
        accuracy = QuoteAccuracy.of(other, trials, 0.0)
        assert accuracy is not None and accuracy.hours_error is None
    assert list(accuracy_lines(None)) == []


def test_the_quote_stays_with_the_study_and_is_held_over_all_launches(
    model: CostModel, tmp_path: Path
) -> None:
    def launch(trials: int) -> Search:
        space = SPACE.with_overrides(trials=trials)
        search = launch_study(store, space, "quoted", tmp_path, model=model)
        search.keep_quote(Quote.of(space, model, 1, None, done=search.at_start.complete).to_dict())
        while (trial := search.next()) is not None:
            search.started(trial.key, FACTS)
            for epoch in (1, 2):
                # Each takes 2.5 s.
                search.epoch(trial.key, metrics(epoch, trial.config))
            search.finish(trial.key, Completion(2, 2, 1.0, peak_memory_bytes=2 * 10**9))
        return search

    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        launch(2)
        seconds = [model.timing(config).epoch_seconds for config in draw_configs(SPACE, 3)]
        accuracy = Study.open(store).quote_accuracy()
        assert accuracy is not None and accuracy.hours_error is not None
        launch(3)
        accuracy = Study.open(store).quote_accuracy()
        assert accuracy is not None
        assert accuracy.trials == 3
        assert accuracy.epoch_error == pytest.approx(median(abs(s / 2.5 - 1) for s in seconds))
        assert accuracy.memory_error == pytest.approx(0.5)
        # Of two trials were the hours that it was launched with.
        assert Study.open(store).provenance["quote"]["trials"] == 2
        assert accuracy.hours_error is None
        found = read_status(store)
        assert str(accuracy) in list(status_lines(found, "here", "hpsearch status"))
        assert found.to_dict()["quote_error"] == accuracy.to_dict()
        said = [remark for part in search_sections(Study.open(store)) for remark in part.remarks]
        assert f"{str(accuracy).capitalize()}." in said


# --- As a person asks for it ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a cache of its own that has the molecules and no timings."""
    qm9.load()
    folder = tmp_path_factory.mktemp("quote")
    cache = folder / "cache"
    cache.mkdir()
    for each in qm9.cache_directory().iterdir():
        if each.name != "timings":
            (cache / each.name).symlink_to(each)
    return folder


@pytest.fixture
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSEARCH_CACHE", str(folder / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_quote_is_asked_for_kept_printed_and_held_against_the_end(folder: Path) -> None:
    before = hpsearch(folder, *LAUNCH, "--trials", "1", "--study", "before")
    assert "estimate: none yet, because nothing was timed on this machine" in before
    assert "estimate check (median" not in before
    stored = (folder / "storage" / "hpsearch.db").stat().st_mtime_ns

    said = hpsearch(folder, *LAUNCH, "--dry-run")
    timed = re.findall(r"weights, .* ms per step, .* per epoch, .* GB$", said, re.MULTILINE)
    assert len(timed) == 8
    assert "estimate from 8 timed and 200 sampled configurations (typical error " in said
    assert re.search(
        r"^  total     9 trials take .* \(.* to .*\), \d+ at a time", said, re.MULTILINE
    )
    assert said.endswith("nothing was trained or written; leave out --dry-run to start\n")
    assert (folder / "storage" / "hpsearch.db").stat().st_mtime_ns == stored

    after = hpsearch(folder, *LAUNCH, "--trials", "2", "--study", "after")
    assert re.search(r"^estimate: 2 trials take .*; up to .* GB per trial$", after, re.MULTILINE)
    took = re.search(
        r"^estimate check \(median of 2 trials\): time per epoch off by \d+ %, "
        r"memory off by \d+ %; total \d+ % too (high|low)\n"
        r"sum of all trials: estimated .* to .*, in fact \S+ \w+$",
        after,
        re.MULTILINE,
    )
    assert took, after


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_json_belongs_to_a_dry_run(folder: Path) -> None:
    done = run(folder, HPSEARCH, *LAUNCH, "--json")
    assert done.returncode == 2
    assert "--json must come with --dry-run" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_measured_budget_refuses_by_the_timings_that_are_kept(folder: Path) -> None:
    """Of the test above."""
    text = QUICK.replace("\nparameters:", "\nbudget: {max_epoch_seconds: 0.0001}\n\nparameters:")
    (folder / "tight.yaml").write_text(text)
    done = run(
        folder, HPSEARCH, "launch", "tight.yaml", *LAUNCH[2:], "--trials", "1", "--study", "tight"
    )
    assert done.returncode == 2
    assert "which are measured once" not in done.stdout
    assert re.fullmatch(
        r"hpsearch: the budget must allow some configurations of the space; it refuses all of "
        r"1,000 random draws, the lightest with about [^;]* s an epoch, max_epoch_seconds is "
        r"0.0001; raise the budget or narrow the space\n",
        done.stderr,
    )
    assert "tight" not in hpsearch(folder, "status", "--json")
    assert "'tight'" in run(folder, HPSEARCH, "status", "tight").stderr


@pytest.mark.slow
@pytest.mark.acceptance
def test_a_measured_budget_is_timed_first_and_a_quote_is_for_scripts_too(folder: Path) -> None:
    own = folder / "empty"
    own.mkdir()
    for each in (folder / "cache").iterdir():
        if each.is_symlink():
            (own / each.name).symlink_to(each.resolve())
    text = QUICK.replace("\nparameters:", "\nbudget: {max_memory: 64 GB}\n\nparameters:")
    (folder / "wide.yaml").write_text(text)
    command = [HPSEARCH, "launch", "wide.yaml", *LAUNCH[2:], "--trials", "1", "--study", "wide"]
    done = run(folder, "env", f"HPSEARCH_CACHE={own}", *command)
    assert done.returncode == 0, done.stderr
    said = "the budget needs timings of this space on this machine, which are measured once:"
    assert said in done.stdout
    assert list((own / "timings").iterdir())
    quote = json.loads(hpsearch(folder, *LAUNCH, "--dry-run", "--json"))
    assert quote["trials"] == 9
    assert quote["draws"] == 200
    assert quote["seconds"]["low"] <= quote["seconds"]["middle"] <= quote["seconds"]["high"]
    assert 10**8 < quote["memory_bytes"]["least"] < 4 * 10**9
