from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpsearch.system.process import worker_environment

FLUSHED = """
from hpsearch.system.process import prepare_worker
prepare_worker(2)
import torch
assert torch.get_num_threads() == 2
denormal = torch.full((4_000_000,), 1e-39)
print(int((denormal * 1.0).count_nonzero()))
"""

FAULTS = """
import resource
import torch
torch.set_num_threads(1)
def use():
    torch.empty(16 * 2**20).fill_(1.0)
for _ in range(60):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, settings: dict[str, str]) -> int:
    """What ``code`` prints in a fresh process started with ``settings``."""
    inherited = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_", "OMP_", "MKL_"))
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, "1"), (1, "1"), (2.9, "2"), (8, "8")])
def test_threads_follow_the_cpus(cpus: float, threads: str) -> None:
    environment = worker_environment(cpus)

    assert environment["OMP_NUM_THREADS"] == threads
    assert environment["MKL_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("glibc.malloc.hugetlb=1", "glibc.malloc.hugetlb=1"),
    ],
)
def test_a_users_own_tunables_stay(
    monkeypatch: pytest.MonkeyPatch, own: str | None, expected: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", own)

    assert worker_environment(1)["GLIBC_TUNABLES"] == expected


def test_denormals_are_flushed_in_every_thread() -> None:
    assert run(FLUSHED, worker_environment(2)) == 0


@pytest.mark.slow
def test_freed_memory_is_used_again_instead_of_faulted_in() -> None:
    by_default = run(FAULTS, {})

    # A 64 MiB buffer has 16,384 pages; by default each of its 20 lives faults them all in.
    assert by_default >= 20 * 16_384
    assert run(FAULTS, worker_environment(1)) < by_default / 10


PEAK = """
from hpsearch.system.process import reset_peak_memory, peak_memory
taken = bytearray(300 * 2**20)
first = peak_memory("cpu")
del taken
assert reset_peak_memory("cpu")
print((first - peak_memory("cpu")) // 2**20)
"""


def test_a_run_s_peak_of_memory_is_not_the_run_s_before_it() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not begin the peak anew")
    assert 280 < run(PEAK, worker_environment(1)) < 320
