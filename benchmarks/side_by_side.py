"""Compare several runs at a time with one run on all cores, and measure their shared memory.

    python benchmarks/side_by_side.py [--json FILE]

The network is the paper's single-target L1Net. One run on all cores alternates with as many runs as
there are cores, with one core each; their steps per second are added up. Then the benchmark
measures the memory of the molecules' file in each process: the part that it has mapped (Rss), and
its share (Pss). For Pss, a page that two processes map counts as half a page for each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from children import Child
from machine import machine

from hpsearch.data import qm9
from hpsearch.system import hardware
from hpsearch.system.process import prepare_worker, worker_environment
from hpsearch.system.installation import find_space
from hpsearch.config.export import Winner

STEPS = 40
ROUNDS = 3


def child(cores: int) -> None:
    """Read lines from standard input: ``go`` trains, ``memory`` returns the mapped memory."""
    prepare_worker(cores)
    from hpsearch.runs.step_time import time_steps
    from hpsearch.runs.training import Training

    config = Winner.read(find_space("paper_l1net")).config
    config = config.model_copy(update={"targets": ("mu",)})
    with tempfile.TemporaryDirectory() as folder:
        training = Training.begin(config, qm9.load(), Path(folder))
        time_steps(training, 5, 1)
        for line in sys.stdin:
            answer: Any = None
            if line.strip() == "go":
                started = time.perf_counter()
                time_steps(training, 0, STEPS)
                answer = STEPS / (time.perf_counter() - started)
            elif line.strip() == "memory":
                answer = mapped(qm9.cache_directory())
            print(json.dumps(answer), flush=True)


def mapped(folder: Path) -> dict[str, float]:
    """Return the megabytes of the files in ``folder`` that are mapped here: Rss and Pss."""
    found = {"Rss": 0.0, "Pss": 0.0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and (match := re.match(r"(Rss|Pss):\s+(\d+) kB", line)):
            found[match[1]] += int(match[2]) / 1024
    return found


class Runs:
    """Processes that train at the same time."""

    def __init__(self, count: int, cores: int) -> None:
        environment = {**os.environ, **worker_environment(cores)}
        command = [sys.executable, __file__, "--child", str(cores)]
        self._all = [Child(command, environment) for _ in range(count)]
        self.ask("ready")

    def ask(self, word: str) -> list[Any]:
        """Send ``word`` to all processes at once; return their answers."""
        for process in self._all:
            process.send(word)
        return [process.answer() for process in self._all]

    def end(self) -> None:
        """Close them."""
        for process in self._all:
            process.end()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every raw figure to this file")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    cores = hardware.cores()
    alone, beside = Runs(1, cores), Runs(cores, 1)
    raw: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(ROUNDS):
        raw["alone"].append(sum(alone.ask("go")))
        raw["beside"].append(sum(beside.ask("go")))
    memory = beside.ask("memory")
    alone.end()
    beside.end()
    medians = {side: median(values) for side, values in raw.items()}
    about = {**machine(), "cores": cores}
    print(f"{about['cpu']}, {cores} cores, torch {about['torch']}, commit {about['commit']}")
    print(
        f"one run on {cores} cores {medians['alone']:.2f} steps/s; {cores} runs on one core each "
        f"{medians['beside']:.2f} steps/s together: {medians['beside'] / medians['alone']:.2f}x"
    )
    print(
        "the molecules' file in each process: "
        + ", ".join(f"{each['Rss']:.1f} MB mapped, share {each['Pss']:.1f} MB" for each in memory)
    )
    if arguments.json:
        result = {"machine": about, "steps_per_second": raw, "memory_mb": memory}
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
