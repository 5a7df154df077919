"""Times the optimizer steps and the evaluation of a run."""

from __future__ import annotations

import statistics
import time

import numpy as np

from hpsearch.runs.evaluation import EVALUATION_BATCH
from hpsearch.runs.training import Training


def time_steps(training: Training, warm_up: int, steps: int) -> tuple[float, float]:
    """Time some steps and an evaluation of ``training``, which is not usable afterwards.

    Args:
        training: the run.
        warm_up: optimizer steps before the timed ones.
        steps: number of timed optimizer steps.

    Returns:
        Median seconds per step, and seconds per evaluated molecule.
    """
    training.network.train()
    size = training.config.training.batch_size
    rows = np.random.default_rng(0).permutation(len(training.split.train))
    times = []
    for step in range(warm_up + steps):
        chosen = np.take(rows, range(step * size, (step + 1) * size), mode="wrap")
        started = time.perf_counter()
        # Reading the loss waits until a GPU has finished.
        float(training.step(chosen))
        times.append(time.perf_counter() - started)
    evaluated = training.split.validation[: 2 * EVALUATION_BATCH]
    targets = training.validation_targets[: len(evaluated)]
    started = time.perf_counter()
    training.evaluate(evaluated, targets)
    return (
        statistics.median(times[warm_up:]),
        (time.perf_counter() - started) / len(evaluated),
    )
