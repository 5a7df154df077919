"""Settings of a training process (threads, denormals, allocator), and its peak memory.

Workers and benchmarks use the same settings, so a benchmark measures the cost of a search.
Torch is imported only inside functions: the driver calls :func:`worker_environment` alone.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path

_GIBIBYTE = 2**30


def worker_environment(cpus: float) -> dict[str, str]:
    """Environment variables for the start of a training process.

    OpenMP, MKL and glibc's malloc read them when the process starts or at first use. In a running
    process a change has no effect on the allocator and may have none on the others.

    Args:
        cpus: CPU cores of the process; with a fraction, processes share one core.
    """
    threads = str(_threads(cpus))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # By default glibc allocates large blocks with mmap and returns freed memory to the system,
        # so every training step would fault its buffers in again, page by page. One step needs as
        # much memory as the last one, so the process keeps it. These settings have variables of
        # their own; GLIBC_TUNABLES may already hold the user's settings.
        "MALLOC_MMAP_THRESHOLD_": str(16 * _GIBIBYTE),
        "MALLOC_TRIM_THRESHOLD_": str(16 * _GIBIBYTE),
        "MALLOC_TOP_PAD_": str(_GIBIBYTE // 16),
        "GLIBC_TUNABLES": _tunables(os.environ.get("GLIBC_TUNABLES", "")),
    }


def _tunables(own: str) -> str:
    """The user's settings of glibc, with huge pages added unless they are set already.

    A step touches hundreds of megabytes, many more pages of 4 kB than the processor's address
    cache (TLB) holds. glibc before 2.35 and kernels without huge pages ignore the setting.
    """
    if "glibc.malloc.hugetlb" in own:
        return own
    return ":".join(filter(None, (own, "glibc.malloc.hugetlb=1")))


def prepare_worker(cpus: float) -> None:
    """Apply the settings that only the process itself can apply; call it first in the process.

    A few in ten thousand entries of a gradient are denormal numbers, which make a step several
    times slower. The flag that flushes them to zero belongs to a thread and is inherited by the
    threads it starts. So it must be set before torch's first parallel operation.

    Args:
        cpus: as in :func:`worker_environment`.
    """
    # A waiting thread of GNU OpenMP spins for milliseconds. If another program uses the core of the
    # thread it waits for, every small operation loses that time: on two busy cores, two threads
    # took 20 s instead of 2. A thirtieth of the default is enough for normal waits. GNU OpenMP
    # reads the variable when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(_threads(cpus))


def reset_peak_memory(device: str) -> bool:
    """Reset the peak of memory, because a worker trains one run after another.

    Args:
        device: the torch device whose memory is measured.

    Returns:
        Whether that was possible; for the memory of a process only Linux can do it.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    # The allocator keeps the memory that an earlier run has freed (see `worker_environment`), and
    # it would count for this run. Some C libraries, such as musl, lack this function.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        # proc(5): 5 resets the peak of the resident set.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory(device: str) -> int | None:
    """The peak memory in bytes since :func:`reset_peak_memory`, or since the process started.

    On the CPU it counts the entire process, Python and its libraries included. On a GPU it counts
    the memory that torch has allocated there.

    Args:
        device: the torch device.

    Returns:
        ``None`` if the system does not report it.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.MULTILINE)
    return None if match is None else int(match[1]) * 1024


def _threads(cpus: float) -> int:
    return max(1, int(cpus))
