"""The GPUs that this process may use, as NVIDIA's driver names them, without torch.

A GPU in MIG mode is divided into MIG devices. A process then computes on one of these, never on
the whole GPU, so each of them counts as a GPU here.
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
        identifier: what ``CUDA_VISIBLE_DEVICES`` calls it by.
        name: of its model; of a MIG device with the profile, as torch names it.
        memory_bytes: that it has.
    """

    identifier: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class _Listed:
    """A GPU or a MIG device that the driver lists.

    Attributes:
        gpu: number of the GPU.
        name: as of :class:`Gpu`.
        memory_bytes: ``None`` where the driver does not tell: some GPUs use the machine's memory.
        identifiers: ``CUDA_VISIBLE_DEVICES`` may call it by the beginning of one of these.
        answers_for_gpu: whether the GPU's number means this one; not so for the second and further
            MIG devices of a GPU.
    """

    gpu: int
    name: str
    memory_bytes: int | None
    identifiers: tuple[str, ...]
    answers_for_gpu: bool = True

    def is_called(self, name: str) -> bool:
        """Whether an entry of ``CUDA_VISIBLE_DEVICES`` means this one."""
        if name.isdigit():
            return self.answers_for_gpu and int(name) == self.gpu
        return any(identifier.startswith(name) for identifier in self.identifiers)


def gpus() -> list[Gpu]:
    """Those that this process may use; none where the driver does not answer."""
    return _with_memory(_usable())


def models() -> list[str]:
    """Names of the GPUs that this process may use, also of those without memory of their own."""
    return [each.name for each in _usable()]


def parse(queried: str, visible: str | None, listed: str = "", details: str = "") -> list[Gpu]:
    """What ``nvidia-smi`` printed.

    Args:
        queried: a line for each GPU: number, identifier, model, memory in MiB and, where it was
            asked for, MIG mode.
        visible: of these those that the environment allows, by number or identifier; ``None`` for
            all.
        listed: GPUs and MIG devices, a line each (``-L``).
        details: XML with the memory of MIG devices (``-q -x``); without it their profile tells it.
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


def _with_memory(found: list[_Listed]) -> list[Gpu]:
    return [
        Gpu(each.identifiers[0], each.name, each.memory_bytes)
        for each in found
        if each.memory_bytes is not None
    ]


def _chosen(found: list[_Listed], visible: str | None) -> list[_Listed]:
    if visible is None:
        return found
    wanted = [name for part in visible.split(",") if (name := part.strip())]
    return [each for name in wanted for each in found if each.is_called(name)]


def _all(queried: str, listed: str, details: str) -> list[_Listed]:
    """GPUs by number, in the place of each divided one its MIG devices."""
    divided = list(_mig_devices(listed, _details(details)))
    whole = _whole_gpus(queried, {each.gpu for each in divided})
    return sorted([*whole, *divided], key=lambda each: each.gpu)


def _whole_gpus(queried: str, divided: set[int]) -> Iterator[_Listed]:
    for line in queried.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 4 or not fields[0].isdigit():
            continue
        number, identifier, name, memory, *mig_mode = fields
        # In MIG mode without MIG devices, nothing can be computed on it.
        if int(number) not in divided and mig_mode != ["Enabled"]:
            size = int(memory) * _MEBIBYTE if memory.isdigit() else None
            yield _Listed(int(number), name, size, (identifier,))


class _Detail(NamedTuple):
    """What the XML tells of a MIG device; its identifier is not in there."""

    instances: str
    memory_bytes: int | None


def _details(text: str) -> dict[tuple[str, str], _Detail]:
    """Of every MIG device, by its GPU's identifier and its own number."""
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
    """Bytes in ``9856 MiB``."""
    found = re.fullmatch(r"\s*(\d+) MiB\s*", mebibytes)
    return int(found[1]) * _MEBIBYTE if found else None


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
        # As drivers before 470 named it; newer ones still understand it.
        identifiers.append(f"MIG-{gpu['identifier']}/{detail.instances}")
        memory = detail.memory_bytes or memory
    if is_first:
        identifiers.append(gpu["identifier"])
    name = f"{gpu['name']} MIG {device['profile']}"
    return _Listed(int(gpu["number"]), name, memory, tuple(identifiers), is_first)


def _memory_of_profile(profile: str) -> int | None:
    """About how many bytes a profile such as ``1g.10gb``, ``1c.3g.20gb`` or ``1g.10gb+me`` has."""
    found = re.search(r"(\d+)gb", profile)
    return int(found[1]) * 10**9 if found else None
