"""The cost of a run, and the cache of measured costs for later searches on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpsearch.config.run import TrialConfig
from hpsearch.system import hardware
from hpsearch.system.files import cache_directory, write_atomically

MOST_CACHED = 64
"""Number of configurations in the cache; the latest ones stay."""


@dataclass(frozen=True)
class Timing:
    """A run's cost, measured from a few steps or predicted by the model.

    Attributes:
        step_seconds: seconds of an optimizer step.
        evaluation_seconds: seconds to evaluate one molecule.
        start_seconds: seconds to build the run, until the first step.
        memory_bytes: the most memory that the process uses.
        steps: optimizer steps per epoch.
        validation: number of molecules evaluated after each epoch.
        test: number of molecules evaluated at the end.
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
        """Seconds of an epoch, including its evaluation."""
        return self.steps * self.step_seconds + self.validation * self.evaluation_seconds

    def run_seconds(self, epochs: float, *, tested: bool = True) -> float:
        """Return the seconds of a run of ``epochs``, from its start to its end.

        Args:
            epochs: number of epochs; a mean over several runs need not be whole.
            tested: whether the test molecules are evaluated at the end.
        """
        test = self.test * self.evaluation_seconds if tested else 0.0
        return self.start_seconds + epochs * self.epoch_seconds + test


@dataclass(frozen=True)
class TimedConfig:
    """A configuration and its measured cost."""

    config: TrialConfig
    timing: Timing


@dataclass(frozen=True)
class TimingConditions:
    """The conditions of a timing: it is valid only for the same placement on the same machine.

    Attributes:
        cpus: cores of a run.
        device: torch's name of the device.
        at_once: runs at a time, which share the memory bandwidth.
        gpu: name of the GPU model, for a run on a GPU.
        molecules: hash of own molecules; empty for QM9.
    """

    cpus: float
    device: str
    at_once: int
    gpu: str = ""
    molecules: str = ""

    def describe(self) -> dict[str, Any]:
        """Return the placement, the machine, torch's version and a digest of the network's code."""
        return {
            **{name: value for name, value in asdict(self).items() if value != ""},
            "processor": hardware.processor().label,
            "cores": hardware.cores(),
            "torch": metadata.version("torch"),
            "kernels": os.environ.get("HPSEARCH_KERNELS", "auto"),
            "arithmetic": _arithmetic(),
        }

    @property
    def file(self) -> Path:
        """The cache file of these conditions."""
        text = json.dumps(self.describe(), sort_keys=True)
        return cache_directory() / "timings" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _arithmetic() -> str:
    """Return a digest of the network's source code, because a change may change its speed."""
    package = Path(__file__).parents[1]
    files = [path for name in ("nn", "kernels") for path in sorted((package / name).iterdir())]
    files = [path for path in files if path.is_file()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def cached_timings(conditions: TimingConditions) -> list[TimedConfig]:
    """Return the cached timings for these conditions, oldest first; none if the file is damaged."""
    try:
        rows = json.loads(conditions.file.read_text())["timed"]
        return [
            TimedConfig(TrialConfig.from_dict(r["config"]), Timing(**r["timing"])) for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return []


def cache_timings(conditions: TimingConditions, timed: Sequence[TimedConfig]) -> None:
    """Add ``timed`` to the cache, replacing earlier timings of the same configurations."""
    again = {t.config.fingerprint for t in timed}
    before = [t for t in cached_timings(conditions) if t.config.fingerprint not in again]
    rows = [
        {"config": t.config.to_dict(), "timing": asdict(t.timing)}
        for t in [*before, *timed][-MOST_CACHED:]
    ]
    file = conditions.file
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"surroundings": conditions.describe(), "timed": rows}))
