"""The processor, the cores and the memory of this machine, as Linux reports them.

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
    """The model of this processor; a part that the system does not report is empty.

    Attributes:
        name: name of the model. Some virtual machines hide it; family and model identify the
            generation.
        family: number of the family.
        model: number of the model.
        vendor: ``GenuineIntel``, ``AuthenticAMD`` or another; ``None`` if nothing can be read.
    """

    name: str = ""
    family: str = ""
    model: str = ""
    vendor: str | None = None

    @property
    def label(self) -> str:
        """Name, family and model: part of the key of stored timings."""
        return " ".join(filter(None, (self.name, self.family, self.model)))


def processor() -> Processor:
    """The first processor of this machine."""
    text = _cpuinfo().decode(errors="replace")
    if not text:
        return Processor(platform.processor())
    keys = ("model name", "cpu family", "model", "vendor_id")
    matches = (re.search(rf"{key}\s*:\s*(.*)", text) for key in keys)
    return Processor(*(match[1] if match else "" for match in matches))


def instructions() -> bytes:
    """The instructions of this processor, on which a compiler's ``-march=native`` depends.

    The names of compiled kernels are derived from these bytes. If the bytes change, the kernels
    are compiled again.
    """
    lines = _cpuinfo().splitlines()
    if not lines:
        return f"{platform.machine()} {platform.processor()}".encode()
    wanted = (b"vendor_id", b"cpu family", b"model", b"flags", b"Features", b"CPU")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def cores() -> int:
    """The number of cores that this process may use; a container may get less of their time."""
    return len(os.sched_getaffinity(0))


def core_share() -> float | None:
    """The container's limit of processor time, in cores; ``None`` without a limit."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def available_memory() -> int | None:
    """Bytes of memory that are still available on this machine or within the container's limit.

    ``None`` if the system does not report it.
    """
    lines = [line for line in _read("/proc/meminfo").splitlines() if "MemAvailable" in line]
    if not lines:
        return None
    free = int(lines[0].split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        return min(free, int(limit) - int(used))
    return free


def _cpuinfo() -> bytes:
    """Linux's description of every core; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_bytes()
    except OSError:
        return b""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
