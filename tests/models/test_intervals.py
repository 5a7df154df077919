"""Intervals by split conformal prediction: by hand, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from hpsearch.models.intervals import Spread, TargetIntervals, level_name, quantile


@pytest.mark.parametrize(
    ("n", "level", "place"),
    [
        (19, 0.95, 19),
        (18, 0.95, None),
        (99, 0.95, 95),
        (100, 0.68, 69),
        (1, 0.5, 1),
        (99, 0.99, 99),
    ],
)
def test_the_quantile_is_the_rank_of_split_conformal(
    n: int, level: float, place: int | None
) -> None:
    scores = np.arange(1.0, n + 1)
    assert quantile(scores, level) == (None if place is None else float(place))


def test_intervals_by_hand() -> None:
    spread = Spread(kind="ensemble", floor=1.0)
    residuals = np.array([-2.0, 4.0, np.nan, 1.0, 3.0])
    widths = spread.of(np.array([1.0, 1.0, 1.0, 0.0, 2.0]), np.full(5, 9))
    assert widths.tolist() == [2.0, 2.0, 2.0, 1.0, 3.0]
    found = TargetIntervals.fit(spread, residuals, widths)
    # Scores 1, 2, 1, 1 of four known molecules; ceil(5 * 0.5) = 3, ceil(5 * 0.68) = 4.
    assert found.molecules == 4
    assert found.quantiles == {"50": 1.0, "68": 2.0, "80": 2.0}


def test_the_spread_of_one_network_grows_with_the_size() -> None:
    atoms = np.array([2, 4, 6, 8])
    spread = Spread.fit(np.array([1.0, -2.0, 3.0, -4.0]), atoms, ensemble=False)
    assert (spread.start, spread.slope) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.5))
    assert spread.of(np.zeros(1), np.array([10])) == pytest.approx(5.0 + 0.25)
    # Far outside, a falling line would become negative.
    falling = Spread(kind="size", floor=0.1, start=1.0, slope=-1.0)
    assert falling.of(np.zeros(1), np.array([9])) == pytest.approx(0.1)


def test_new_molecules_are_covered_as_promised() -> None:
    random = np.random.default_rng(0)
    spread = Spread(kind="ensemble", floor=0.2)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        deviations = random.gamma(2.0, size=n)
        return random.standard_t(3, size=n) * (0.5 + deviations), deviations

    coverages = []
    for _ in range(300):
        residuals, deviations = drawn(200)
        found = TargetIntervals.fit(spread, residuals, spread.of(deviations, np.zeros(200)))
        fresh, of_fresh = drawn(200)
        half = found.quantiles["68"] * spread.of(of_fresh, np.zeros(200))
        coverages.append(np.mean(np.abs(fresh) <= half))
    # The mean of 300 values with a standard deviation of about 0.047 each.
    assert np.mean(coverages) == pytest.approx(0.68 + 0.5 / 201, abs=0.01)


def test_names_of_levels() -> None:
    assert [level_name(level) for level in (0.5, 0.68, 0.95)] == ["50", "68", "95"]
