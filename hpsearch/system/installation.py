"""This installation: its folders of shipped files, and the versions and commit of its code."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import hpsearch
from hpsearch.system.errors import HpsearchError, InputError, nearest, one_line

FolderName = Literal["search_spaces", "storage", "dashboards"]

_PACKAGE = Path(__file__).resolve().parents[1]

_DECIDING = ("torch", "numpy", "optuna", "ray", "qm9pack")
"""Libraries that decide the results of a run, by their names on the package index."""


def folder(name: FolderName) -> Path:
    """Absolute path of the folder called ``name``.

    Raises:
        HpsearchError: the installation lacks the folder.
    """
    path = folder_of(_PACKAGE, name)
    if not path.is_dir():
        raise HpsearchError(
            f"the folder {path} must exist, got none; the installation is incomplete: "
            "install hpsearch again"
        )
    return path


def folder_of(package: Path, name: FolderName) -> Path:
    """The folder ``name`` of the installation whose package is at ``package``.

    A checkout is recognised by its pyproject.toml. A folder of that name would prove nothing:
    site-packages may contain a ``storage`` of another package.
    """
    root = package.parent
    return root / name if _is_checkout(root) else package / "_shipped" / name


def _is_checkout(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):  # TOML and UTF-8 errors are ValueErrors
        return False
    return isinstance(project, dict) and project.get("name") == "hpsearch"


def find_space(text: str) -> Path:
    """The file that ``text`` names: a path, else a shipped file with or without its ending.

    ``quick``, ``quick.yaml`` and ``search_spaces/quick.yaml`` all name the shipped file, unless
    the working folder has a file of that path.

    Raises:
        InputError: there is no such file.
    """
    return _find(text, "a search space", ".yaml", "search_spaces/")


def find_curves(text: str) -> Path:
    """The file of curves that ``text`` names, found as :func:`find_space` finds a space.

    Raises:
        InputError: there is no such file.
    """
    return _find(text, "--curves", ".json", "search_spaces/curves/")


def _find(text: str, what: str, ending: str, place: str) -> Path:
    given = Path(text)
    if _is_file(given):
        return given
    where = folder("search_spaces").parent / place
    shipped = {path.stem: path for path in sorted(where.glob(f"*{ending}"))}
    stem = text.removeprefix(place).removesuffix(ending)
    if stem not in shipped:
        raise InputError(
            f"{what} must be a file or one of {', '.join(shipped)}, "
            f"got '{one_line(text, longest=300)}'; {nearest(stem, shipped)}"
        )
    return _as_seen_from_here(shipped[stem])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _as_seen_from_here(path: Path) -> Path:
    """``path`` relative to the working folder if it lies there: shorter in error messages."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def code() -> dict[str, Any]:
    """The code that runs: ``versions`` by package, and ``git_commit`` (``None`` if no checkout)."""
    return {
        "versions": {"hpsearch": hpsearch.__version__, "python": platform.python_version()}
        | {name: version for name in _DECIDING if (version := _version(name))},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The checkout's commit, marked if files have changed since; ``None`` outside a checkout."""
    root = folder("storage").parent
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
