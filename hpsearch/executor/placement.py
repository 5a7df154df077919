"""The placement of runs: what each run is given, how many train at a time, on which machines.

Nothing here imports ray, so that a wrong placement is reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpsearch.system.errors import InputError

NO_LIMIT = 100_000
"""Number of runs at a time if the user sets no limit."""

Resources = Mapping[str, float]
"""The resources of a machine, by Ray's names: ``CPU``, ``GPU`` and others."""


@dataclass(frozen=True)
class Placement:
    """What each run is given, how many train at a time, and where.

    Attributes:
        max_concurrent: most runs at a time; ``None`` for as many as fit.
        cpus_per_run: CPU cores of a run; with a fraction, runs share a core.
        gpus_per_run: GPUs of a run: 0, 1, or a fraction, with which runs share a GPU.
        device: ``cpu`` or ``cuda``; ``None`` means ``cuda`` if runs are given GPUs, else ``cpu``.
        address: ``host:port`` of a running Ray cluster, or ``auto``; ``None`` starts a cluster on
            this machine and stops it at the end.
        deadline_seconds: the longest time between two reports of a run, which come once an epoch.
            A worker that exceeds it is killed. ``None`` waits for ever.

    Raises:
        InputError: a value is out of range, or two values contradict each other.
    """

    max_concurrent: int | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    device: str | None = None
    address: str | None = None
    deadline_seconds: float | None = None

    def __post_init__(self) -> None:
        self._check_device()
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise InputError(f"the runs at a time must be at least 1; got {self.max_concurrent}")
        if not 0 < self.cpus_per_run < math.inf:
            raise InputError(f"the CPUs of a run must be above 0; got {self.cpus_per_run:g}")
        self._check_gpus()
        if self.deadline_seconds is not None and not self.deadline_seconds > 0:
            raise InputError(
                f"the deadline of an epoch must be above 0 s; got {self.deadline_seconds:g}"
            )
        if self.address is not None and self.address.startswith("ray://"):
            raise InputError(
                "the address must be host:port of the cluster's head, or auto; got "
                f"'{self.address}', a Ray client's address, which cannot run a search"
            )

    def _check_device(self) -> None:
        if self.device not in (None, "cpu", "cuda"):
            raise InputError(
                f"the device must be cpu or cuda, got '{self.device}'; leave it out to use cuda if "
                "runs are given GPUs"
            )
        if self.device == "cuda" and self.gpus_per_run == 0:
            raise InputError(
                "a run on cuda must be given a GPU or a part of one, got 0 GPUs; give it some "
                "(--gpus-per-trial, --gpus-per-run)"
            )

    def _check_gpus(self) -> None:
        if self.gpus_per_run > 1:
            raise InputError(
                f"a run uses one GPU at most, got {self.gpus_per_run:g}; give it 1 or a fraction "
                "(--gpus-per-trial, --gpus-per-run): other GPUs train other runs"
            )
        if not self.gpus_per_run >= 0:
            raise InputError(
                f"the GPUs of a run must be 0, 1 or a fraction; got {self.gpus_per_run:g}"
            )

    @property
    def torch_device(self) -> str:
        """torch's device in the worker: ``device``, or the one that the run's resources imply."""
        return self.device or ("cuda" if self.gpus_per_run > 0 else "cpu")

    @property
    def resources(self) -> dict[str, float]:
        """The resources that a machine must have for a run."""
        return {"CPU": self.cpus_per_run, "GPU": self.gpus_per_run}

    def fitting(self, machine: Resources) -> int:
        """Return how many runs fit into one machine, or into free resources."""
        cpu_places = math.floor(machine.get("CPU", 0.0) / self.cpus_per_run + 1e-6)
        if self.gpus_per_run == 0:
            return cpu_places
        return min(cpu_places, math.floor(machine.get("GPU", 0.0) / self.gpus_per_run + 1e-6))

    def places(self, machines: Iterable[Resources]) -> int:
        """Return how many runs fit into the machines."""
        return sum(self.fitting(machine) for machine in machines)

    def runs_at_a_time(self, machines: Iterable[Resources]) -> int:
        """Return how many runs train at a time on the machines."""
        return min(self.places(machines), self.max_concurrent or NO_LIMIT)

    def alone(self, machines: Iterable[Resources]) -> dict[str, float]:
        """Return the resources of a run without neighbours: a whole GPU, or a machine's cores."""
        if self.gpus_per_run > 0:
            return {"CPU": self.cpus_per_run, "GPU": 1.0}
        cores = [machine.get("CPU", 0.0) for machine in machines if self.fitting(machine)]
        return {"CPU": max(cores, default=self.cpus_per_run), "GPU": 0.0}

    def require_room(self, machines: Iterable[Resources]) -> None:
        """Refuse a placement with which no run could ever start.

        Raises:
            InputError: no machine is large enough for a run.
        """
        machines = list(machines)
        if self.places(machines):
            return
        sizes = sorted({(m.get("CPU", 0.0), m.get("GPU", 0.0)) for m in machines}, reverse=True)
        found = " or ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sizes)
        raise InputError(
            f"a run must fit into one machine; it was given {self.cpus_per_run:g} CPUs and "
            f"{self.gpus_per_run:g} GPUs, but Ray's machines have {found or 'nothing'}; give a run "
            "less (--cpus-per-trial, --cpus-per-run, --gpus-per-trial, --gpus-per-run)"
        )
