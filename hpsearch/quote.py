"""What a run will cost, from a few steps of it: measured in a process of its own, as a worker's.

The driver never imports torch, so it asks ``python -m hpsearch.quote``, which reads a configuration
from its standard input and writes what it measured to its standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpsearch import credentials
from hpsearch.config import TrialConfig
from hpsearch.errors import HpsearchError
from hpsearch.process import prepare_worker, worker_environment

STEPS = 12
"""Optimizer steps that are timed, on batches as training draws them."""

WARM_UP = 3
"""Steps before them, in which kernels are loaded and memory is taken."""

_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Timing:
    """What a few steps of a run took.

    Attributes:
        step_seconds: median of an optimizer step.
        evaluation_seconds: of a molecule that is evaluated.
        start_seconds: from the start of the process to the first step.
        memory_bytes: most memory that the process had.
        steps: optimizer steps of an epoch.
        validation: molecules evaluated after each epoch.
        test: molecules evaluated at the end.
    """

    step_seconds: float
    evaluation_seconds: float
    start_seconds: float
    memory_bytes: int
    steps: int
    validation: int
    test: int

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch, its evaluation included."""
        return self.steps * self.step_seconds + self.validation * self.evaluation_seconds

    def run_seconds(self, epochs: int) -> float:
        """Of a run of ``epochs``, from its start to its test."""
        test = self.test * self.evaluation_seconds
        return self.start_seconds + epochs * self.epoch_seconds + test


def measure(config: TrialConfig, cpus: float, device: str) -> Timing:
    """Times a few steps of ``config`` as a worker with ``cpus`` cores would train it.

    Raises:
        HpsearchError: the process failed; its last words.
    """
    request = json.dumps({"config": config.to_dict(), "cpus": cpus, "device": device})
    try:
        with credentials.withheld():
            done = subprocess.run(
                [sys.executable, "-m", "hpsearch.quote"],
                input=request,
                capture_output=True,
                text=True,
                env={**os.environ, **worker_environment(cpus)},
                timeout=_TIMEOUT_SECONDS,
            )
    except subprocess.TimeoutExpired:
        raise HpsearchError(
            f"a few steps must take less than {_TIMEOUT_SECONDS:g} s; they did not, so nothing can "
            "be said of the whole"
        ) from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise HpsearchError(f"a few steps could not be timed: {words[-1]}")
    return Timing(**json.loads(done.stdout))


def _timing(request: dict[str, Any], began: float) -> Timing:
    prepare_worker(request["cpus"])
    from hpsearch.data import qm9
    from hpsearch.train import Training

    config = TrialConfig.from_dict(request["config"])
    with tempfile.TemporaryDirectory() as folder:
        training = Training(config, qm9.load(), Path(folder), request["device"])
        started = time.monotonic() - began
        step_seconds, evaluation_seconds = training.time_steps(WARM_UP, STEPS)
    status = Path("/proc/self/status")
    peak = 0
    if status.exists():
        [line] = [row for row in status.read_text().splitlines() if row.startswith("VmHWM:")]
        peak = int(line.split()[1]) * 1024
    return Timing(
        step_seconds=step_seconds,
        evaluation_seconds=evaluation_seconds,
        start_seconds=started,
        memory_bytes=peak,
        steps=training.steps_per_epoch,
        validation=len(training.split.validation),
        test=len(training.split.test),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_timing(json.load(sys.stdin), time.monotonic()))))
