"""What code a launch runs: versions of the packages that decide a result, and the commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from typing import Any

import hpsearch
from hpsearch.system import shipped

_PACKAGES = ("torch", "numpy", "optuna", "ray", "qm9pack")
"""Packages that decide what a run computes, by their names on the index."""


def code() -> dict[str, Any]:
    """``versions``, by package, and ``git_commit``, ``None`` outside a checkout."""
    return {
        "versions": {"hpsearch": hpsearch.__version__, "python": platform.python_version()}
        | {name: version for name in _PACKAGES if (version := _version(name))},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The checkout's commit, marked where files were changed since; ``None`` outside one."""
    root = shipped.folder("storage").parent
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
