"""The model of a run's cost: fitted to timed configurations, it predicts that of others.

A step's seconds are a sum of what `hpsearch.config.architecture` counts, each count times a rate
that is not negative. So are the seconds to evaluate a molecule and the bytes of the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.architecture import Workload, count_weights, count_work
from hpsearch.config.run import DataConfig, TrialConfig
from hpsearch.config.space import Budget
from hpsearch.cost.timings import TimedConfig, Timing, TimingConditions, cached_timings
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split

LEAST = 4
"""The model needs so many timed configurations: as many as it has rates."""

_SAMPLE = 400
"""Molecules whose pairs are counted, as a sample of all."""


@final
class CostModel:
    """Predicts seconds and bytes of any configuration, by rates fitted to timed ones.

    Attributes:
        timed: the configurations that it was fitted to.
        errors: the relative error of an epoch's predicted seconds, for each timed configuration, by
            a model fitted to the others; empty where there are too few to leave one out.
    """

    def __init__(self, timed: Sequence[TimedConfig], molecules: Molecules) -> None:
        """Fit the rates.

        Args:
            timed: at least :data:`LEAST` configurations.
            molecules: whose pairs of atoms are counted.
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
    def from_cache(cls, surroundings: TimingConditions, molecules: Molecules) -> Self | None:
        """The model fitted to the kept timings; ``None`` where there are too few."""
        timed = cached_timings(surroundings)
        return cls(timed, molecules) if len(timed) >= LEAST else None

    @property
    def typical_error(self) -> float | None:
        """Median size of :attr:`errors`."""
        return float(np.median(np.abs(self.errors))) if self.errors else None

    def timing(self, config: TrialConfig) -> Timing:
        """The predicted cost of a run of ``config``."""
        return self._timing(config, self._rates)

    def covers(self, config: TrialConfig) -> bool:
        """Whether ``config`` needs at most twice the work of the heaviest step that was timed."""
        heaviest = max(self.work(timed.config).flops for timed in self.timed)
        return self.work(config).flops <= 2 * heaviest

    def work(self, config: TrialConfig) -> Workload:
        """The work of an optimizer step of ``config``."""
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
        """The counts that each quantity is a sum of."""
        weights = count_weights(config.network, len(config.targets))
        step, one = self.work(config), self._work(config, 1)
        return {
            "step": np.array([step.flops, step.numbers, step.copies, weights]),
            "evaluation": np.array([one.flops, one.numbers]),
            "memory": np.array([step.numbers, weights, 1.0]),
        }

    def _fitted(self, timed: Sequence[TimedConfig]) -> dict[str, NDArray[np.float64]]:
        rows = [self._rows(each.config) for each in timed]
        measured = {
            "step": [each.timing.step_seconds for each in timed],
            "evaluation": [each.timing.evaluation_seconds for each in timed],
            "memory": [each.timing.memory_bytes for each in timed],
        }
        start = float(np.median([each.timing.start_seconds for each in timed]))
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
            config.network, len(config.targets), self._atoms * molecules, pairs * molecules
        )

    def _split_sizes(self, data: DataConfig) -> tuple[int, int, int]:
        key = data.model_dump_json()
        if key not in self._sizes:
            split = make_split(self._molecules, data)
            self._sizes[key] = (len(split.train), len(split.validation), len(split.test))
        return self._sizes[key]


def refusal(budget: Budget | None, config: TrialConfig, model: CostModel | None) -> str | None:
    """Why ``config`` is beyond ``budget``, with the figure; ``None`` if it is within.

    Args:
        budget: of the space; ``None`` allows everything.
        config: the configuration that was drawn.
        model: needed where the budget limits what has to be measured.
    """
    if budget is None:
        return None

    def cost() -> tuple[int, float]:
        assert model is not None
        timing = model.timing(config)
        return timing.memory_bytes, timing.epoch_seconds

    return budget.refusal(count_weights(config.network, len(config.targets)), cost)


def _rates(rows: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of relative errors, no rate negative."""
    from scipy.optimize import nnls  # a third of a second; few launches fit a model

    relative = rows / values[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(relative / scale, np.ones(len(values)))
    rates: NDArray[np.float64] = solution / scale
    return rates


def _distances(molecules: Molecules) -> NDArray[np.float64]:
    """Distances of all pairs in some molecules, sorted, Å."""
    found = []
    for row in np.linspace(0, len(molecules) - 1, _SAMPLE).astype(int):
        positions = molecules.molecule(int(row)).positions
        first, second = np.triu_indices(len(positions), 1)
        found.append(np.linalg.norm(positions[first] - positions[second], axis=1))
    return np.sort(np.concatenate(found))
