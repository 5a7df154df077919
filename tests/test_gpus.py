"""GPUs as a driver prints them; that a timing process sees one is checked without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_cost import CONFIGS

from hpsearch.cost import measure
from hpsearch.cost.timings import Surroundings
from hpsearch.errors import HpsearchError
from hpsearch.system.gpus import Gpu, gpus, parse

PRINTED = """\
0, GPU-1a2b, NVIDIA H100 80GB HBM3, 81559
1, GPU-3c4d, NVIDIA H100 80GB HBM3, 81559
2, GPU-5e6f, NVIDIA GB10, [N/A]
"""
FIRST = Gpu("GPU-1a2b", "NVIDIA H100 80GB HBM3", 81_559 * 2**20)
SECOND = replace(FIRST, identifier="GPU-3c4d")


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [FIRST, SECOND]),
        ("1", [SECOND]),
        ("1,0", [SECOND, FIRST]),
        ("GPU-3c", [SECOND]),
        ("", []),
        ("-1", []),
        ("7", []),
    ],
)
def test_what_the_environment_allows_is_found(visible: str | None, found: list[Gpu]) -> None:
    assert parse(PRINTED, visible) == found


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus() == []
    assert parse("NVIDIA-SMI has failed because it could not talk to the driver", None) == []


def test_timings_are_kept_apart_by_the_model_of_the_gpu() -> None:
    one = Surroundings(1.0, "cuda", 1, "NVIDIA H100 80GB HBM3")
    assert one.file != replace(one, gpu="NVIDIA A100-SXM4-40GB").file
    # Of a CPU they are kept where they have always been.
    assert "gpu" not in Surroundings(1.0, "cpu", 1).describe()


def test_each_timing_process_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the place of Python a program that says what it sees, for there is no GPU to time on.
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/seen\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(measure.sys, "executable", str(program))
    with pytest.raises(HpsearchError, match="a few steps could not be timed"):
        measure.measure_all(
            CONFIGS[:4], 1.0, "cuda", 2, say_failed=lambda *_: None, gpus=["GPU-a", "GPU-b"]
        )
    seen = (tmp_path / "seen").read_text().split()
    assert len(seen) == 4
    assert set(seen) == {"GPU-a", "GPU-b"}
