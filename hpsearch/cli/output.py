"""The output of a command: lines for a person, one JSON value for a script."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpsearch.api.drive import Voice
    from hpsearch.cost.estimate import TimeLeft
    from hpsearch.terminal.board import Screen
    from hpsearch.terminal.progress import Progress


@dataclass(frozen=True)
class Output:
    """The destination of a command's lines.

    Attributes:
        say: prints a line.
        screen: the terminal, if a live table can be drawn on it; else ``None``.
    """

    say: Callable[[str], None] = click.echo
    screen: Screen | None = None

    @classmethod
    def beside_json(cls, as_json: bool) -> Output:
        """Return an output that prints lines on standard error if standard output is for JSON."""
        return cls(say_on_stderr) if as_json else cls()

    @classmethod
    def with_table(cls) -> Output:
        """Return an output with a live table, if standard output is a terminal that can draw it."""
        if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            return cls()
        from hpsearch.terminal.board import Screen

        screen = Screen()
        return cls(screen.print_line, screen)

    def say_folded(self, line: str) -> None:
        """Print a line, broken between words if it is wider than the terminal."""
        from hpsearch.terminal.columns import folded

        for part in folded(line, terminal_columns()):
            self.say(part)


def say_on_stderr(line: str) -> None:
    """Print a line on standard error, next to what a command prints on standard output."""
    click.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on one line; a number that is not finite becomes ``null``."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        # Only now a copy: the status of a large study takes much memory.
        text = json.dumps(_finite(value), allow_nan=False)
    click.echo(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def terminal_columns() -> int | None:
    """Return the width of the terminal; ``None`` if the output does not go to a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def make_voice(out: Output) -> Voice:
    """Return the voice of a launch: with a live table on a terminal, lines elsewhere."""
    from hpsearch.api.drive import Voice

    screen = out.screen
    if screen is None:
        return Voice.of(out.say)

    def make(noun: str, estimate: TimeLeft, **known: Any) -> Progress:
        from hpsearch.terminal.board import Board

        return Board(noun, estimate, say=out.say, follow=_nothing, console=screen.console, **known)

    return Voice(out.say, make)


def _nothing(line: str) -> None:
    """Print nothing, because the live table shows it."""
