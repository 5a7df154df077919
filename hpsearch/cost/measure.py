"""Measure the cost of a run from a few steps, in a process like a worker.

The driver does not import torch. It starts ``python -m hpsearch.cost.measure``, which reads a
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
from hpsearch.system import credentials
from hpsearch.system.errors import HpsearchError
from hpsearch.system.gpus import VISIBLE
from hpsearch.system.process import peak_memory, prepare_worker, worker_environment

STEPS = 12
"""Number of timed optimizer steps, on batches drawn as in training."""

WARM_UP = 3
"""Number of steps before them, which load kernels and allocate memory."""

_TIMEOUT_SECONDS = 600.0


class Ended(HpsearchError):
    """Somebody ended the process, usually by Ctrl-C; the configuration is not the cause."""


def measure(config: TrialConfig, cpus: float, device: str, gpu: str | None = None) -> Timing:
    """Time a few steps of ``config`` as a worker with ``cpus`` cores would train it.

    Args:
        config: the configuration to time.
        cpus: cores of the process.
        device: torch's name of the device.
        gpu: identifier of the only GPU that the process may see; ``None`` for all GPUs.

    Raises:
        Ended: somebody ended the process.
        HpsearchError: the process failed; the error contains the last line that it printed.
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
            f"a few steps must take less than {_TIMEOUT_SECONDS:g} s; they took longer, so there "
            "is no estimate"
        ) from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["no message"]
        if done.returncode < 0:
            words = [f"killed by signal {-done.returncode}"]
            if done.returncode == -signal.SIGKILL:
                words = [f"{words[0]}, probably because memory ran out"]
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
    """Time a few steps of every configuration, as many at a time as a launch trains.

    Args:
        configs: the configurations to time.
        cpus: cores of each process.
        device: torch's name of the device.
        at_once: processes at a time.
        say: called with each timing.
        say_failed: called with each configuration that could not be timed and is left out, unless
            somebody ended its process.
        gpus: identifiers of the GPUs. Each process sees one of them, as a worker does.

    Raises:
        HpsearchError: as for :func:`measure`. Without ``say_failed`` the first failure is raised,
            otherwise only if all configurations failed.
    """
    errors: list[HpsearchError] = []
    free: Queue[str | None] = Queue()
    for place in range(at_once):
        free.put(gpus[place % len(gpus)] if gpus else None)

    def timed(config: TrialConfig) -> TimedConfig | None:
        gpu = free.get()
        try:
            result = TimedConfig(config, measure(config, cpus, device, gpu))
        except HpsearchError as error:
            if say_failed is None:
                raise
            errors.append(error)
            if not isinstance(error, Ended):
                say_failed(config, error)
            return None
        finally:
            free.put(gpu)
        say(result)
        return result

    # Withheld here for all threads: they share the environment and would restore it too early.
    with credentials.withheld(), ThreadPoolExecutor(at_once) as pool:
        results = [result for result in pool.map(timed, configs) if result is not None]
    if errors and not results:
        raise errors[0]
    return results


def _timing(request: dict[str, Any]) -> Timing:
    prepare_worker(request["cpus"])
    if request["device"] == "cpu":
        # Only for its memory: a worker also loads Ray, a fifth of the memory of a small trial.
        import hpsearch.executor.worker  # noqa: F401
    from hpsearch.data import own
    from hpsearch.runs.step_time import time_steps
    from hpsearch.runs.training import Training

    config = TrialConfig.from_dict(request["config"])
    molecules = own.load(config.data)
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
