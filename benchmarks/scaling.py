"""Measure how the cost of a training step grows, and estimate the cost of the paper's search.

    python benchmarks/scaling.py [--draws 20] [--json FILE]

First C1 of ``step.py`` is measured with one change at a time. Then random draws of Table 3 are
measured with their own batch sizes. Their seconds per step give the seconds per epoch of 109,000
molecules and the hours of forty trials of ten epochs, one trial at a time with all cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from step import COMMON, C2, machine  # first: it may restart the process with its settings

import numpy as np
import optuna
import torch

from hpsearch.config.run import DataConfig, NetworkConfig
from hpsearch.data import qm9
from hpsearch.data.split import make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.nn import MultiTargetNetwork
from hpsearch.nn.loss import multi_target_loss
from hpsearch.system import hardware
from hpsearch.system.process import prepare_worker
from hpsearch.config.space import SearchSpace
from hpsearch.system.installation import find_space
from hpsearch.config.targets import TARGET_NAMES

PAPERS_TRAINING_MOLECULES = 109_000
STEPS = 6


class Bench:
    """Real molecules and their statistics."""

    def __init__(self) -> None:
        self.molecules = qm9.load()
        self.train = make_split(self.molecules, DataConfig()).train
        self.statistics = {
            targets: TargetStatistics.fit(self.molecules, self.train, TARGET_NAMES[:targets])
            for targets in range(1, 13)
        }

    def seconds(
        self, config: NetworkConfig, targets: int, size: int, atoms: tuple[int, int] = (0, 99)
    ) -> float:
        """Return the median seconds of a step over different batches, without the first."""
        counts = self.molecules.atom_counts[self.train]
        pool = self.train[(counts >= atoms[0]) & (counts <= atoms[1])]
        torch.manual_seed(0)
        network = MultiTargetNetwork(config, targets)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
        times = []
        for number in range(STEPS):
            rows = pool[number * size : (number + 1) * size]
            started = time.perf_counter()
            batch = self.molecules.batch(rows)
            normalised = torch.from_numpy(
                self.statistics[targets].normalise(self.molecules, rows)
            ).float()
            if number == 0:
                network.calibrate(batch.elements, batch.positions, batch.counts)
            outputs = network(batch.elements, batch.positions, batch.counts)
            optimizer.zero_grad(set_to_none=True)
            multi_target_loss(outputs, normalised).backward()
            optimizer.step()
            times.append(time.perf_counter() - started)
        return median(times[1:])


def c1(**changes: Any) -> NetworkConfig:
    return NetworkConfig(**{**COMMON, **changes})


def growth(bench: Bench) -> dict[str, dict[str, float]]:
    """Return one table for each change: its value and the seconds of a step."""
    width = 64 + 3 * 21
    tables: dict[str, dict[str, float]] = {
        "molecules a batch": {
            str(size): bench.seconds(c1(), 12, size) for size in (4, 8, 16, 32, 64)
        },
        "atoms a molecule (16 molecules)": {
            f"{low}-{high}": bench.seconds(c1(), 12, 16, (low, high))
            for low, high in ((9, 12), (14, 15), (17, 18), (20, 21), (24, 27))
        },
        "targets": {str(t): bench.seconds(c1(), t, 16) for t in (1, 2, 4, 8, 12)},
        f"vectors at {width} components": {
            str(v): bench.seconds(
                c1(featurization_scalars=width - 3 * v, featurization_vectors=v), 12, 16
            )
            for v in (0, 10, 21, 32, 42)
        },
        "radial maximum in Å": {
            str(d): bench.seconds(c1(radial_maximum_angstrom=d), 12, 16)
            for d in (1.2, 2.0, 3.0, 5.0, 11.1)
        },
    }
    return tables


def search_cost(bench: Bench, draws: int) -> dict[str, Any]:
    """Return the seconds per epoch of 109,000 molecules for C1, C2 and draws of Table 3."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = SearchSpace.load(find_space("table3"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    named = {
        name: bench.seconds(c1(**changes), 12, 16) * PAPERS_TRAINING_MOLECULES / 16
        for name, changes in (("C1", {}), ("C2", C2))
    }
    drawn = []
    for _ in range(draws):
        trial = space.suggest(study.ask())
        size = trial.training.batch_size
        drawn.append(bench.seconds(trial.network, 12, size) * PAPERS_TRAINING_MOLECULES / size)
    error = float(np.std(drawn, ddof=1) / np.sqrt(draws))
    hours = [value * 40 * 10 / 3600 for value in (mean(drawn), 1.96 * error)]
    return {
        "seconds_per_epoch": named,
        "drawn_seconds_per_epoch": drawn,
        "search_hours": hours[0],
        "search_hours_95": hours[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="random draws of Table 3")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    prepare_worker(hardware.cores())
    about = machine()
    print(f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}")
    bench = Bench()
    tables = growth(bench)
    for title, table in tables.items():
        cells = "  ".join(f"{key}: {seconds * 1e3:.0f}" for key, seconds in table.items())
        print(f"{title}: {cells} (ms a step)")
    cost = search_cost(bench, arguments.draws)
    for name, seconds in cost["seconds_per_epoch"].items():
        print(f"{name}: an epoch of 109,000 molecules takes {seconds / 60:.1f} min")
    drawn = sorted(cost["drawn_seconds_per_epoch"])
    print(
        f"{arguments.draws} draws of Table 3: an epoch takes {drawn[0] / 60:.1f} to "
        f"{drawn[-1] / 60:.1f} min, median {median(drawn) / 60:.1f}; forty trials of ten epochs "
        f"take {cost['search_hours']:.0f} h, give or take {cost['search_hours_95']:.0f} (95 %)"
    )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": about, "growth": tables, "search": cost}, indent=1)
        )


if __name__ == "__main__":
    main()
