"""Trains every arm on new random systems and tests all arms on the same systems."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from hpsearch.config.run import TrainingConfig
from hpsearch.dipoles.arms import Arm, arms
from hpsearch.dipoles.networks import Estimator
from hpsearch.dipoles.systems import Systems, bound
from hpsearch.runs.schedule import Schedule

BATCH_SIZE = 64
LEARNING_RATE = 1e-2
TEST_SYSTEMS = 2_000
CALIBRATION_SYSTEMS = 256

TESTS = 16
"""Number of tests during a training, in addition to the one before it."""


@dataclass(frozen=True)
class TrainingCurve:
    """One network, trained once.

    Attributes:
        seed: seed of the weights and of the systems.
        weights: number of trainable weights.
        steps: optimizer steps before each test; the first is 0.
        errors: mean squared errors of these tests, in (e Å)⁴.
        seconds: processor time of the training without the tests. With one thread it equals the
            wall-clock time on an idle machine.
    """

    seed: int
    weights: int
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class ArmResult:
    """The results of an arm.

    Attributes:
        case: name of the kind of systems.
        name: name of the network.
        floor: least mean squared error of any such network on the test systems, in (e Å)⁴.
        curves: one training per seed.
    """

    case: str
    name: str
    floor: float
    curves: tuple[TrainingCurve, ...]

    @property
    def final_errors(self) -> tuple[float, ...]:
        """The last mean squared error of every seed, in (e Å)⁴."""
        return tuple(curve.errors[-1] for curve in self.curves)

    @property
    def mean_error(self) -> float:
        """The mean of :attr:`final_errors`."""
        return fmean(self.final_errors)

    @property
    def weights(self) -> int:
        """Number of trainable weights."""
        return self.curves[0].weights

    @property
    def seconds(self) -> float:
        """Processor time of one training in seconds, averaged over the seeds."""
        return fmean(curve.seconds for curve in self.curves)


@dataclass(frozen=True)
class DipoleResults:
    """The results of all arms.

    Attributes:
        steps: optimizer steps of a training.
        seeds: number of trainings of an arm.
        bound: the least error of Eq. 4 on the test systems, in (e Å)⁴.
        variance: variance of p² over the test systems, in (e Å)⁴.
        arms: the results.
    """

    steps: int
    seeds: int
    bound: float
    variance: float
    arms: tuple[ArmResult, ...]


def run(steps: int, seeds: int, say: Callable[[str], None] = lambda line: None) -> DipoleResults:
    """Train every arm with every seed.

    Args:
        steps: optimizer steps of a training.
        seeds: number of trainings of an arm.
        say: function that is called with a line after every training.
    """
    # Every case draws its dipoles first, so all cases are tested on the same dipoles.
    tests = {arm.case: arm.draw(TEST_SYSTEMS, _generator(0)) for arm in arms()}
    first = next(iter(tests.values()))
    least = bound(first.dipoles)
    results = []
    for arm in arms():
        test = tests[arm.case]
        curves = []
        for seed in range(seeds):
            curve = train(arm, seed, steps, test)
            share = curve.errors[-1] / least
            say(f"{arm.case}: {arm.name}, seed {seed}: {share:.4f}, {curve.seconds:.1f} s")
            curves.append(curve)
        results.append(ArmResult(arm.case, arm.name, arm.floor(test.dipoles), tuple(curves)))
    variance = float(first.squared_total.var(correction=0))
    return DipoleResults(steps, seeds, least, variance, tuple(results))


def train(arm: Arm, seed: int, steps: int, test: Systems) -> TrainingCurve:
    """Train a new network of ``arm`` with Adam and a cosine schedule.

    Every step draws new systems, so the network cannot overfit. The remaining error is what the
    network cannot represent, or has not learned yet.
    """
    generator = _generator(seed + 1)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = arm.build()
    network.calibrate(arm.draw(CALIBRATION_SYSTEMS, generator))
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = Schedule(
        optimizer,
        TrainingConfig(batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, schedule="cosine"),
        steps,
    )
    tested = sorted({round(steps * number / TESTS) for number in range(TESTS + 1)})
    errors = [test_error(network, test)]
    seconds = 0.0
    for before, after in pairwise(tested):
        began = time.process_time()
        for _ in range(after - before):
            systems = arm.draw(BATCH_SIZE, generator)
            loss = (network(systems) - systems.squared_total).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.after_step()
        seconds += time.process_time() - began
        errors.append(test_error(network, test))
    return TrainingCurve(seed, network.weights, tuple(tested), tuple(errors), seconds)


@torch.no_grad()
def test_error(network: Estimator, test: Systems) -> float:
    """The mean squared error on the test systems, in (e Å)⁴."""
    return float((network(test) - test.squared_total).double().square().mean())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
