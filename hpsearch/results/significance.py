"""Statistics of repeats: intervals, paired differences, tests over targets, repeats to add.

All functions take plain numbers. In an ablation the arms of one repeat share their seed and their
test molecules, so arms are compared repeat by repeat. Errors of molecules are averaged first, and
the intervals are Student's over repeats: a bootstrap over three seeds has only ten different
samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hpsearch.errors import InputError

SAME_TARGET = ("U0", "U", "H", "G")
"""Energies that are correlated above 0.9997: one target, counted four times."""

LEAST_TARGETS = 6
"""With five targets the smallest two-sided p of a signed-rank test is 2/2⁵ = 0.0625, above 0.05."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: of the values.
        low: lower end; NaN of a single value, which says nothing of the spread.
        high: upper end.
        count: values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the interval's length; NaN of a single value."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """How much larger the first of two paired samples is.

    Attributes:
        interval: of the mean difference.
        deviation: standard deviation of the differences; NaN of a single pair.
        p_value: of the two-sided paired t-test that the mean difference is zero; NaN of a single
            pair.
    """

    interval: Interval
    deviation: float
    p_value: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values with Student's interval, mean ± t s/√n.

    Args:
        values: one for each repeat, its molecules averaged already.
        confidence: probability with which the interval holds the true mean of normal values.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("an interval needs at least one value")
    numbers = np.asarray(values, dtype=np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, count - 1))
    half = quantile * float(numbers.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def paired_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> Difference:
    """``first`` less ``second``, pair by pair, with the paired t-test.

    Args:
        first: an arm's errors, one for each repeat.
        second: another arm's errors in the same repeats.
        confidence: of the interval.

    Raises:
        ValueError: there are no pairs, or not as many of one as of the other.
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
    t = interval.mean / deviation * math.sqrt(interval.count)
    return Difference(interval, deviation, 2 * float(stats.t.sf(abs(t), interval.count - 1)))


def molecule_error(first: ArrayLike, second: ArrayLike) -> float:
    """Standard error of the difference of two arms' MAEs that the choice of test molecules makes.

    The repeats' intervals take the test molecules as given; this is what other molecules would
    change. Errors of a molecule are averaged over the repeats, so that it counts once.

    Args:
        first: ``[R, M]`` residuals of an arm: repeats, test molecules.
        second: ``[R, M]`` of another arm on the same molecules.

    Raises:
        ValueError: the molecules are not the same, or there are less than two.
    """
    of_molecule = _absolute(first).mean(0) - _absolute(second).mean(0)
    if len(of_molecule) < 2:
        raise ValueError(f"at least two molecules are needed, got {len(of_molecule)}")
    return float(of_molecule.std(ddof=1)) / math.sqrt(len(of_molecule))


def _absolute(residuals: ArrayLike) -> NDArray[np.float64]:
    return np.abs(np.atleast_2d(np.asarray(residuals, dtype=np.float64)))


def distinct_targets(values: Mapping[str, float]) -> dict[str, float]:
    """``values`` by target with the four energies as one, their mean, called ``U0/U/H/G``."""
    energies = [name for name in SAME_TARGET if name in values]
    others = {name: value for name, value in values.items() if name not in energies}
    if not energies:
        return others
    return {**others, "/".join(energies): float(np.mean([values[name] for name in energies]))}


def signed_rank_test(differences: Sequence[float]) -> float:
    """p of Wilcoxon's two-sided signed-rank test, exact, that differences are symmetric about zero.

    Every assignment of signs is counted, so ties are exact too; differences of zero are left out.

    Args:
        differences: one for each target, in units that can be compared: relative ones.

    Raises:
        InputError: there are fewer than six, of which no result could be below 0.05.
    """
    numbers = [difference for difference in differences if difference != 0.0]
    if len(numbers) < LEAST_TARGETS:
        raise InputError(
            f"a signed-rank test over targets needs at least {LEAST_TARGETS} that differ, got "
            f"{len(numbers)}: with fewer it cannot reach 0.05, whatever the numbers are; ablate "
            "more targets"
        )
    method = stats.PermutationMethod(n_resamples=2 ** len(numbers))
    return float(stats.wilcoxon(numbers, method=method).pvalue)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's adjustment of the p-values of one family; NaN stays out of it.

    Below 0.05 after it, each of them, keeps the probability of any false one below 0.05.
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


def repeats_to_settle(
    difference: Difference, level: float = 0.05, power: float = 0.8, most: int = 100
) -> int | None:
    """How many more repeats would settle whether the mean difference is zero.

    The least that give the paired t-test the ``power``, if the true difference and deviation are
    those observed: a rough number, since a few repeats tell neither well.

    Args:
        difference: as observed, in at least two repeats.
        level: at which the test rejects; of several tests, the level that Holm's leaves.
        power: probability that it does.
        most: largest number of repeats to consider.

    Returns:
        The repeats to add; ``None`` where ``most`` would not do, or one repeat says nothing.
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
    """Of the two-sided paired t-test, for a mean difference of ``effect`` deviations."""
    critical = stats.t.ppf(1 - level / 2, repeats - 1)
    shift = effect * math.sqrt(repeats)
    upper = stats.nct.sf(critical, repeats - 1, shift)
    return float(upper + stats.nct.cdf(-critical, repeats - 1, shift))
