"""Where runs are placed: what one run is given, how many go on at a time, on which machines.

Nothing here imports ray, so that a wrong placement is refused at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpsearch.errors import InputError

NO_LIMIT = 100_000
"""Runs at a time where nobody has set a limit."""

Resources = Mapping[str, float]
"""What a machine has, by Ray's names: ``CPU``, ``GPU`` and others."""


@dataclass(frozen=True)
class Placement:
    """Where runs are placed.

    Attributes:
        max_concurrent: most runs at a time; ``None`` takes as many as there is room for.
        cpus_per_run: CPU cores of a run; a fraction shares a core.
        gpus_per_run: the GPU of a run: 0, 1, or a fraction that shares a GPU.
        device: ``cpu`` or ``cuda``; ``None`` takes ``cuda`` where runs are given GPUs and ``cpu``
            elsewhere.
        address: ``host:port`` of a running Ray cluster, or ``auto``; ``None`` starts one on this
            machine and ends it afterwards.
        deadline_seconds: longest silence of a run, an epoch's length say, after which its worker
            is killed as hanging; ``None`` waits for ever.

    Raises:
        InputError: a value is out of its range, or two do not go together.
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
                f"the device must be cpu or cuda, got '{self.device}'; leave it out for cuda where "
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
        """torch's device in the worker: what was asked for, else what the run is given."""
        return self.device or ("cuda" if self.gpus_per_run > 0 else "cpu")

    @property
    def resources(self) -> dict[str, float]:
        """What a machine must have for a run."""
        return {"CPU": self.cpus_per_run, "GPU": self.gpus_per_run}

    def fitting(self, machine: Resources) -> int:
        """How many runs fit beside each other into one machine, or into what is free."""
        cpu_places = math.floor(machine.get("CPU", 0.0) / self.cpus_per_run + 1e-6)
        if self.gpus_per_run == 0:
            return cpu_places
        return min(cpu_places, math.floor(machine.get("GPU", 0.0) / self.gpus_per_run + 1e-6))

    def places(self, machines: Iterable[Resources]) -> int:
        """How many runs fit into the machines."""
        return sum(self.fitting(machine) for machine in machines)

    def runs_at_a_time(self, machines: Iterable[Resources]) -> int:
        """How many runs go on at a time on the machines."""
        return min(self.places(machines), self.max_concurrent or NO_LIMIT)

    def alone(self, machines: Iterable[Resources]) -> dict[str, float]:
        """What a run is given that must have no neighbour: a whole GPU, or a machine's cores."""
        if self.gpus_per_run > 0:
            return {"CPU": self.cpus_per_run, "GPU": 1.0}
        cores = [machine.get("CPU", 0.0) for machine in machines if self.fitting(machine)]
        return {"CPU": max(cores, default=self.cpus_per_run), "GPU": 0.0}

    def require_room(self, machines: Iterable[Resources]) -> None:
        """Refuse a run that would wait for ever.

        Raises:
            InputError: none of the machines is large enough.
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
