"""What one run occupies, and which machines have room for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ray

from hpsearch.errors import InputError

NO_LIMIT = 100_000
"""Runs at a time where nobody has set a limit."""


@dataclass(frozen=True)
class Place:
    """What one run occupies.

    Attributes:
        cpus: CPU cores.
        gpus: GPUs.
    """

    cpus: float
    gpus: float

    def fitting(self, resources: dict[str, float]) -> int:
        """How many runs fit beside each other into ``resources``."""
        cpu_places = math.floor(resources.get("CPU", 0.0) / self.cpus + 1e-6)
        if self.gpus == 0:
            return cpu_places
        return min(cpu_places, math.floor(resources.get("GPU", 0.0) / self.gpus + 1e-6))

    def whole(self) -> dict[str, float]:
        """What a run occupies that shall be alone: its GPU, or a machine's cores."""
        if self.gpus > 0:
            return {"cpus": self.cpus, "gpus": max(self.gpus, 1.0)}
        cores = [m.get("CPU", 0.0) for m in machines_up() if self.fitting(m)]
        return {"cpus": max(cores, default=self.cpus), "gpus": 0.0}

    def count(self) -> int:
        """How many runs fit into the machines that are up."""
        return sum(self.fitting(machine) for machine in machines_up())

    def free(self) -> int:
        """About how many runs could start now; others may use the cluster too."""
        return self.fitting(ray.available_resources())

    def check(self, machines: list[dict[str, float]]) -> None:
        """Refuses a run that would wait for ever.

        Raises:
            InputError: none of the machines is large enough.
        """
        if any(self.fitting(machine) for machine in machines):
            return
        sizes = sorted({(m.get("CPU", 0.0), m.get("GPU", 0.0)) for m in machines}, reverse=True)
        found = " or ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sizes)
        raise InputError(
            f"a run must fit into one machine; it was given {self.cpus:g} CPUs and "
            f"{self.gpus:g} GPUs, but Ray's machines have {found or 'nothing'}; give a run less "
            "(--cpus-per-trial, --cpus-per-run, --gpus-per-trial, --gpus-per-run)"
        )


def machines_up() -> list[dict[str, float]]:
    """What each machine of the cluster has; without those that have died."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def device_of(device: str | None, gpus_per_run: float) -> str:
    """torch's device in the worker: what was asked for, else what the run was given."""
    return device or ("cuda" if gpus_per_run > 0 else "cpu")


def check_request(
    max_concurrent: int | None,
    cpus: float,
    gpus: float,
    deadline_seconds: float | None,
    device: str | None,
) -> None:
    """Refuses what no machine could do; arguments as of :func:`hpsearch.executor.run`.

    Raises:
        InputError: a value is out of its range, or two do not go together.
    """
    if device not in (None, "cpu", "cuda"):
        raise InputError(
            f"the device must be cpu or cuda, got '{device}'; leave it out for cuda where runs are "
            "given GPUs"
        )
    if device == "cuda" and gpus == 0:
        raise InputError(
            "a run on cuda must be given a GPU or a part of one, got 0 GPUs; give it some "
            "(--gpus-per-trial, --gpus-per-run)"
        )
    if max_concurrent is not None and max_concurrent < 1:
        raise InputError(f"the runs at a time must be at least 1; got {max_concurrent}")
    if not 0 < cpus < math.inf:
        raise InputError(f"the CPUs of a run must be above 0; got {cpus:g}")
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
        raise InputError(
            f"the GPUs of a run must be 0, a fraction of one or a whole number; got {gpus:g}"
        )
    if deadline_seconds is not None and not deadline_seconds > 0:
        raise InputError(f"the deadline of an epoch must be above 0 s; got {deadline_seconds:g}")
