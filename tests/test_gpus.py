"""GPUs as a driver prints them; that a timing process sees one is checked without one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hpsearch.config.space import SearchSpace
from hpsearch.cost import measure
from hpsearch.cost.timings import TimingConditions
from hpsearch.search.quote import draw_configs
from hpsearch.system.errors import HpsearchError
from hpsearch.system.gpus import VISIBLE, Gpu, gpus, models, parse
from hpsearch.system.installation import find_space

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


# --- GPUs in MIG mode, in the driver's own formats


class Driver:
    """An ``nvidia-smi`` on the PATH that prints what a machine's did."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = folder / "nvidia-smi"
        program.write_text(
            f"""#!/bin/sh
cd {folder} || exit 1
case "$*" in
    -L) cat list ;;
    "-q -x") cat details ;;
    --query-gpu=index,uuid,name,memory.total,mig.mode.current*) cat query ;;
    *) exit 2 ;;
esac
"""
        )
        program.chmod(0o755)

    def prints(self, **outputs: str) -> None:
        """``query``, ``list`` and ``details``; what is left out ends with an error."""
        for name, text in outputs.items():
            (self._folder / name).write_text(text)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)
    return Driver(tmp_path)


QUERY = """\
0, GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90, NVIDIA A100-SXM4-80GB, 81920, Enabled
1, GPU-c2f0a1d4-0002-4000-8000-5d1e6f7a8b90, NVIDIA A100-SXM4-80GB, 81920, Disabled
2, GPU-c2f0a1d4-0003-4000-8000-5d1e6f7a8b90, NVIDIA A100-SXM4-80GB, 81920, Enabled
"""
LIST = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90)
  MIG 3g.40gb     Device  0: (UUID: MIG-7e3b5c11-aaaa-5111-9222-c0ffee000001)
  MIG 1g.10gb     Device  1: (UUID: MIG-7e3b5c12-aaaa-5111-9222-c0ffee000002)
  MIG 1g.10gb+me  Device  2: (UUID: MIG-7e3b5c13-aaaa-5111-9222-c0ffee000003)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-c2f0a1d4-0002-4000-8000-5d1e6f7a8b90)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-c2f0a1d4-0003-4000-8000-5d1e6f7a8b90)
"""
MIG_DEVICE = """\
            <mig_device>
                <index>{}</index>
                <gpu_instance_id>{}</gpu_instance_id>
                <compute_instance_id>0</compute_instance_id>
                <device_attributes><shared><ofa_count>0</ofa_count></shared></device_attributes>
                <fb_memory_usage>
                    <total>{}</total>
                    <reserved>0 MiB</reserved>
                </fb_memory_usage>
            </mig_device>
"""
DETAILS = f"""\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
    <attached_gpus>3</attached_gpus>
    <gpu id="00000000:07:00.0">
        <mig_mode><current_mig>Enabled</current_mig></mig_mode>
        <mig_devices>
{MIG_DEVICE.format(0, 1, "40448 MiB")}{MIG_DEVICE.format(1, 7, "9728 MiB")}
{MIG_DEVICE.format(2, 9, "N/A")}
        </mig_devices>
        <uuid>GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90</uuid>
        <fb_memory_usage><total>81920 MiB</total></fb_memory_usage>
    </gpu>
    <gpu id="00000000:0F:00.0">
        <mig_devices>
            None
        </mig_devices>
        <uuid>GPU-c2f0a1d4-0002-4000-8000-5d1e6f7a8b90</uuid>
    </gpu>
