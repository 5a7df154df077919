"""What a run costs, by rates that are known here."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpsearch.config.architecture import Workload, count_weights, count_work
from hpsearch.config.run import TrialConfig
from hpsearch.config.space import Budget, SearchSpace, parse_bytes
from hpsearch.cost import measure, timings
from hpsearch.cost.model import CostModel, refusal
from hpsearch.cost.timings import TimedConfig, Timing, TimingConditions
from hpsearch.data import qm9
from hpsearch.search.quote import draw_configs
from hpsearch.system.errors import HpsearchError
from hpsearch.system.installation import find_space

SPACE = SearchSpace.load(find_space("table3")).with_overrides(train_size=1_000, test_size=2_000)
CONFIGS = draw_configs(SPACE, 20)
HERE = TimingConditions(cpus=1.0, device="cpu", at_once=2)


def weights(config: TrialConfig) -> int:
    return count_weights(config.network, len(config.targets))


def made_up(config: TrialConfig, model: CostModel) -> TimedConfig:
    """A machine of 100 GFLOP/s, 2 ns a number, 1 ms a block and 0.1 ns a weight."""
    work, one = model.work(config), model._work(config, 1)
    timing = Timing(
        step_seconds=work.flops * 1e-11
        + work.numbers * 2e-9
        + work.copies * 1e-3
        + weights(config) * 1e-10,
        evaluation_seconds=one.flops * 3e-12,
        start_seconds=2.0,
        memory_bytes=int(5e8 + 20 * weights(config) + 8 * work.numbers),
        steps=-(-1_000 // config.training.batch_size),
        validation=1_000,
        test=2_000,
    )
    return TimedConfig(config, timing)


@pytest.fixture(scope="module")
def timed() -> list[TimedConfig]:
    nothing = Timing(1.0, 1.0, 1.0, 1, 1, 1, 1)
    counting = CostModel([TimedConfig(config, nothing) for config in CONFIGS[:4]], qm9.load())
    return [made_up(config, counting) for config in CONFIGS]


def test_work_is_a_sum_over_molecules_and_targets() -> None:
    network = CONFIGS[0].network
    one, two, twelve = (count_work(network, targets, 18.0, 158.0) for targets in (1, 2, 12))
    assert twelve.flops == pytest.approx(one.flops + 11 * (two.flops - one.flops))
    assert twelve.copies == one.copies + 11 * network.output_blocks
    double = count_work(network, 1, 36.0, 316.0)
    assert (double.flops, double.numbers) == pytest.approx((2 * one.flops, 2 * one.numbers))


@pytest.mark.parametrize("basis, functions", [("gaussian", 3), ("cosine", 2)])
def test_the_work_of_the_smallest_network_by_hand(basis: str, functions: int) -> None:
    network = CONFIGS[0].network.model_copy(
        update={
            "featurization_scalars": 1,
            "featurization_vectors": 0,
            "featurization_blocks": 1,
            "radial_basis": basis,
            "radial_functions": 3,
            "radial_mlp_layers": 1,
            "radial_mlp_neurons": 2,
            "output_blocks": 1,
            "output_mlp_neurons": 1,
            "output_mlp_layers": 1,
        }
    )
    # One atom and one pair. Radial MLP, forward and its weights' gradient: 2 (2 * 3 * 2), or with
    # two functions that are not zero 2 (2 * 2 * 2).
    # Five elements into one scalar: W on A 2 * 2 * 5, the sum over neighbours 4 * 2 * 1, the atom
    # itself 2 * 5; three times. One scalar into one: 2 * 2 + 4 * 2 + 2.
    radial = 8 * functions
    first = radial + 3 * (20 + 8 + 10)
    second = radial + 3 * (4 + 8 + 2)
    # Sums, features, radial layer and both ends of a pair.
    numbers = (10 + 6 + 2 + 10) + (2 + 2 + 2 + 2)
    assert count_work(network, 1, 1.0, 1.0) == Workload(first + second, numbers, 2)


def test_known_rates_are_found_and_carried_to_other_configurations(
    timed: list[TimedConfig],
) -> None:
    model = CostModel(timed[:10], qm9.load())
    for each in timed[10:]:
        found = model.timing(each.config)
        assert found.step_seconds == pytest.approx(each.timing.step_seconds, rel=1e-6)
        assert found.evaluation_seconds == pytest.approx(each.timing.evaluation_seconds, rel=1e-6)
        assert found.memory_bytes == pytest.approx(each.timing.memory_bytes, rel=1e-6)
        assert (found.steps, found.validation, found.test) == (
            each.timing.steps,
            each.timing.validation,
            each.timing.test,
        )
    assert model.typical_error == pytest.approx(0, abs=1e-6)


def test_the_error_is_that_of_a_model_that_has_not_seen_the_configuration(
    timed: list[TimedConfig],
) -> None:
    random = np.random.default_rng(0)
    noisy = []
    for each in timed:
        factor = float(random.choice([0.8, 1.25]))
        slower = replace(each.timing, step_seconds=factor * each.timing.step_seconds)
        noisy.append(TimedConfig(each.config, slower))
    model = CostModel(noisy, qm9.load())
    assert model.typical_error is not None
    assert 0.1 < model.typical_error < 0.4
    assert min(model.errors) < -0.1 < 0.1 < max(model.errors)


def test_seconds_of_a_run() -> None:
    timing = Timing(0.5, 0.01, 4.0, 10**9, steps=10, validation=100, test=300)
    assert timing.epoch_seconds == pytest.approx(6.0)
    assert timing.run_seconds(3) == pytest.approx(4 + 18 + 3)
    assert timing.run_seconds(3, tested=False) == pytest.approx(4 + 18)


# --- What is kept -------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGTERM])
def test_memory_is_blamed_for_what_the_kernel_killed_alone(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    ended = subprocess.CompletedProcess([], -number, "", "KeyboardInterrupt")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: ended)
    said: list[str] = []
    with pytest.raises(HpsearchError, match=f"killed by signal {int(number)}"):
        measure.measure_all(
            CONFIGS[:1], 1, "cpu", 1, say_failed=lambda config, error: said.append(str(error))
        )
    # Of what a person ended, nothing is said.
    assert len(said) == (number != signal.SIGINT)
    assert any("memory ran out" in line for line in said) == (number == signal.SIGKILL)


def test_timings_are_kept_for_the_same_surroundings_only(
    cache: Path, timed: list[TimedConfig]
) -> None:
    assert timings.cached_timings(HERE) == []
    timings.cache_timings(HERE, timed[:2])
    timings.cache_timings(HERE, timed[2:3])
    assert timings.cached_timings(HERE) == timed[:3]
    for other in (replace(HERE, at_once=1), replace(HERE, device="cuda"), replace(HERE, cpus=2.0)):
        assert timings.cached_timings(other) == []
    assert [path.suffix for path in (cache / "timings").iterdir()] == [".json"]


def test_a_configuration_timed_again_takes_the_place_of_the_earlier_timing(
    cache: Path, timed: list[TimedConfig]
) -> None:
    timings.cache_timings(HERE, timed[:3])
    again = TimedConfig(timed[0].config, replace(timed[0].timing, step_seconds=9.0))
    timings.cache_timings(HERE, [again])
    assert timings.cached_timings(HERE) == [timed[1], timed[2], again]


def test_only_the_latest_are_kept(
    cache: Path, timed: list[TimedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "MOST_CACHED", 5)
    timings.cache_timings(HERE, timed)
    assert timings.cached_timings(HERE) == timed[-5:]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"timed": [{"config": {}, "timing": {}}]}'])
def test_a_damaged_file_counts_for_none(cache: Path, timed: list[TimedConfig], text: str) -> None:
    HERE.file.parent.mkdir()
    HERE.file.write_text(text)
    assert timings.cached_timings(HERE) == []
    timings.cache_timings(HERE, timed[:1])
    assert timings.cached_timings(HERE) == timed[:1]


@pytest.mark.parametrize("module", ["timings", "estimate", "measure"])
def test_what_is_kept_and_left_is_told_without_heavy_libraries(module: str) -> None:
    code = (
        f"import sys, hpsearch.cost.{module}; "
        "print([m for m in ('numpy', 'pandas', 'scipy', 'torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scipy_is_loaded_where_a_model_is_fitted() -> None:
    code = "import sys, hpsearch.cost.model; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- Budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("8 GB", 8 * 10**9), ("1.5GiB", 3 * 2**29), ("700 MB", 7 * 10**8), ("1 kB", 1000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["8", "GB", "-1 GB", "8 gigabytes", "1e3 MB", "8 gb"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as '8 GB'"):
        parse_bytes(text)


def test_a_budget_refuses_with_the_figure(timed: list[TimedConfig]) -> None:
    model = CostModel(timed, qm9.load())
    config, timing = timed[0].config, timed[0].timing
    count = weights(config)
    assert refusal(None, config, None) is None
    assert refusal(Budget(max_parameters=count), config, None) is None
    assert refusal(Budget(max_parameters=count - 1), config, None) == (
        f"{count:,} weights, max_parameters is {count - 1:,}"
    )
    memory, seconds = timing.memory_bytes, timing.epoch_seconds
    within = Budget(max_memory=f"{memory / 1e6 + 1:.3f} MB", max_epoch_seconds=seconds * 1.001)
    assert refusal(within, config, model) is None
    small = Budget(max_memory=f"{memory // 2 // 1000} kB")
    assert refusal(small, config, model) == (
        f"about {memory / 1e9:.2f} GB, max_memory is {small.max_memory}"
    )
    assert refusal(Budget(max_epoch_seconds=seconds / 2), config, model) == (
        f"about {seconds:.3g} s an epoch, max_epoch_seconds is {seconds / 2:g}"
    )
