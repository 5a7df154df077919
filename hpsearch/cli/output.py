"""What the commands print."""

from __future__ import annotations

import functools
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpsearch.terminal.progress import Progress


_printers: list[Callable[[str], None]] = [click.echo]


def say(line: str) -> None:
    """Print a line, by the table that is on the terminal where there is one."""
    _printers[-1](line)


def say_folded(line: str) -> None:
    """Print a line, broken between words where it is wider than the terminal."""
    from hpsearch.terminal.columns import folded

    for each in folded(line, terminal_columns()):
        say(each)


@contextmanager
def answering(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """A function that prints one JSON value; what is said beside it goes to standard error.

    Args:
        as_json: whether there will be an answer; elsewhere what is said is the output.
    """
    import json
    import math

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    if as_json:
        _printers.append(functools.partial(click.echo, err=True))
    try:
        yield lambda value: click.echo(json.dumps(finite(value), allow_nan=False))
    finally:
        if as_json:
            _printers.pop()


def terminal_columns() -> int | None:
    """Of the terminal; ``None`` where the output goes elsewhere, which has no width."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Has ``progress`` draw, and print what is said meanwhile."""
    with progress:
        _printers.append(progress.print_line)
        try:
            yield
        finally:
            _printers.pop()


def again_command(command: str, storage: str | None) -> str:
    """The command on the same store, for messages; without a password, which a URL may hold."""
    if storage is None:
        return f"hpsearch {command}"
    from hpsearch.store.address import Address

    address = Address(storage)
    url = f"{'sqlite:///' if address.path else ''}{address.label}"
    return f"hpsearch {command} --storage {shlex.quote(url)}"
