"""Detects network folders: SQLite's log is safe only in a local folder."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/mounts")
"""Linux's list of mounts: device, mount point, type and more; other systems have none."""

NETWORK_TYPES = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs"),
    *("lustre", "gpfs", "beegfs", "ceph", "glusterfs", "panfs", "pvfs2", "orangefs", "wekafs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs"),
}
"""Types of file system that several machines can mount at the same time."""


def network_type(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the network file system that holds ``path``; ``None`` for a local one."""
    place = path.resolve()
    holding: list[tuple[int, int, str]] = []
    for number, line in enumerate(_lines(mounts)):
        _, point, kind, *_ = line.split(" ")
        at = Path(_plain(point))
        if place == at or at in place.parents:
            # Of two mounts on one folder, the later one hides the earlier one.
            holding.append((len(at.parts), number, kind))
    kind = max(holding, default=(0, 0, ""))[2]
    return kind if kind in NETWORK_TYPES else None


def _lines(mounts: Path) -> list[str]:
    try:
        text = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.count(" ") >= 2]


def _plain(point: str) -> str:
    r"""A mount point without the list's escapes, such as ``\040`` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
