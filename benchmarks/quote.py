"""Compare the estimated seconds per epoch with those of real epochs.

    make bench-quote                 # or: python benchmarks/quote.py --json FILE

The estimate is made as in `hpsearch launch SPACE --dry-run`, from a few timed steps of eight
configurations. Then ten other configurations, drawn with another seed, train and evaluate a real
epoch each, as many at a time as a launch trains. Their seconds are compared with the model's and
with their own timed steps. The machine should be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine

from hpsearch.cost import measure
from hpsearch.config.run import TrialConfig
from hpsearch.cost.model import CostModel
from hpsearch.data import qm9
from hpsearch.config.architecture import count_weights
from hpsearch.system import hardware
from hpsearch.system.process import prepare_worker, worker_environment
from hpsearch.config.space import SearchSpace
from hpsearch.system.installation import find_space
from hpsearch.search.quote import draw_configs, choose_to_time
from hpsearch.search.quote import DRAWS

CPUS = 1.0


def train_an_epoch(config: TrialConfig) -> float:
    """Return the seconds of a run's second epoch, in its own process; the first fills memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--epoch"],
        input=json.dumps(config.to_dict()),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **worker_environment(CPUS)},
    )
    return float(done.stdout)


def _epoch() -> None:
    config = TrialConfig.from_dict(json.load(sys.stdin))
    prepare_worker(CPUS)
    from hpsearch.runs.training import Training

    with tempfile.TemporaryDirectory() as folder:
        training = Training.begin(config, qm9.load(), Path(folder), "cpu")
        print([training.run_epoch().seconds for _ in range(2)][-1])


def main() -> int:
    """Measure and print; return 1 if the median error of the estimate is 20 % or more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="table3_log")
    parser.add_argument("--train-size", type=int, default=200)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--epoch", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.epoch:
        _epoch()
        return 0

    at_once = hardware.cores()
    space = SearchSpace.load(find_space(given.space)).with_overrides(
        train_size=given.train_size, validation_size=200, test_size=1_000
    )
    about = machine()
    print(f"{about['cpu']}, {at_once} side by side, load {os.getloadavg()[0]:.1f}")
    timed = measure.measure_all(choose_to_time(draw_configs(space, DRAWS)), CPUS, "cpu", at_once)
    model = CostModel(timed, qm9.load())
    print(f"fitted to {len(timed)} configurations, typical error {model.typical_error:.0%}")

    # With this learning rate no trial diverges; only time is measured.
    others = [
        config.model_copy(
            update={"training": config.training.model_copy(update={"learning_rate": 1e-6})}
        )
        for config in draw_configs(space.with_overrides(seed=space.seed + 1), given.count)
    ]
    own = measure.measure_all(others, CPUS, "cpu", at_once)
    with ThreadPoolExecutor(at_once) as pool:
        seconds = list(pool.map(train_an_epoch, others))
    rows: list[dict[str, Any]] = []
    print("   weights  batch  epoch s   model s   error   own steps s   error")
    for config, steps, measured in zip(others, own, seconds, strict=True):
        quoted, by_steps = model.timing(config).epoch_seconds, steps.timing.epoch_seconds
        row = {
            "config": config.to_dict(),
            "epoch_seconds": measured,
            "by_the_model": quoted,
            "by_its_own_steps": by_steps,
            "memory_bytes": steps.timing.memory_bytes,
            "memory_by_the_model": model.timing(config).memory_bytes,
        }
        rows.append(row)
        weights = count_weights(config.network, len(config.targets))
        print(
            f"{weights:>10,}  {config.training.batch_size:>5}  {measured:7.1f}  "
            f"{quoted:8.1f}  {quoted / measured - 1:+6.0%}  {by_steps:12.1f}  "
            f"{by_steps / measured - 1:+6.0%}"
        )
    errors = {
        name: median(abs(row[name] / row["epoch_seconds"] - 1) for row in rows)
        for name in ("by_the_model", "by_its_own_steps")
    }
    memory = median(abs(row["memory_by_the_model"] / row["memory_bytes"] - 1) for row in rows)
    print(
        f"median error: {errors['by_the_model']:.1%} by the model, "
        f"{errors['by_its_own_steps']:.1%} by its own steps; of memory {memory:.1%}"
    )
    if given.json:
        result = {"machine": about, "errors": errors, "memory_error": memory, "rows": rows}
        given.json.write_text(json.dumps(result, indent=1))
    return 0 if max(errors.values()) < 0.2 else 1


if __name__ == "__main__":
    sys.exit(main())
