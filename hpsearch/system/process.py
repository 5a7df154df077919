"""Settings of a process that trains (threads, denormals, allocator) and the memory it used.

Workers and benchmarks use the same settings, so that a benchmark measures what a search costs.
The module imports torch only inside functions: the driver, which never builds a
model, calls :func:`worker_environment` alone.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path

_GIBIBYTE = 2**30


def worker_environment(cpus: float) -> dict[str, str]:
    """Environment variables with which a training process must be started.

    OpenMP, MKL and glibc's malloc read them when the process starts, or at their first use; setting
    them in a running process has no effect on the allocator and may have none on the others.

    Args:
        cpus: CPU cores given to the process; a fraction shares one core.
    """
    threads = str(_threads(cpus))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # glibc serves large blocks by mmap and gives freed memory back to the system, so every step
        # of training would fault its buffers in again, page by page. Neither pays here: one step
        # needs what the last one needed. What has a name of its own is set by it and not in
        # GLIBC_TUNABLES, because that one variable may already carry the user's own settings.
        "MALLOC_MMAP_THRESHOLD_": str(16 * _GIBIBYTE),
        "MALLOC_TRIM_THRESHOLD_": str(16 * _GIBIBYTE),
        "MALLOC_TOP_PAD_": str(_GIBIBYTE // 16),
        "GLIBC_TUNABLES": _tunables(os.environ.get("GLIBC_TUNABLES", "")),
    }


def _tunables(own: str) -> str:
    """The user's own settings of glibc, and huge pages where they say nothing of them.

    A step goes through hundreds of megabytes, far more than the processor keeps addresses of in
    pages of 4 kB. glibc before 2.35 and a kernel without such pages ignore the setting.
    """
    if "glibc.malloc.hugetlb" in own:
        return own
    return ":".join(filter(None, (own, "glibc.malloc.hugetlb=1")))


def prepare_worker(cpus: float) -> None:
    """Set what only the process itself can set; a training process calls this first.

    Denormal numbers, a few in ten thousand of a gradient's entries, make a step several times
    slower. The flag that flushes them to zero belongs to a thread and passes on to the threads it
    starts, so it has to be set before torch's first parallel operation.

    Args:
        cpus: as for :func:`worker_environment`.
    """
    # A thread of GNU's OpenMP that waits for another spins for milliseconds. Where somebody else
    # has that one's core, they are lost in every small operation: with two cores taken, two threads
    # needed 20 s instead of 2. A thirtieth still covers healthy waits. Read at torch's import.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(_threads(cpus))


def reset_peak_memory(device: str) -> bool:
    """Start measuring the peak of memory again: a worker trains one run after another.

    Args:
        device: torch's, whose memory it is.

    Returns:
        Whether that was possible; only Linux can do it for a process's own memory.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    # What an earlier run has freed, the allocator keeps (see `worker_environment`): it would count
    # as this run's. musl's C library, for one, has no such function.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        # proc(5): 5 resets the peak of the resident set.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory(device: str) -> int | None:
    """The most bytes in use at a time since :func:`reset_peak_memory`, or since the process began.

    On the CPU those of the whole process, Python and its libraries included; on a GPU those that
    torch has allocated there.

    Args:
        device: torch's.

    Returns:
        ``None`` where the system does not tell.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _threads(cpus: float) -> int:
    return max(1, int(cpus))
