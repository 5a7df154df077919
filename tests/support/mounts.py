"""Small file systems of their own, for tests of full, exhausted and read-only ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class FileSystem:
    """A tmpfs that a test may exhaust or make read-only; the test is skipped without `mount`."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"mount: {error}")
        if done.returncode:
            pytest.skip(f"needs root to mount: {done.stderr.strip()}")

    def exhaust(self) -> None:
        """Make files until no inode is left."""
        number = 0
        while True:
            try:
                (self.folder / f"fill-{number}").touch()
            except OSError:
                return
            number += 1

    def free(self) -> None:
        """Remove these files."""
        for path in self.folder.glob("fill-*"):
            path.unlink()

    def allow(self, mode: str) -> None:
        """Mount it again as ``ro`` or ``rw``; no file in it may be open for writing."""
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)


def bound_by_modes() -> list[str]:
    """What to put before a command so that the modes of files count, which root ignores."""
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("needs setpriv to give up root's rights")
    return [program, "--bounding-set=-dac_override,-dac_read_search", "--"]


@contextmanager
def mounted(folder: Path, options: str = "size=64m,mode=0777") -> Iterator[FileSystem]:
    """A tmpfs at ``folder``, which is made."""
    file_system = FileSystem(folder, options)
    try:
        yield file_system
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
