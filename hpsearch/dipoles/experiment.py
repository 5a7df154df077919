"""Trains every arm on fresh systems and tests it on the same ones."""

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
"""Times that a network is tested while it is trained, beside the start."""


@dataclass(frozen=True)
class TrainingCurve:
    """One network, trained once.

    Attributes:
        seed: of the weights and of the systems.
        weights: number of trainable weights.
        steps: optimizer steps made at each test; the first is 0.
        errors: mean squared errors there on the test systems, in (e Å)⁴.
        seconds: of processor time for training, without the tests; with one thread what an idle
            machine's clock would show.
    """

    seed: int
    weights: int
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class ArmResult:
    """What became of an arm.

    Attributes:
        case: what the systems are.
        name: of the network.
        floor: least mean squared error of any such network on the test systems, in (e Å)⁴.
        curves: one for each seed.
    """

    case: str
    name: str
    floor: float
    curves: tuple[TrainingCurve, ...]

    @property
    def final_errors(self) -> tuple[float, ...]:
        """Each seed's last mean squared error, in (e Å)⁴."""
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
        """Of processor time for one training, the mean over the seeds."""
        return fmean(curve.seconds for curve in self.curves)


@dataclass(frozen=True)
class DipoleResults:
    """What became of every arm.

    Attributes:
        steps: optimizer steps of a training.
        seeds: trainings of an arm.
        bound: Eq. 4's least error on the test systems, in (e Å)⁴.
        variance: of p² over the test systems, in (e Å)⁴.
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
        seeds: trainings of an arm.
        say: is told a line at the end of each training.
    """
    # Every case draws its dipoles first, so all are tested on the same ones.
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
    """Train a fresh network of ``arm``, with Adam and a cosine schedule.

    Systems are drawn anew for every step, so there is nothing to overfit: what is left of the error
    is what the network cannot see, or has not learned yet.
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
    """Mean squared error in (e Å)⁴."""
    return float((network(test) - test.squared_total).double().square().mean())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
