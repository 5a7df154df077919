"""The statistics by hand, and on simulated repeats whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hpsearch.results.significance import (
    Difference,
    Interval,
    distinct_targets,
    holm,
    mean_interval,
    molecule_error,
    more_repeats_needed,
    paired_difference,
    signed_rank_test,
)
from hpsearch.system.errors import InputError

# t of 0.975 and two degrees of freedom, from printed tables.
T_2 = 4.302653

# --- By hand


def test_the_interval_of_three_repeats_is_student_s() -> None:
    # mean 2, s = 1, s/sqrt(3) = 0.57735
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half_width == pytest.approx(T_2 / math.sqrt(3), rel=1e-6)
    assert found.low == pytest.approx(2.0 - T_2 / math.sqrt(3), rel=1e-6)


def test_a_single_repeat_has_a_mean_and_no_interval() -> None:
    found = mean_interval([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_arms_are_compared_repeat_by_repeat() -> None:
    # The repeats differ by more than the arms, but each pair by 1, 2 and 3.
    found = paired_difference([11.0, 52.0, 93.0], [10.0, 50.0, 90.0])
    assert found.interval.mean == 2.0
    assert found.deviation == pytest.approx(1.0)
    # t = 2/(1/sqrt 3) = 3.4641 with two degrees of freedom: p = 1 - t/sqrt(2 + t²).
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("shift", "p"), [(0.5, 0.0), (0.0, 1.0)])
def test_differences_without_any_spread_need_no_t(shift: float, p: float) -> None:
    found = paired_difference([1.0 + shift, 2.0 + shift], [1.0, 2.0])
    assert (found.deviation, found.p_value) == (0.0, p)


def test_one_pair_tells_no_p() -> None:
    assert math.isnan(paired_difference([1.0], [2.0]).p_value)


def test_the_molecules_share_of_the_doubt() -> None:
    # |errors| averaged over two repeats: first 1, 3, 2, second 1, 1, 1; differences 0, 2, 1.
    first = [[1.0, -2.0, 2.0], [-1.0, 4.0, -2.0]]
    second = [[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]
    assert molecule_error(first, second) == pytest.approx(1.0 / math.sqrt(3))


def test_energies_count_once_where_that_is_asked() -> None:
    values = {"mu": -0.5, "U0": 0.1, "U": 0.2, "H": 0.3, "G": 0.4, "Cv": 0.0}
    assert distinct_targets(values) == {"mu": -0.5, "Cv": 0.0, "U0/U/H/G": pytest.approx(0.25)}
    assert distinct_targets({"mu": 1.0}) == {"mu": 1.0}
    assert distinct_targets({"U0": 1.0}) == {"U0": 1.0}


def test_the_signed_rank_test_counts_every_sign() -> None:
    # All of six on one side: 2 of 64 assignments are as extreme.
    assert signed_rank_test([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]) == pytest.approx(2 / 64)
    # The smallest of them on the other side: W = 1, 4 of 64 are as extreme (W of 0 and 1).
    assert signed_rank_test([1.0, -2.0, -3.0, -4.0, -5.0, -6.0]) == pytest.approx(4 / 64)
    # Ties: ranks 2, 2, 2, 4, 5, 6 with sum 21, the positive one has 2; as extreme are W of 0 and 2
    # on either side, so 2 (1 + 3).
    assert signed_rank_test([1.0, -1.0, -1.0, -4.0, -5.0, -6.0]) == pytest.approx(8 / 64)


def test_the_paper_s_table_1_by_the_signed_rank_test() -> None:
    from hpsearch.results.published import MAES, compare

    relative = {name: compare(maes)["relative_L1_L0"] for name, maes in MAES.items()}
    assert all(value < 0 for value in relative.values())
    assert signed_rank_test(list(relative.values())) == pytest.approx(2 / 2**12)
    assert signed_rank_test(list(distinct_targets(relative).values())) == pytest.approx(2 / 2**9)


def test_the_signed_rank_test_counts_the_signs_of_a_hundred_targets() -> None:
    differences = [-float(rank) for rank in range(1, 101)]
    assert signed_rank_test(differences) == 2 / 2**100
    # W = 1: only the smallest is on the other side.
    assert signed_rank_test([1.0, *differences[1:]]) == 4 / 2**100
    assert signed_rank_test([1.0, -1.0] * 50) == 1.0


def test_an_unknown_difference_makes_the_signed_rank_test_unknown() -> None:
    assert math.isnan(signed_rank_test([-1.0, -2.0, -3.0, -4.0, -5.0, math.nan]))


def test_molecules_without_the_target_are_no_molecules() -> None:
    first, second = [1.0, math.nan, -2.0, 4.0], [0.5, math.nan, 0.5, -0.5]
    known = molecule_error([1.0, -2.0, 4.0], [0.5, 0.5, -0.5])
    assert molecule_error(first, second) == known
    assert math.isnan(molecule_error([1.0, math.nan], [1.0, math.nan]))


@pytest.mark.parametrize("differences", [[-1.0] * 5, [-1.0, -2.0, -3.0, -4.0, -5.0, 0.0]])
def test_five_targets_cannot_be_tested(differences: list[float]) -> None:
    with pytest.raises(
        InputError, match=r"at least 6 targets with a difference, got 5.*cannot be below 0\.05"
    ):
        signed_rank_test(differences)


def test_holm_by_hand() -> None:
    # 4 · 0.005 = 0.02, 3 · 0.01 = 0.03, 2 · 0.03 = 0.06, then 0.04 < 0.06 is raised to it.
    p_values = {"a": 0.03, "b": 0.005, "c": 0.04, "d": 0.01, "e": math.nan}
    found = holm(p_values)
    assert math.isnan(found.pop("e"))
    assert found == pytest.approx({"a": 0.06, "b": 0.02, "c": 0.06, "d": 0.03})
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


# --- Simulated, with a known truth


def test_the_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    for repeats in (2, 3, 5):
        samples = random.normal(0.65, 0.02, size=(4000, repeats))
        found = [mean_interval(sample) for sample in samples.tolist()]
        covered = np.mean([each.low <= 0.65 <= each.high for each in found])
        # Three standard errors of 4,000 trials at 95 %.
        assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 4000))


def test_the_paired_test_is_wrong_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    seeds = random.normal(0.0, 0.1, size=(4000, 3))  # what a seed does to both arms alike
    first = 0.6 + seeds + random.normal(0.0, 0.02, seeds.shape)
    second = 0.6 + seeds + random.normal(0.0, 0.02, seeds.shape)
    p_values = [paired_difference(a, b).p_value for a, b in zip(first, second, strict=True)]
    rejected = np.mean(np.array(p_values) < 0.05)
    assert rejected == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 4000))


def test_holm_keeps_the_rate_of_any_false_one() -> None:
    # Twelve targets without a difference, one after the other three repeats.
    random = np.random.default_rng(3)
    draws = random.normal(size=(1500, 12, 3))
    p_values = 2 * stats.t.sf(np.abs(draws.mean(2) / draws.std(2, ddof=1) * math.sqrt(3)), 2)
    unadjusted = np.mean((p_values < 0.05).any(1))
    adjusted = np.mean([min(holm(dict(enumerate(row))).values()) < 0.05 for row in p_values])
    assert unadjusted > 0.4
    assert adjusted <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)
    assert adjusted > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("targets", [6, 7])
def test_the_signed_rank_test_is_wrong_no_more_often_than_it_says(targets: int) -> None:
    """Without a difference every assignment of signs is as likely: all of them are tried."""
    sizes = range(1, targets + 1)
    p_values = [
        signed_rank_test([size * sign for size, sign in zip(sizes, signs, strict=True)])
        for signs in itertools.product((-1.0, 1.0), repeat=targets)
    ]
    wrong = np.mean(np.array(p_values) < 0.05)
    assert 0 < wrong <= 0.05


def test_the_molecules_error_is_that_of_other_test_sets() -> None:
    random = np.random.default_rng(5)
    errors, differences = [], []
    for _ in range(600):
        shared = random.normal(0.0, 0.3, 500)
        first, second = (shared + random.normal(0.0, s, (3, 500)) for s in (0.2, 0.3))
        errors.append(molecule_error(first, second))
        differences.append(np.abs(first).mean() - np.abs(second).mean())
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.1)


def test_the_repeats_to_add_give_the_power_that_was_asked_for() -> None:
    observed = Difference(Interval(0.02, math.nan, math.nan, 3), 0.02, 0.2)
    more = more_repeats_needed(observed)
    assert more is not None
    random = np.random.default_rng(6)

    def power(repeats: int) -> float:
        draws = random.normal(0.02, 0.02, size=(4000, repeats))
        t = draws.mean(1) / draws.std(1, ddof=1) * math.sqrt(repeats)
        return float(np.mean(np.abs(t) > stats.t.ppf(0.975, repeats - 1)))

    assert power(3 + more) >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / 4000)
    assert power(3 + more - 1) < 0.8 + 3 * math.sqrt(0.8 * 0.2 / 4000)
    # Of several targets the level is smaller and the repeats are more.
    assert more_repeats_needed(observed, level=0.05 / 12) > more


def test_no_number_of_repeats_is_promised_where_none_would_do() -> None:
    tiny = Difference(Interval(0.001, math.nan, math.nan, 3), 0.02, 0.9)
    assert more_repeats_needed(tiny) is None
    assert more_repeats_needed(paired_difference([1.0], [2.0])) is None
    assert more_repeats_needed(paired_difference([1.0, 2.0], [1.0, 2.0])) is None
    assert more_repeats_needed(paired_difference([1.5, 2.5], [1.0, 2.0])) == 1
