"""Checkpoint files of one run: written beside and renamed, named by their content, never pickled.

A file is called ``<stem>-<epoch>-<digest>.safetensors``; the digest is of its bytes, so a damaged
file is known by its name. Tensors are safetensors, everything else is JSON in the file's header.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.errors import HpsearchError, disk_full
from hpsearch.system import failpoint
from hpsearch.system.files import PARTIAL, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT = "checkpoint"
"""Stem of files from which training continues."""

BEST = "best"
"""Stem of files that hold the weights of the best epoch so far."""


class DiskFull(HpsearchError):
    """There is no space for a checkpoint: no fault of the run's, which goes on once there is."""


_NAME = re.compile(r"(?P<stem>[a-z]+)-(?P<epoch>\d{5})-(?P<digest>[0-9a-f]{16})\.safetensors")


def write(
    directory: Path, stem: str, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write one file whole or not at all; it takes the place of others of its stem and epoch.

    Raises:
        DiskFull: there is no space; older files stay whole.
        HpsearchError: the folder cannot be written; older files stay whole.
    """
    from safetensors.torch import save

    data = save(tensors, metadata={"state": json.dumps(state)})
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = directory / f"{stem}-{epoch:05d}-{digest}.safetensors"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        failpoint.reach("checkpoint-renamed")
    except OSError as error:
        reason = f"cannot write the checkpoint {path}: {error.strerror or error}"
        if disk_full(error):
            raise DiskFull(
                f"{reason}; free space and run the same command again: it goes on from the epoch "
                "before"
            ) from error
        raise HpsearchError(
            f"{reason}; make its folder writable or name another (--runs)"
        ) from error
    # A damaged one, or one of a step that another machine repeated and rounded otherwise.
    for other in files(directory, stem):
        if other != path and epoch_of(other) == epoch:
            remove(other)
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of a file; ``None`` if it is missing, damaged or not a checkpoint.

    Whatever the file holds, nothing of it is executed: the digest in its name is no signature, so
    anyone who may write into the folder can make one that fits.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    match = _NAME.fullmatch(path.name)
    # A pipe or a device under a checkpoint's name would be read for ever.
    if match is None or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            # In pieces: what is damaged may also be larger than memory.
            if hashlib.file_digest(file, "sha256").hexdigest()[:16] != match["digest"]:
                return None
        data = path.read_bytes()
        header = int.from_bytes(data[:8], "little")
        state = json.loads(json.loads(data[8 : 8 + header])["__metadata__"]["state"])
        tensors = load(data)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None
    return (tensors, state) if isinstance(state, dict) else None


def files(directory: Path, stem: str) -> list[Path]:
    """Paths that have the name of a file of ``stem``, newest epoch first, whatever lies there."""
    found = [
        path
        for path in (directory.iterdir() if directory.is_dir() else ())
        if (match := _NAME.fullmatch(path.name)) and match["stem"] == stem
    ]
    return sorted(found, reverse=True)


def remove(path: Path) -> None:
    """Remove a file, or an empty folder in its place; what cannot be removed stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def epoch_of(path: Path) -> int:
    """The epoch in a file's name."""
    match = _NAME.fullmatch(path.name)
    return int(match["epoch"]) if match else 0


def discard(directory: Path, *, keep_best: bool) -> None:
    """Remove what is only needed to continue a run that has ended, and half-written files.

    Args:
        directory: the run's folder; it may be missing.
        keep_best: whether the best epoch's weights stay.
    """
    if not directory.is_dir():
        return
    # An earlier best epoch's weights stay beside the best ones only while the run may be continued.
    kept = files(directory, BEST)[:1] if keep_best else []
    for path in directory.iterdir():
        if path not in kept and (_NAME.fullmatch(path.name) or path.name.endswith(PARTIAL)):
            remove(path)
