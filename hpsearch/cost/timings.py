"""The cost of a run, and the file that keeps measured costs for the next search on this machine."""

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
"""The file keeps the timings of so many configurations, the latest ones."""


@dataclass(frozen=True)
class Timing:
    """A run's cost, measured from a few steps or predicted by the model.

    Attributes:
        step_seconds: seconds of an optimizer step.
        evaluation_seconds: seconds to evaluate one molecule.
        start_seconds: seconds to build the run, until the first step.
        memory_bytes: the most memory that the process uses.
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
        """Seconds of an epoch, its evaluation included."""
        return self.steps * self.step_seconds + self.validation * self.evaluation_seconds

    def run_seconds(self, epochs: int, *, tested: bool = True) -> float:
        """Seconds of a run of ``epochs``, from its start to its end.

        Args:
            epochs: number of epochs.
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
    """The machine and the placement that runs were timed with; timings are valid only there.

    Attributes:
        cpus: cores of a run.
        device: torch's name of the device.
        at_once: runs side by side, which share the memory's bandwidth.
        gpu: the model's name, for a run on a GPU.
    """

    cpus: float
    device: str
    at_once: int
    gpu: str = ""

    def describe(self) -> dict[str, Any]:
        """The placement with the machine, torch's version and a digest of the network's source."""
        return {
            **{name: value for name, value in asdict(self).items() if name != "gpu" or value},
            "processor": hardware.processor().label,
            "cores": hardware.cores(),
            "torch": metadata.version("torch"),
            "kernels": os.environ.get("HPSEARCH_KERNELS", "auto"),
            "arithmetic": _arithmetic(),
        }

    @property
    def file(self) -> Path:
        """The file that keeps the timings."""
        text = json.dumps(self.describe(), sort_keys=True)
        return cache_directory() / "timings" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _arithmetic() -> str:
    """A digest of the network's source: other code takes other times."""
    package = Path(__file__).parents[1]
    files = [path for name in ("nn", "kernels") for path in sorted((package / name).iterdir())]
    files = [path for path in files if path.is_file()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def cached_timings(surroundings: TimingConditions) -> list[TimedConfig]:
    """The timings kept for these surroundings, the latest last; none if their file is damaged."""
    try:
        rows = json.loads(surroundings.file.read_text())["timed"]
        return [
            TimedConfig(TrialConfig.from_dict(r["config"]), Timing(**r["timing"])) for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return []


def cache_timings(surroundings: TimingConditions, timed: Sequence[TimedConfig]) -> None:
    """Add ``timed`` to the file; they replace earlier timings of the same configurations."""
    again = {each.config.fingerprint for each in timed}
    before = [each for each in cached_timings(surroundings) if each.config.fingerprint not in again]
    rows = [
        {"config": each.config.to_dict(), "timing": asdict(each.timing)}
        for each in [*before, *timed][-MOST_CACHED:]
    ]
    file = surroundings.file
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"surroundings": surroundings.describe(), "timed": rows}))
