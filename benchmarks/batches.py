"""Compare training steps with padded and unpadded batches.

    python benchmarks/batches.py [--json FILE]

`make bench` repeats one batch. Training has another batch in every step, and oneDNN compiles its
products for each new shape. Here two processes train the same batches, alternating, with one core
each: one without padding, one with padding to multiples of 16 atoms and 128 pairs. After a warm-up
the benchmark prints the median seconds of a step, their ratio, and the most memory of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine

from hpsearch.config.run import DataConfig
from hpsearch.data import qm9
from hpsearch.system.process import peak_memory, prepare_worker, worker_environment
from hpsearch.system.installation import find_space
from hpsearch.config.targets import TARGET_NAMES
from hpsearch.config.export import Winner

SIDES = {"as they are": (1, 1), "filled up": (16, 128)}
"""Multiples of atoms and of pairs."""

WARM_UP, ROUNDS, STEPS = 40, 6, 10
MOLECULES = 2_000


def child(atoms: int, pairs: int, targets: int) -> None:
    """Read a number of batches from each line of standard input; print seconds and memory."""
    prepare_worker(1)
    import numpy as np

    from hpsearch.nn import network
    from hpsearch.runs.training import Training

    network.ATOM_MULTIPLE, network.PAIR_MULTIPLE = atoms, pairs
    config = Winner.read(find_space("paper_l1net")).config
    training_config = config.training.model_copy(update={"batch_size": 16})
    data = DataConfig(train_size=MOLECULES, validation_size=100, test_size=100)
    names = TARGET_NAMES if targets > 1 else ("mu",)
    config = config.model_copy(update={"targets": names, "training": training_config, "data": data})
    order = np.random.default_rng(0).permutation(MOLECULES)
    with tempfile.TemporaryDirectory() as folder:
        training = Training.begin(config, qm9.load(), Path(folder))
        training.network.train()
        place = 0
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                rows = np.take(order, range(place, place + 16), mode="wrap")
                place += 16
                started = time.perf_counter()
                float(training.step(rows))
                seconds.append(time.perf_counter() - started)
            print(json.dumps({"seconds": seconds, "memory": peak_memory("cpu")}), flush=True)


def measure(targets: int) -> dict[str, Any]:
    """Measure both sides, alternating, on the paper's L1Net."""
    environment = {**os.environ, **worker_environment(1)}
    sides = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--child", *map(str, (*multiples, targets))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for side, multiples in SIDES.items()
    }
    result: dict[str, Any] = {side: {"seconds": [], "peak_memory_bytes": None} for side in SIDES}
    for number in range(ROUNDS + 1):
        for side, process in sides.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{STEPS if number else WARM_UP}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            result[side]["peak_memory_bytes"] = answer["memory"]
            if number:
                result[side]["seconds"] += answer["seconds"]
    for process in sides.values():
        process.communicate()
    return result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every raw figure to this file")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    about = machine()
    print(f"{about['cpu']}, one core each, batches of 16 molecules; median step, most memory")
    results = {}
    for targets in (1, 12):
        found = results[f"{targets} targets"] = measure(targets)
        steps = {side: median(found[side]["seconds"]) for side in SIDES}
        for side in SIDES:
            memory = found[side]["peak_memory_bytes"] / 1e9
            print(f"{targets:2} targets, {side:12} {steps[side] * 1e3:6.1f} ms  {memory:.2f} GB")
        print(f"{targets:2} targets, ratio       {steps['as they are'] / steps['filled up']:.2f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
