"""Tables and paragraphs that fit the width of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator, Sequence

GAP = "  "


def columns(
    rows: Sequence[Sequence[str]], width: int | None, *, left: Container[int] = ()
) -> list[str]:
    """Return ``rows`` as aligned lines; a line that is too wide is cut at its end.

    Args:
        rows: rows of cells, all of the same length; the first row has the headings.
        width: columns of the terminal; ``None`` for no limit.
        left: columns to align to the left; the last column always is.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    lines = [
        GAP.join(
            cell.ljust(room) if number in left or number == last else cell.rjust(room)
            for number, (cell, room) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [cut(line, width) for line in lines]


def cut(line: str, width: int | None) -> str:
    """Return ``line``, with its end replaced by an ellipsis if it does not fit."""
    return line if width is None or len(line) <= width else f"{line[: max(width - 1, 0)]}…"


def hanging(start: str, text: str, width: int | None) -> Iterator[str]:
    """Yield ``text`` after ``start``, broken between words, with the other lines aligned below."""
    if width is None or len(start) + len(text) <= width:
        yield f"{start}{text}".rstrip()
        return
    below = " " * len(start)
    # A path or a hash is never broken, so that it can be copied.
    yield from textwrap.wrap(
        text,
        width=max(width, len(start) + 20),
        initial_indent=start,
        subsequent_indent=below,
        break_long_words=False,
        break_on_hyphens=False,
    )


def folded(line: str, width: int | None) -> Iterator[str]:
    """Yield ``line`` broken between words; the other lines are indented two columns more.

    A line that fits is not changed, so that a table keeps its spaces.
    """
    if width is None or len(line) <= width:
        yield line
        return
    text = line.lstrip()
    indent = " " * (len(line) - len(text))
    further = f"{indent}  "
    yield from textwrap.wrap(
        text,
        width=max(width, len(further) + 20),
        initial_indent=indent,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
