"""The cost model: it is fitted to timed configurations and predicts the cost of others.

The seconds of a step are a sum of the counts of `hpsearch.config.architecture`, each multiplied by
a rate that is not negative. The seconds to evaluate a molecule and the bytes of the process are
such sums too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.architecture import Workload, count_work, weights_of
from hpsearch.config.run import DataConfig, TrialConfig
from hpsearch.config.space import Budget
from hpsearch.cost.timings import TimedConfig, Timing, TimingConditions, cached_timings
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split

LEAST = 4
"""The least number of timed configurations for a model: its number of rates."""

_SAMPLE = 400
"""Number of molecules, as a sample of all, in which pairs of atoms are counted."""


@final
class CostModel:
    """Predicts the seconds and bytes of a configuration, with rates fitted to timed ones.

    Attributes:
        timed: the configurations to which it was fitted.
        errors: for each timed configuration, the relative error of its predicted seconds per epoch
            by a model fitted to the others. Empty if there are too few to leave one out.
    """

    def __init__(self, timed: Sequence[TimedConfig], molecules: Molecules) -> None:
        """Fit the rates.

        Args:
            timed: at least :data:`LEAST` configurations.
            molecules: the data set, for its numbers of atoms and pairs.
        """
        self.timed = tuple(timed)
        self._molecules = molecules
        self._distances = _distances(molecules)
        self._atoms = float(molecules.atom_counts.mean())
        self._sizes: dict[str, tuple[int, int, int]] = {}
        self._rates = self._fitted(self.timed)
        self.errors: tuple[float, ...] = ()
        if len(timed) > LEAST:
            self.errors = tuple(self._error_without(number) for number in range(len(timed)))

    @classmethod
    def from_cache(cls, conditions: TimingConditions, molecules: Molecules) -> Self | None:
        """Return the model fitted to the cached timings; ``None`` if there are too few."""
        timed = cached_timings(conditions)
        return cls(timed, molecules) if len(timed) >= LEAST else None

    @property
    def typical_error(self) -> float | None:
        """Median of the absolute values of :attr:`errors`."""
        return float(np.median(np.abs(self.errors))) if self.errors else None

    def timing(self, config: TrialConfig) -> Timing:
        """Return the predicted cost of a run of ``config``."""
        return self._timing(config, self._rates)

    def covers(self, config: TrialConfig) -> bool:
        """Whether a step of ``config`` is at most twice the work of the heaviest timed step."""
        heaviest = max(self.work(timed.config).flops for timed in self.timed)
        return self.work(config).flops <= 2 * heaviest

    def work(self, config: TrialConfig) -> Workload:
        """Return the work of an optimizer step of ``config``."""
        return self._work(config, config.training.batch_size)

    def _timing(self, config: TrialConfig, rates: dict[str, NDArray[np.float64]]) -> Timing:
        train, validation, test = self._split_sizes(config.data)
        step, evaluation, memory = (
            float(rates[name] @ row) for name, row in self._rows(config).items()
        )
        return Timing(
            step_seconds=step,
            evaluation_seconds=evaluation,
            start_seconds=float(rates["start"][0]),
            memory_bytes=int(memory),
            steps=-(-train // config.training.batch_size),
            validation=validation,
            test=test,
        )

    def _rows(self, config: TrialConfig) -> dict[str, NDArray[np.float64]]:
        """Return the counts of which each quantity is a weighted sum."""
        weights = weights_of(config)
        step, one = self.work(config), self._work(config, 1)
        return {
            "step": np.array([step.flops, step.numbers, step.copies, weights]),
            "evaluation": np.array([one.flops, one.numbers]),
            "memory": np.array([step.numbers, weights, 1.0]),
        }

    def _fitted(self, timed: Sequence[TimedConfig]) -> dict[str, NDArray[np.float64]]:
        rows = [self._rows(t.config) for t in timed]
        measured = {
            "step": [t.timing.step_seconds for t in timed],
            "evaluation": [t.timing.evaluation_seconds for t in timed],
            "memory": [t.timing.memory_bytes for t in timed],
        }
        start = float(np.median([t.timing.start_seconds for t in timed]))
        return {
            **{
                name: _rates(np.stack([row[name] for row in rows]), np.array(values, float))
                for name, values in measured.items()
            },
            "start": np.array([start]),
        }

    def _error_without(self, number: int) -> float:
        left_out = self.timed[number]
        others = self.timed[:number] + self.timed[number + 1 :]
        predicted = self._timing(left_out.config, self._fitted(others))
        return predicted.epoch_seconds / left_out.timing.epoch_seconds - 1

    def _work(self, config: TrialConfig, molecules: int) -> Workload:
        radius = config.network.radial_maximum_angstrom
        pairs = np.searchsorted(self._distances, radius) / _SAMPLE
        return count_work(
            config.network,
            len(config.targets),
            self._atoms * molecules,
            pairs * molecules,
            config.data.element_count,
        )

    def _split_sizes(self, data: DataConfig) -> tuple[int, int, int]:
        key = data.model_dump_json()
        if key not in self._sizes:
            split = make_split(self._molecules, data)
            self._sizes[key] = (len(split.train), len(split.validation), len(split.test))
        return self._sizes[key]


def refusal(budget: Budget | None, config: TrialConfig, model: CostModel | None) -> str | None:
    """Return why ``config`` exceeds ``budget``, with the number; ``None`` if it does not.

    Args:
        budget: the space's budget; ``None`` allows everything.
        config: the sampled configuration.
        model: needed if the budget limits memory or seconds.
    """
    if budget is None:
        return None

    def cost() -> tuple[int, float]:
        assert model is not None
        timing = model.timing(config)
        return timing.memory_bytes, timing.epoch_seconds

    return budget.refusal(weights_of(config), cost)


def _rates(rows: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the non-negative rates with the least sum of squared relative errors."""
    from scipy.optimize import nnls  # imported here: it takes 0.3 s, and few launches need it

    relative = rows / values[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(relative / scale, np.ones(len(values)))
    rates: NDArray[np.float64] = solution / scale
    return rates


def _distances(molecules: Molecules) -> NDArray[np.float64]:
    """Return the sorted distances (Å) of all pairs of atoms in a sample of molecules."""
    distances = []
    # With fewer molecules than the sample has, some are counted more than once.
    for row in np.linspace(0, len(molecules) - 1, _SAMPLE).astype(int):
        positions = molecules.molecule(int(row)).positions
        first, second = np.triu_indices(len(positions), 1)
        distances.append(np.linalg.norm(positions[first] - positions[second], axis=1))
    return np.sort(np.concatenate(distances))
