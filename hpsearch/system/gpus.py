"""The GPUs that this process may use, as NVIDIA's driver names them, without torch.

A GPU in MIG mode is divided into MIG devices. A process then computes on one device, never on the
entire GPU. So every MIG device counts as a GPU here.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

VISIBLE = "CUDA_VISIBLE_DEVICES"

_QUERY = (
    "--query-gpu=index,uuid,name,memory.total,mig.mode.current",
    "--format=csv,noheader,nounits",
)
_LIST = ("-L",)
_DETAILS = ("-q", "-x")
_SECONDS = 20
_MEBIBYTE = 2**20

# As in "GPU 0: NVIDIA H200 (UUID: GPU-...)" and "  MIG 1g.18gb     Device  0: (UUID: MIG-...)".
_GPU_LINE = re.compile(r"GPU (?P<number>\d+): (?P<name>.+) \(UUID: (?P<identifier>[^)]+)\)")
_MIG_LINE = re.compile(
    r"\s+MIG (?P<profile>\S+)\s+Device\s+(?P<number>\d+): \(UUID: (?P<identifier>[^)]+)\)"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG device of one.

    Attributes:
        identifier: its name in ``CUDA_VISIBLE_DEVICES``.
        name: the model's name as torch gives it; for a MIG device with the profile.
        memory_bytes: its memory.
    """

    identifier: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class _Listed:
    """A GPU or a MIG device that the driver lists.

    Attributes:
        gpu: number of the GPU.
        name: as in :class:`Gpu`.
        memory_bytes: ``None`` if the driver does not say: some GPUs use the machine's memory.
        identifiers: ``CUDA_VISIBLE_DEVICES`` may give the beginning of any of these.
        answers_for_gpu: whether the GPU's number means this device; false for the second and
            later MIG devices of a GPU.
    """

    gpu: int
    name: str
    memory_bytes: int | None
    identifiers: tuple[str, ...]
    answers_for_gpu: bool = True

    def is_called(self, name: str) -> bool:
        """Whether an entry of ``CUDA_VISIBLE_DEVICES`` means this device."""
        if name.isdigit():
            return self.answers_for_gpu and int(name) == self.gpu
        return any(identifier.startswith(name) for identifier in self.identifiers)


def gpus() -> list[Gpu]:
    """The GPUs that this process may use; empty if the driver does not answer."""
    return _with_memory(_usable())


def models() -> list[str]:
    """Names of the GPUs that this process may use, those without own memory included."""
    return [device.name for device in _usable()]


def parse(queried: str, visible: str | None, listed: str = "", details: str = "") -> list[Gpu]:
    """The GPUs in the output of ``nvidia-smi``.

    Args:
        queried: one line per GPU: number, identifier, model, memory in MiB and, if it was queried,
            the MIG mode.
        visible: value of ``CUDA_VISIBLE_DEVICES``; ``None`` allows all.
        listed: one line per GPU and MIG device (``-L``).
        details: XML with the memory of MIG devices (``-q -x``); without it the memory is read from
            the name of the profile.
    """
    return _with_memory(_chosen(_all(queried, listed, details), visible))


def _usable() -> list[_Listed]:
    queried, listed = _ask(*_QUERY), _ask(*_LIST)
    details = _ask(*_DETAILS) if any(map(_MIG_LINE.match, listed.splitlines())) else ""
    return _chosen(_all(queried, listed, details), os.environ.get(VISIBLE))


def _ask(*options: str) -> str:
    command = ["nvidia-smi", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _with_memory(devices: list[_Listed]) -> list[Gpu]:
    return [
        Gpu(device.identifiers[0], device.name, device.memory_bytes)
        for device in devices
        if device.memory_bytes is not None
    ]


def _chosen(devices: list[_Listed], visible: str | None) -> list[_Listed]:
    if visible is None:
        return devices
    wanted = [name for part in visible.split(",") if (name := part.strip())]
    return [device for name in wanted for device in devices if device.is_called(name)]


def _all(queried: str, listed: str, details: str) -> list[_Listed]:
    """All GPUs by number; a divided GPU is replaced by its MIG devices."""
    mig_devices = list(_mig_devices(listed, _details(details)))
    undivided = _undivided_gpus(queried, {device.gpu for device in mig_devices})
    return sorted([*undivided, *mig_devices], key=lambda device: device.gpu)


def _undivided_gpus(queried: str, divided: set[int]) -> Iterator[_Listed]:
    for line in queried.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 4 or not fields[0].isdigit():
            continue
        number, identifier, name, memory, *mig_mode = fields
        # A GPU in MIG mode without MIG devices cannot compute.
        if int(number) not in divided and mig_mode != ["Enabled"]:
            size = int(memory) * _MEBIBYTE if memory.isdigit() else None
            yield _Listed(int(number), name, size, (identifier,))


class _Detail(NamedTuple):
    """The data of a MIG device in the XML, which lacks the identifier."""

    instances: str
    memory_bytes: int | None


def _details(text: str) -> dict[tuple[str, str], _Detail]:
    """The details of every MIG device, by the GPU's identifier and the device's number."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    return {
        (gpu.findtext("uuid", ""), device.findtext("index", "")): _Detail(
            f"{device.findtext('gpu_instance_id')}/{device.findtext('compute_instance_id')}",
            _bytes_in(device.findtext("fb_memory_usage/total", "")),
        )
        for gpu in root.iter("gpu")
        for device in gpu.iter("mig_device")
    }


def _bytes_in(mebibytes: str) -> int | None:
    """The number of bytes of a text such as ``9856 MiB``."""
    match = re.fullmatch(r"\s*(\d+) MiB\s*", mebibytes)
    return int(match[1]) * _MEBIBYTE if match else None


def _mig_devices(listed: str, details: dict[tuple[str, str], _Detail]) -> Iterator[_Listed]:
    gpu: re.Match[str] | None = None
    is_first = True
    for line in listed.splitlines():
        if heading := _GPU_LINE.match(line):
            gpu, is_first = heading, True
        device = _MIG_LINE.match(line)
        if gpu and device:
            detail = details.get((gpu["identifier"], device["number"]))
            yield _mig_device(gpu, device, detail, is_first)
            is_first = False


def _mig_device(
    gpu: re.Match[str], device: re.Match[str], detail: _Detail | None, is_first: bool
) -> _Listed:
    identifiers = [device["identifier"]]
    memory = _memory_of_profile(device["profile"])
    if detail is not None:
        # The form of drivers before 470, which newer ones still accept.
        identifiers.append(f"MIG-{gpu['identifier']}/{detail.instances}")
        memory = detail.memory_bytes or memory
    if is_first:
        identifiers.append(gpu["identifier"])
    name = f"{gpu['name']} MIG {device['profile']}"
    return _Listed(int(gpu["number"]), name, memory, tuple(identifiers), is_first)


def _memory_of_profile(profile: str) -> int | None:
    """The approximate bytes of a profile such as ``1g.10gb``, ``1c.3g.20gb`` or ``1g.10gb+me``."""
    match = re.search(r"(\d+)gb", profile)
    return int(match[1]) * 10**9 if match else None
