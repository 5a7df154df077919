"""Compare the seconds of a training step with those of another checkout, in turn.

    git worktree add /tmp/before COMMIT
    python benchmarks/before_after.py /tmp/before [--turns N] [--json FILE]

One process of each checkout trains the same network on the same molecules of QM9, on all cores.
They take turns, so that both see the same state of the machine. For each turn the benchmark takes
the ratio now / before. It prints their mean with a 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from children import Child
from machine import conclude, machine
from scipy import stats

from hpsearch.system import hardware
from hpsearch.system.process import worker_environment

HERE = Path(__file__).resolve().parents[1]
STEPS = 30
TURNS = 10
NETWORKS = ("paper_l1net on mu", "a draw of quick on twelve targets")
MOST_SLOWER = 0.05
"""The upper end of the interval must be below this."""


def child(which: str) -> None:
    """Train steps for every line of standard input, and print the median seconds of a step."""
    from hpsearch.config.export import Winner
    from hpsearch.config.space import SearchSpace
    from hpsearch.data import qm9
    from hpsearch.runs.step_time import time_steps
    from hpsearch.runs.training import Training
    from hpsearch.search.quote import draw_configs
    from hpsearch.system.installation import find_space
    from hpsearch.system.process import prepare_worker

    prepare_worker(hardware.cores())
    if which == NETWORKS[0]:
        config = Winner.read(find_space("paper_l1net")).config
        config = config.model_copy(update={"targets": ("mu",)})
    else:
        config = draw_configs(SearchSpace.load(find_space("quick")), 1)[0]
    with tempfile.TemporaryDirectory() as folder:
        training = Training.begin(config, qm9.load(), Path(folder))
        time_steps(training, 5, 1)
        for _ in sys.stdin:
            print(time_steps(training, 2, STEPS)[0], flush=True)


def trained(checkout: Path, which: str) -> Child:
    """Start a process that trains with the code of a checkout."""
    environment = {**os.environ, **worker_environment(hardware.cores())}
    environment["PYTHONPATH"] = f"{checkout}{os.pathsep}{HERE / 'benchmarks'}"
    command = [sys.executable, __file__, str(checkout), "--child", which]
    return Child(command, environment, checkout)


def compare(which: str, before: Path, turns: int) -> dict[str, Any]:
    """Return the seconds of each turn, and the mean ratio with its interval."""
    sides = {"now": trained(HERE, which), "before": trained(before, which)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(turns + 1):
        # The order changes, so that neither always comes first.
        for side in sorted(sides, reverse=turn % 2 == 0):
            sides[side].send("go")
            taken = sides[side].answer()
            if turn:  # the first turn warms up
                seconds[side].append(taken)
    for process in sides.values():
        process.end()
    ratios = [a / b for a, b in zip(seconds["now"], seconds["before"], strict=True)]
    half = float(stats.t.ppf(0.975, turns - 1)) * stdev(ratios) / math.sqrt(turns)
    ends = [mean(ratios) - half, mean(ratios) + half]
    return {"network": which, "seconds": seconds, "ratio": mean(ratios), "interval": ends}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--json", type=Path, help="write every raw figure to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    head = ["git", "-C", str(arguments.before), "rev-parse", "HEAD"]
    other = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    about = {**machine(), "cores": hardware.cores(), "before": other}
    print(f"{about['cpu']}, {about['cores']} cores, torch {about['torch']}")
    print(f"commit {about['commit']} against {other}, {arguments.turns} turns of {STEPS} steps")
    results, missed = [], []
    for which in NETWORKS:
        result = compare(which, arguments.before.resolve(), arguments.turns)
        results.append(result)
        low, high = (100 * (end - 1) for end in result["interval"])
        before, now = (1e3 * mean(result["seconds"][side]) for side in ("before", "now"))
        print(
            f"{which}: {before:.1f} ms before, {now:.1f} ms now, "
            f"{100 * (result['ratio'] - 1):+.1f} % ({low:+.1f} to {high:+.1f} %)"
        )
        if high > 100 * MOST_SLOWER:
            missed.append(f"{which}: the interval ends at {high:+.1f} %")
    return conclude(arguments.json, about, results, missed)


if __name__ == "__main__":
    sys.exit(main())
