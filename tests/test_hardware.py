"""What the system tells of the processor, and the names that are made of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from hpsearch.kernels import products
from hpsearch.system import hardware
from hpsearch.system.hardware import Processor

EPYC = b"""\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9654 96-Core Processor
stepping\t: 1
microcode\t: 0xa101148
cpu MHz\t\t: 3699.887
flags\t\t: fpu vme avx2
bogomips\t: 4800.00

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9654 96-Core Processor
stepping\t: 1
microcode\t: 0xa101148
cpu MHz\t\t: 2400.000
flags\t\t: fpu vme avx2
bogomips\t: 4800.00
"""
XEON = EPYC.replace(b"AuthenticAMD", b"GenuineIntel").replace(b"AMD EPYC 9654", b"Intel(R) Xeon(R)")
GRAVITON = b"processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch):
    """Lets the system describe another processor."""

    def describes(text: bytes | None) -> None:
        def read(path: Path) -> bytes:
            assert str(path) == "/proc/cpuinfo"
            if text is None:
                raise FileNotFoundError(path)
            return text

        monkeypatch.setattr(Path, "read_bytes", read)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(platform, "processor", lambda: "unnamed")

    return describes


@pytest.mark.parametrize(
    ("text", "found", "label"),
    [
        (
            EPYC,
            Processor("AMD EPYC 9654 96-Core Processor", "25", "17", "AuthenticAMD"),
            "AMD EPYC 9654 96-Core Processor 25 17",
        ),
        (GRAVITON, Processor("", "", "", ""), ""),
        (None, Processor("unnamed", "", "", None), "unnamed"),
    ],
)
def test_kept_timings_are_found_again_by_this_label(cpuinfo, text, found, label) -> None:
    cpuinfo(text)
    assert hardware.processor() == found
    assert found.label == label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            EPYC,
            b"cpu family\t: 25\nflags\t\t: fpu vme avx2\nmodel\t\t: 17\n"
            b"model name\t: AMD EPYC 9654 96-Core Processor\nvendor_id\t: AuthenticAMD",
        ),
        (GRAVITON, b"CPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp asimd"),
        (None, b"x86_64 unnamed"),
    ],
)
def test_compiled_kernels_are_found_again_by_these_bytes(cpuinfo, text, expected) -> None:
    cpuinfo(text)
    assert hardware.instructions() == expected


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkl.is_available(),
    reason="this build of torch has one library only",
)
@pytest.mark.parametrize(("text", "faster"), [(EPYC, True), (XEON, False), (None, False)])
def test_onednn_is_for_the_processors_of_other_vendors(cpuinfo, text, faster) -> None:
    cpuinfo(text)
    products.onednn_is_faster.cache_clear()
    try:
        assert products.onednn_is_faster() is faster
    finally:
        products.onednn_is_faster.cache_clear()