</nvidia_smi_log>
"""
A100 = "NVIDIA A100-SXM4-80GB"
LARGE = Gpu("MIG-7e3b5c11-aaaa-5111-9222-c0ffee000001", f"{A100} MIG 3g.40gb", 40_448 * 2**20)
SMALL = Gpu("MIG-7e3b5c12-aaaa-5111-9222-c0ffee000002", f"{A100} MIG 1g.10gb", 9_728 * 2**20)
# Where the driver does not tell its memory, the profile does, in round numbers.
OTHER = Gpu("MIG-7e3b5c13-aaaa-5111-9222-c0ffee000003", f"{A100} MIG 1g.10gb+me", 10 * 10**9)
WHOLE = Gpu("GPU-c2f0a1d4-0002-4000-8000-5d1e6f7a8b90", A100, 81_920 * 2**20)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        # GPU 2 is in MIG mode and has no MIG device: nothing can be computed on it.
        (None, [LARGE, SMALL, OTHER, WHOLE]),
        (SMALL.identifier, [SMALL]),
        (f"{OTHER.identifier},{LARGE.identifier}", [OTHER, LARGE]),
        ("MIG-GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90/7/0", [SMALL]),
        ("MIG-GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90/1/0", [LARGE]),
        # CUDA takes a divided GPU for its first MIG device.
        ("0", [LARGE]),
        ("GPU-c2f0a1d4-0001", [LARGE]),
        ("1", [WHOLE]),
        ("2", []),
        ("MIG-00000000-0000-0000-0000-000000000000", []),
    ],
)
def test_mig_devices_are_found(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[Gpu]
) -> None:
    driver.prints(query=QUERY, list=LIST, details=DETAILS)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert gpus() == found
    assert models() == [gpu.name for gpu in found]


def test_a_container_with_one_mig_device_need_not_see_the_gpu(driver: Driver) -> None:
    driver.prints(
        query="0, GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90, NVIDIA H200, "
        "[Insufficient Permissions], [Insufficient Permissions]\n",
        list="GPU 0: NVIDIA H200 (UUID: GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90)\n"
        "  MIG 1g.18gb     Device  0: (UUID: MIG-7e3b5c11-aaaa-5111-9222-c0ffee000001)\n",
    )
    identifier = "MIG-7e3b5c11-aaaa-5111-9222-c0ffee000001"
    assert gpus() == [Gpu(identifier, "NVIDIA H200 MIG 1g.18gb", 18 * 10**9)]


def test_older_drivers_name_mig_devices_by_their_gpu(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = "MIG-GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90/2/0"
    driver.prints(
        query="0, GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90, A100-SXM4-40GB, 40536, Enabled\n",
        list="GPU 0: A100-SXM4-40GB (UUID: GPU-c2f0a1d4-0001-4000-8000-5d1e6f7a8b90)\n"
        f"  MIG 1c.3g.20gb Device 0: (UUID: {identifier})\n",
    )
    monkeypatch.setenv(VISIBLE, identifier)
    assert gpus() == [Gpu(identifier, "A100-SXM4-40GB MIG 1c.3g.20gb", 20 * 10**9)]


def test_a_machine_without_mig_is_not_asked_for_details(driver: Driver) -> None:
    driver.prints(
        query="0, GPU-1a2b, NVIDIA H100 80GB HBM3, 81559, Disabled\n"
        "1, GPU-5e6f, NVIDIA GB10, [N/A], [N/A]\n",
        list="GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1a2b)\nGPU 1: NVIDIA GB10 (UUID: GPU-5e6f)\n",
    )
    assert gpus() == [FIRST]
    # The other has the machine's memory; that it is there is worth saying.
    assert models() == ["NVIDIA H100 80GB HBM3", "NVIDIA GB10"]


def test_timings_are_kept_apart_by_the_model_of_the_gpu() -> None:
    one = TimingConditions(1.0, "cuda", 1, "NVIDIA H100 80GB HBM3")
    assert one.file != replace(one, gpu="NVIDIA A100-SXM4-40GB").file
    # Of a CPU they are kept where they have always been.
    assert "gpu" not in TimingConditions(1.0, "cpu", 1).describe()


def test_each_timing_process_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the place of Python a program that says what it sees, for there is no GPU to time on.
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/seen\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(measure.sys, "executable", str(program))
    space = SearchSpace.load(find_space("table3"))
    with pytest.raises(HpsearchError, match="a few steps could not be timed"):
        measure.measure_all(
            draw_configs(space, 4),
            1.0,
            "cuda",
            2,
            say_failed=lambda *_: None,
            gpus=["GPU-a", "GPU-b"],
        )
    seen = (tmp_path / "seen").read_text().split()
    assert len(seen) == 4
    assert set(seen) == {"GPU-a", "GPU-b"}
