"""Measures the cost of a run from a few steps, in a process like a worker's.

The driver never imports torch, so it starts ``python -m hpsearch.cost.measure``, which reads a
configuration from its standard input and writes the timing to its standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from typing import Any

from hpsearch.config.run import TrialConfig
from hpsearch.cost.timings import TimedConfig, Timing
from hpsearch.errors import HpsearchError
from hpsearch.system import credentials
from hpsearch.system.gpus import VISIBLE
from hpsearch.system.process import peak_memory, prepare_worker, worker_environment

STEPS = 12
"""Optimizer steps that are timed, on batches as training draws them."""

WARM_UP = 3
"""Steps before them, in which kernels are loaded and memory is taken."""

_TIMEOUT_SECONDS = 600.0


class Ended(HpsearchError):
    """Somebody ended the process, mostly by Ctrl-C; that says nothing about the configuration."""


def measure(config: TrialConfig, cpus: float, device: str, gpu: str | None = None) -> Timing:
    """Times a few steps of ``config`` as a worker with ``cpus`` cores would train it.

    Args:
        config: what is timed.
        cpus: cores of the process.
        device: torch's.
        gpu: identifier of the only GPU that the process may see; ``None`` hides none.

    Raises:
        Ended: somebody ended the process.
        HpsearchError: the process failed; its last words.
    """
    request = json.dumps({"config": config.to_dict(), "cpus": cpus, "device": device})
    try:
        with credentials.withheld():
            done = subprocess.run(
                [sys.executable, "-m", "hpsearch.cost.measure"],
                input=request,
                capture_output=True,
                text=True,
                env={**os.environ, **worker_environment(cpus), **_only(gpu)},
                timeout=_TIMEOUT_SECONDS,
            )
    except subprocess.TimeoutExpired:
        raise HpsearchError(
            f"a few steps must take less than {_TIMEOUT_SECONDS:g} s; they did not, so nothing can "
            "be said of the whole"
        ) from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        if done.returncode < 0:
            words = [f"killed by signal {-done.returncode}"]
            if done.returncode == -signal.SIGKILL:
                words = [f"{words[0]}, as where memory does not suffice"]
            if done.returncode == -signal.SIGINT:
                raise Ended(f"a few steps were not timed: {words[0]}")
        raise HpsearchError(f"a few steps could not be timed: {words[-1]}")
    return Timing(**json.loads(done.stdout))


def _only(gpu: str | None) -> dict[str, str]:
    return {} if gpu is None else {VISIBLE: gpu}


def measure_all(
    configs: Sequence[TrialConfig],
    cpus: float,
    device: str,
    at_once: int,
    say: Callable[[TimedConfig], None] = lambda timed: None,
    say_failed: Callable[[TrialConfig, HpsearchError], None] | None = None,
    gpus: Sequence[str] = (),
) -> list[TimedConfig]:
    """Times a few steps of each of ``configs``, as many side by side as a launch trains.

    Args:
        configs: what is timed.
        cpus: cores of each.
        device: torch's.
        at_once: processes side by side.
        say: called with each timing.
        say_failed: called with each configuration that could not be timed, which is then left out;
            not with one whose process somebody ended.
        gpus: identifiers; each process sees one of them, shared out evenly, as Ray gives them to
            workers.

    Raises:
        HpsearchError: as :func:`measure`; without ``say_failed`` at the first failure, else only
            where all failed.
    """
    errors: list[HpsearchError] = []
    free: Queue[str | None] = Queue()
    for place in range(at_once):
        free.put(gpus[place % len(gpus)] if gpus else None)

    def timed(config: TrialConfig) -> TimedConfig | None:
        gpu = free.get()
        try:
            found = TimedConfig(config, measure(config, cpus, device, gpu))
        except HpsearchError as error:
            if say_failed is None:
                raise
            errors.append(error)
            if not isinstance(error, Ended):
                say_failed(config, error)
            return None
        finally:
            free.put(gpu)
        say(found)
        return found

    # Withheld once for all: the environment is the process's, and threads would undo each other's.
    with credentials.withheld(), ThreadPoolExecutor(at_once) as pool:
        found = [each for each in pool.map(timed, configs) if each is not None]
    if errors and not found:
        raise errors[0]
    return found


def _timing(request: dict[str, Any]) -> Timing:
    prepare_worker(request["cpus"])
    if request["device"] == "cpu":
        # For the memory alone: a worker has Ray in it, a fifth of what a small trial takes.
        import hpsearch.executor.worker  # noqa: F401
    from hpsearch.data import qm9
    from hpsearch.runs.step_time import time_steps
    from hpsearch.runs.training import Training

    config = TrialConfig.from_dict(request["config"])
    molecules = qm9.load()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        training = Training.begin(config, molecules, Path(folder), request["device"])
        started = time.monotonic() - began
        step_seconds, evaluation_seconds = time_steps(training, WARM_UP, STEPS)
    return Timing(
        step_seconds=step_seconds,
        evaluation_seconds=evaluation_seconds,
        start_seconds=started,
        memory_bytes=peak_memory(request["device"]) or 0,
        steps=training.steps_per_epoch,
        validation=len(training.split.validation),
        test=len(training.split.test),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_timing(json.load(sys.stdin)))))
