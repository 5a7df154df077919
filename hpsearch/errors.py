"""The errors a user meets: one line each, with the exit code of the command."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

_LONGEST_SHOWN = 60


class HpsearchError(Exception):
    """A run or a check failed; the command ends with exit code 1."""

    exit_code = 1


class InputError(HpsearchError):
    """What the user gave is wrong: what must hold, what came, where, the mend. Exit code 2."""

    exit_code = 2


class MachineError(InputError):
    """A machine is not, or has not, what every run needs: no fault of the one that met it."""


class TablesNotReady(InputError):
    """A database has no tables of ours yet, or older ones: a launch makes or upgrades them."""


def machine_at_fault(error: BaseException | None) -> bool:
    """Whether ``error``, or what it was raised for, is of the machine, its files or its data.

    Not where something else stands in a single run's place.
    """
    in_place = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    while error is not None:
        if isinstance(error, (MachineError, ImportError)):
            return True
        if isinstance(error, OSError) and error.errno not in in_place:
            return True
        error = error.__cause__
    return False


def disk_full(error: BaseException | None) -> bool:
    """Whether ``error``, or what it was raised for, is a disk or a quota without space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


_NOT_THE_PATH_S_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def unwritable(path: Path | str, error: OSError) -> HpsearchError:
    """What to raise for a path that cannot be written: the user's error unless the disk is full."""
    kind = HpsearchError if error.errno in _NOT_THE_PATH_S_FAULT else InputError
    reason = error.strerror or error
    mend = "free space or choose another place" if disk_full(error) else "choose another place"
    return kind(f"'{path}' must be writable, got: {reason}; {mend}")


def one_line(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """``text`` fit for an error message: no line break or control character, not too long."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` most looks like; ``None`` where none does."""
    found = difflib.get_close_matches(name[:_LONGEST_SHOWN], list(known), n=1)
    return found[0] if found else None


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend for a name that is not among ``known``."""
    names = list(known)
    close = close_to(name, names)
    if close is not None:
        return f"did you mean {close}?"
    return f"choose from {', '.join(names)}" if names else "delete it"
