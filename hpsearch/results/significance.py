"""Statistics of repeats: intervals, paired differences, tests over targets, repeats to add.

All functions take plain numbers. In an ablation the arms of one repeat share their seed and their
test molecules, so arms are compared repeat by repeat. A repeat's errors are first averaged over
the molecules. The intervals over repeats are Student's, because a bootstrap over three seeds has
only ten different samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpsearch.system.errors import InputError

SAME_TARGET = ("U0", "U", "H", "G")
"""Energies whose correlation is above 0.9997: nearly one target, counted four times."""

LEAST_TARGETS = 6
"""With five targets the smallest two-sided p of a signed-rank test is 2/2⁵ = 0.0625, above 0.05."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: of the values.
        low: lower end; NaN for a single value, which says nothing about the spread.
        high: upper end; NaN likewise.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the interval's length; NaN for a single value."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """The difference of two paired samples, the first minus the second.

    Attributes:
        interval: of the mean difference.
        deviation: standard deviation of the differences; NaN for a single pair.
        p_value: of the two-sided paired t-test that the mean difference is zero; NaN for a single
            pair.
    """

    interval: Interval
    deviation: float
    p_value: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's interval, mean ± t s/√n.

    Args:
        values: one per repeat, already averaged over its molecules.
        confidence: probability that the interval contains the true mean of normal values.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("an interval needs at least one value")
    numbers = np.asarray(values, dtype=np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    from scipy import stats  # imported here, as below: it takes a second, and few callers need it

    quantile = float(stats.t.ppf(0.5 + confidence / 2, count - 1))
    half = quantile * float(numbers.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def paired_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Return ``first`` minus ``second``, pair by pair, with the paired t-test.

    Args:
        first: an arm's errors, one per repeat.
        second: another arm's errors in the same repeats.
        confidence: of the interval.

    Raises:
        ValueError: there are no pairs, or the two lengths differ.
    """
    if len(first) != len(second):  # numpy would repeat a single value
        raise ValueError(f"pairs are needed, got {len(first)} and {len(second)} values")
    differences = np.subtract(first, second, dtype=np.float64)
    interval = mean_interval(differences.tolist(), confidence)
    if interval.count == 1:
        return Difference(interval, math.nan, math.nan)
    deviation = float(differences.std(ddof=1))
    if deviation == 0.0:  # t is 0/0 or infinite
        return Difference(interval, 0.0, 1.0 if interval.mean == 0.0 else 0.0)
    from scipy import stats

    t = interval.mean / deviation * math.sqrt(interval.count)
    return Difference(interval, deviation, 2 * float(stats.t.sf(abs(t), interval.count - 1)))


def molecule_error(first: ArrayLike, second: ArrayLike) -> float:
    """Return the standard error of two arms' MAE difference due to the choice of test molecules.

    The intervals over repeats take the test molecules as given, so they do not include it. A
    molecule's errors are averaged over the repeats, so that a molecule counts once.

    Args:
        first: ``[R, M]`` residuals of an arm: repeats, test molecules; NaN for a molecule whose
            target is unknown, which is left out.
        second: ``[R, M]`` of another arm on the same molecules.

    Returns:
        The standard error; NaN if fewer than two molecules have the target.

    Raises:
        ValueError: the molecules are not the same, or there are fewer than two.
    """
    of_molecule = _absolute(first).mean(0) - _absolute(second).mean(0)
    if len(of_molecule) < 2:
        raise ValueError(f"at least two molecules are needed, got {len(of_molecule)}")
    known = of_molecule[~np.isnan(of_molecule)]
    if len(known) < 2:
        return math.nan
    return float(known.std(ddof=1)) / math.sqrt(len(known))


def _absolute(residuals: ArrayLike) -> NDArray[np.float64]:
    return np.abs(np.atleast_2d(np.asarray(residuals, dtype=np.float64)))


def distinct_targets(values: Mapping[str, float]) -> dict[str, float]:
    """Return ``values`` with the four energies replaced by their mean, called ``U0/U/H/G``."""
    energies = [name for name in SAME_TARGET if name in values]
    others = {name: value for name, value in values.items() if name not in energies}
    if not energies:
        return others
    return {**others, "/".join(energies): float(np.mean([values[name] for name in energies]))}


def signed_rank_test(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test that the differences center on 0.

    Every assignment of signs is counted, so p is exact with ties too. Zeros are left out.

    Args:
        differences: one per target, relative, so that they can be compared.

    Raises:
        InputError: fewer than six differ from zero, so that p could not be below 0.05.
    """
    numbers = [difference for difference in differences if difference != 0.0]
    if len(numbers) < LEAST_TARGETS:
        raise InputError(
            f"a signed-rank test needs at least {LEAST_TARGETS} targets with a difference, got "
            f"{len(numbers)}; with fewer, p cannot be below 0.05; ablate more targets"
        )
    if any(math.isnan(number) for number in numbers):
        return math.nan
    from scipy import stats

    # Twice the ranks, because equal differences share a rank that may be half a number.
    ranks = [round(2 * rank) for rank in stats.rankdata(np.abs(numbers))]
    # How many of the 2^n assignments of signs give each sum of the positive ranks.
    ways = [1] + [0] * sum(ranks)
    for rank in ranks:
        ways = [ways[s] + (ways[s - rank] if s >= rank else 0) for s in range(len(ways))]
    positive = sum(rank for rank, number in zip(ranks, numbers, strict=True) if number > 0)
    tail = min(sum(ways[: positive + 1]), sum(ways[positive:]))
    return min(1.0, float(2 * tail / 2 ** len(numbers)))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return the p-values of one family after Holm's correction; NaN is left as it is.

    Calling those below 0.05 significant keeps the probability of any false one below 0.05.
    """
    adjusted = dict(p_values)
    known = sorted(
        (key for key, p in p_values.items() if not math.isnan(p)), key=lambda key: p_values[key]
    )
    largest = 0.0
    for place, key in enumerate(known):
        largest = max(largest, (len(known) - place) * p_values[key])
        adjusted[key] = min(largest, 1.0)
    return adjusted


def more_repeats_needed(
    difference: Difference, level: float = 0.05, power: float = 0.8, most: int = 100
) -> int | None:
    """Return how many more repeats would make the difference significant.

    It is the smallest number that gives the paired t-test the ``power``, if the observed difference
    and deviation are the true ones. This is rough, because a few repeats measure neither well.

    Args:
        difference: as observed in at least two repeats.
        level: significance level of the test, already divided if there are several tests.
        power: probability that the test finds the difference.
        most: largest number of repeats to consider.

    Returns:
        The repeats to add; ``None`` if more than ``most`` would be needed, or if there is only one
        repeat.
    """
    count, deviation = difference.interval.count, difference.deviation
    if math.isnan(deviation) or difference.interval.mean == 0.0:
        return None
    if deviation == 0.0:
        return 1
    effect = abs(difference.interval.mean) / deviation
    for repeats in range(count + 1, most + 1):
        if _power(effect, repeats, level) >= power:
            return repeats - count
    return None


def _power(effect: float, repeats: int, level: float) -> float:
    """Return the power of the two-sided paired t-test for a difference of ``effect`` deviations."""
    from scipy import stats

    critical = stats.t.ppf(1 - level / 2, repeats - 1)
    shift = effect * math.sqrt(repeats)
    upper = stats.nct.sf(critical, repeats - 1, shift)
    return float(upper + stats.nct.cdf(-critical, repeats - 1, shift))
