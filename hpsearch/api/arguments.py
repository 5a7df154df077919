"""Checks of the arguments of Python functions; a wrong type is answered in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hpsearch.api.callbacks import Callback
from hpsearch.system.errors import InputError, one_line

PathLike = str | os.PathLike[str]

T = TypeVar("T")


def wrong(name: str, expected: str, got: object) -> InputError:
    """Return the error for an argument of another type or value."""
    return InputError(f"{name} must be {expected}, got {one_line(repr(got))}")


def text(name: str, value: object) -> str | None:
    """Return a text, or ``None`` for none."""
    if value is not None and not isinstance(value, str):
        raise wrong(name, "a text", value)
    return value


def path(name: str, value: object) -> Path:
    """Return a path."""
    if not isinstance(value, (str, os.PathLike)):
        raise wrong(name, "a path", value)
    return Path(value)


def path_or(name: str, value: PathLike | T, kind: type[T], expected: str) -> Path | T:
    """Return a path, or an object of a class; ``expected`` is the class in words."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise wrong(name, f"{expected} or its file", value)
    return Path(value)


def names(name: str, values: object) -> tuple[str, ...]:
    """Return several texts or paths as texts; one alone is a list of one.

    ``targets="mu"`` would otherwise mean the targets ``m`` and ``u``.
    """
    if isinstance(values, (str, os.PathLike)):
        values = (values,)
    if not isinstance(values, Iterable):
        raise wrong(name, "a list of texts", values)
    given = tuple(values)
    for value in given:
        if not isinstance(value, (str, os.PathLike)):
            raise wrong(name, "a list of texts", value)
    return tuple(os.fspath(value) for value in given)


def number(name: str, value: object) -> float:
    """Return a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(name, "a number", value)
    return value


def choice(name: str, value: object, offered: Sequence[str]) -> Any:
    """Return one of the offered texts."""
    if value not in offered:
        raise wrong(name, " or ".join(map(repr, offered)), value)
    return value


def callbacks(values: object) -> tuple[Callback, ...]:
    """Return callbacks; one alone is a list of one."""
    if isinstance(values, Callback):
        return (values,)
    if not isinstance(values, Iterable):
        raise wrong("callbacks", "a list of hpsearch.Callback objects", values)
    given = tuple(values)
    for value in given:
        if not isinstance(value, Callback):
            raise wrong("a callback", "an object of a class that inherits hpsearch.Callback", value)
    return given
