"""The errors shown to users: a text of one line and the exit code of the command."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LONGEST_SHOWN = 60


class HpsearchError(Exception):
    """A run or a check failed; the command ends with exit code 1."""

    exit_code = 1


class InputError(HpsearchError):
    """The user's input is wrong. The text says what must hold, what came, where and the fix.

    Exit code 2.
    """

    exit_code = 2


class MachineError(InputError):
    """This machine lacks something that every run needs; the run that failed is not to blame."""


class TablesNotReady(InputError):
    """The database has no hpsearch tables yet, or older ones; a launch makes or upgrades them."""


def machine_at_fault(error: BaseException | None) -> bool:
    """Whether ``error`` or one of its causes lies in the machine, its files or its data.

    A wrong path of one run, such as a file where its folder should be, is not the machine's fault.
    """
    of_one_path = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    while error is not None:
        if isinstance(error, (MachineError, ImportError)):
            return True
        if isinstance(error, OSError) and error.errno not in of_one_path:
            return True
        error = error.__cause__
    return False


def disk_full(error: BaseException | None) -> bool:
    """Whether ``error`` or one of its causes is a full disk or an exhausted quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def or_inodes(path: Path | str) -> str:
    """Return a hint for the message of a full disk: that it has space, but no inodes.

    Empty if the file system of ``path`` has inodes, or if its folders cannot be looked at.
    """
    place = Path(path).absolute()
    with suppress(OSError):
        while not place.exists():
            place = place.parent
        room = os.statvfs(place)
        if room.f_files and not room.f_favail and room.f_bavail:
            return " (it has no inodes left: delete some files)"
    return ""


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def unwritable(path: Path | str, error: OSError) -> HpsearchError:
    """The error to raise for a path that cannot be written.

    It is an :class:`InputError` unless the disk is full or broken.
    """
    kind = HpsearchError if error.errno in _DISK_ERRORS else InputError
    reason = error.strerror or error
    fix = "choose another place"
    if disk_full(error):
        fix = f"free space{or_inodes(path)} or choose another place"
    return kind(f"'{path}' must be writable, got: {reason}; {fix}")


def one_line(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """``text`` for an error message: without line breaks and control characters, and cut short."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The name in ``known`` that is most similar to ``name``; ``None`` if none is similar."""
    matches = difflib.get_close_matches(name[:_LONGEST_SHOWN], list(known), n=1)
    return matches[0] if matches else None


def nearest(name: str, known: Iterable[str]) -> str:
    """The fix to suggest for a name that is not in ``known``."""
    names = list(known)
    close = close_to(name, names)
    if close is not None:
        return f"did you mean {close}?"
    return f"choose from {', '.join(names)}" if names else "delete it"
