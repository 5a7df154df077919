"""The processor, the cores and the memory of this machine, as Linux tells them.

The GPUs are in :mod:`hpsearch.system.gpus`.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """Which processor this is; every part is empty where the system does not tell it.

    Attributes:
        name: its model's. Some virtual machines hide it: family and model tell the generation.
        family: number of the family.
        model: number of the model.
        vendor: ``GenuineIntel``, ``AuthenticAMD`` or another; ``None`` where nothing can be read.
    """

    name: str = ""
    family: str = ""
    model: str = ""
    vendor: str | None = None

    @property
    def label(self) -> str:
        """Name, family and model, by which kept timings are found again."""
        return " ".join(filter(None, (self.name, self.family, self.model)))


def processor() -> Processor:
    """The first of this machine's processors."""
    text = _cpuinfo().decode(errors="replace")
    if not text:
        return Processor(platform.processor())
    keys = ("model name", "cpu family", "model", "vendor_id")
    found = (re.search(rf"{key}\s*:\s*(.*)", text) for key in keys)
    return Processor(*(match[1] if match else "" for match in found))


def instructions() -> bytes:
    """What a compiler's ``-march=native`` depends on: the instructions that the processor knows.

    The names of compiled kernels are made from these bytes: other bytes have all of them compiled
    again.
    """
    lines = _cpuinfo().splitlines()
    if not lines:
        return f"{platform.machine()} {platform.processor()}".encode()
    wanted = (b"vendor_id", b"cpu family", b"model", b"flags", b"Features", b"CPU")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def cores() -> int:
    """Cores that this process may use; a container's share of their time may be smaller."""
    return len(os.sched_getaffinity(0))


def core_share() -> float | None:
    """Cores' worth of time that the container may use; ``None`` where nothing limits it."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def available_memory() -> int | None:
    """Bytes that programs may still take, of the machine's memory or of the container's limit.

    ``None`` where the system does not tell.
    """
    found = [line for line in _read("/proc/meminfo").splitlines() if "MemAvailable" in line]
    if not found:
        return None
    free = int(found[0].split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        return min(free, int(limit) - int(used))
    return free


def _cpuinfo() -> bytes:
    """Linux's description of every core; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_bytes()
    except OSError:
        return b""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
