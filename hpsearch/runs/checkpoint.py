"""The checkpoint files of a run: written atomically, never pickled.

A file is called ``<stem>-<epoch>-<digest>.safetensors``. The digest is computed from its bytes, so
damage is detected. Tensors are safetensors; everything else is JSON in the header of the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.system import failpoint
from hpsearch.system.errors import HpsearchError, disk_full, or_inodes
from hpsearch.system.files import PARTIAL, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT = "checkpoint"
"""Stem of files from which training resumes."""

BEST = "best"
"""Stem of files with the weights of the best epoch so far."""


DIGESTS = "digests"
"""Entry of the state in best weights: the digest of each epoch up to the best one."""

_LONGEST_HEADER = 100_000_000


class DiskFull(HpsearchError):
    """The disk is full; the run is not to blame and can resume when there is space."""


_NAME = re.compile(r"(?P<stem>[a-z]+)-(?P<epoch>\d{5})-(?P<digest>[0-9a-f]{16})\.safetensors")


def write(
    directory: Path, stem: str, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write one file atomically; it replaces other files with the same stem and epoch.

    Raises:
        DiskFull: there is no space; older files are unchanged.
        HpsearchError: the folder cannot be written; older files are unchanged.
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
                f"{reason}; free space{or_inodes(directory)} and run the same command again: it "
                "resumes from the epoch before"
            ) from error
        raise HpsearchError(
            f"{reason}; make the folder writable or choose another (--runs)"
        ) from error
    # Such a file is damaged, or is from another machine, which rounds differently.
    for other in files(directory, stem):
        if other != path and epoch_of(other) == epoch:
            remove(other)
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and state of a file; ``None`` if it is missing, damaged or not a checkpoint.

    Nothing in the file is executed. The digest is not a signature: anyone who can write to the
    folder can make a file with a valid digest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    match = _NAME.fullmatch(path.name)
    # Reading a pipe or a device with such a name could go on for ever.
    if match is None or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            # Hashed in pieces, because a damaged file may be larger than the memory.
            if hashlib.file_digest(file, "sha256").hexdigest()[:16] != match["digest"]:
                return None
        data = path.read_bytes()
        header = int.from_bytes(data[:8], "little")
        state = json.loads(json.loads(data[8 : 8 + header])["__metadata__"]["state"])
        tensors = load(data)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None
    return (tensors, state) if isinstance(state, dict) else None


def recorded_digests(directory: str) -> list[str]:
    """The digests of the epochs up to the best one, from the newest best weights.

    Empty if the folder has no such file on this machine, or one from before digests. Only the
    header is read.
    """
    for path in files(Path(directory), BEST)[:1]:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(size, _LONGEST_HEADER)))
            digests = json.loads(header["__metadata__"]["state"]).get(DIGESTS, [])
            return [str(digest) for digest in digests if digest]
    return []


def files(directory: Path, stem: str) -> list[Path]:
    """The paths of files named ``stem``, newest epoch first; their content is not checked."""
    paths = [
        path
        for path in (directory.iterdir() if directory.is_dir() else ())
        if (match := _NAME.fullmatch(path.name)) and match["stem"] == stem
    ]
    return sorted(paths, reverse=True)


def remove(path: Path) -> None:
    """Remove a file or an empty folder with its name; ignore errors."""
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
    """Remove the files that only resuming needs, and half-written files, after a run has ended.

    Args:
        directory: the run's folder; it may be missing.
        keep_best: whether the weights of the best epoch are not removed.
    """
    if not directory.is_dir():
        return
    # Only a run that may resume needs the weights of earlier best epochs.
    kept = files(directory, BEST)[:1] if keep_best else []
    for path in directory.iterdir():
        if path not in kept and (_NAME.fullmatch(path.name) or path.name.endswith(PARTIAL)):
            remove(path)
