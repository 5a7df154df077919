"""What was timed of runs, kept per machine and placement for the next search."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpsearch.config.run import TrialConfig
from hpsearch.system.files import cache_directory, write_whole

KEPT = 64
"""Configurations whose timings are kept, the latest ones."""


@dataclass(frozen=True)
class Timing:
    """What a run takes, as a few steps of it had it or as the model has it.

    Attributes:
        step_seconds: of an optimizer step.
        evaluation_seconds: of a molecule that is evaluated.
        start_seconds: of building the run, until the first step.
        memory_bytes: most memory that the process has.
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

    def run_seconds(self, epochs: int, *, tested: bool = True) -> float:
        """Of a run of ``epochs``, from its start to its end.

        Args:
            epochs: of the run.
            tested: whether the test molecules are evaluated at the end.
        """
        test = self.test * self.evaluation_seconds if tested else 0.0
        return self.start_seconds + epochs * self.epoch_seconds + test


@dataclass(frozen=True)
class Timed:
    """A configuration and what a few steps of it took."""

    config: TrialConfig
    timing: Timing


@dataclass(frozen=True)
class Surroundings:
    """Where and how runs were timed; rates hold for the same ones only.

    Attributes:
        cpus: cores of a run.
        device: torch's.
        at_once: runs side by side, which share the memory's bandwidth.
        gpu: the model's name, of a run on a GPU.
    """

    cpus: float
    device: str
    at_once: int
    gpu: str = ""

    def describe(self) -> dict[str, Any]:
        """With the machine, torch's version and our own arithmetic."""
        return {
            **{name: value for name, value in asdict(self).items() if name != "gpu" or value},
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "torch": metadata.version("torch"),
            "kernels": os.environ.get("HPSEARCH_KERNELS", "auto"),
            "arithmetic": _arithmetic(),
        }

    @property
    def file(self) -> Path:
        """Where the timings are kept."""
        text = json.dumps(self.describe(), sort_keys=True)
        return cache_directory() / "timings" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _arithmetic() -> str:
    """A digest of the network's source: other code has other rates."""
    package = Path(__file__).parents[1]
    files = [path for name in ("nn", "kernels") for path in sorted((package / name).iterdir())]
    files = [path for path in files if path.is_file()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    # Some virtual machines hide the model's name: family and model tell the generation.
    found = (re.search(rf"{key}\s*:\s*(.*)", text) for key in ("model name", "cpu family", "model"))
    return " ".join(match[1] for match in found if match)


def kept(surroundings: Surroundings) -> list[Timed]:
    """What was timed here before, the latest last; a file that cannot be read counts for none."""
    try:
        rows = json.loads(surroundings.file.read_text())["timed"]
        return [Timed(TrialConfig.from_dict(r["config"]), Timing(**r["timing"])) for r in rows]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return []


def keep(surroundings: Surroundings, timed: Sequence[Timed]) -> None:
    """Add ``timed`` to what is kept, instead of earlier timings of the same configurations."""
    again = {each.config.fingerprint for each in timed}
    before = [each for each in kept(surroundings) if each.config.fingerprint not in again]
    rows = [
        {"config": each.config.to_dict(), "timing": asdict(each.timing)}
        for each in [*before, *timed][-KEPT:]
    ]
    file = surroundings.file
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"surroundings": surroundings.describe(), "timed": rows}))
