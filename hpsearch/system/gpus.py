"""The GPUs of this machine as their driver names them, for a process that imports no torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"

_QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        identifier: what ``CUDA_VISIBLE_DEVICES`` calls it by.
        name: of its model.
        memory_bytes: that it has.
    """

    identifier: str
    name: str
    memory_bytes: int


def gpus() -> list[Gpu]:
    """Those that this process may use; none where the driver does not answer."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(done.stdout, os.environ.get(VISIBLE))


def parse(text: str, visible: str | None) -> list[Gpu]:
    """What ``nvidia-smi`` printed.

    Args:
        text: a line each: number, identifier, model, memory in MiB.
        visible: of these those that the environment allows, by number or identifier; ``None`` for
            all.
    """
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        # Some report no memory of their own: it is the machine's.
        if len(fields) == 4 and fields[3].isdigit():
            number, identifier, name, memory = fields
            found.append((number, Gpu(identifier, name, int(memory) * _MEBIBYTE)))
    if visible is None:
        return [gpu for _, gpu in found]
    wanted = [each.strip() for each in visible.split(",") if each.strip()]
    # The beginning of an identifier will do.
    return [
        gpu
        for name in wanted
        for number, gpu in found
        if name == number or (not name.isdigit() and gpu.identifier.startswith(name))
    ]
