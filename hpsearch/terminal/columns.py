"""Tables and paragraphs for a terminal of so many columns."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator, Sequence

GAP = "  "


def columns(
    rows: Sequence[Sequence[str]], width: int | None, *, left: Container[int] = ()
) -> list[str]:
    """``rows`` with their cells below each other; where they do not fit, the last one is cut off.

    Args:
        rows: of equally many cells, the first of which are headings.
        width: columns of the terminal; ``None`` where nothing has to fit.
        left: the columns that are aligned to the left, as the last one is.
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
    """``line``, its end replaced by an ellipsis where it does not fit."""
    return line if width is None or len(line) <= width else f"{line[: max(width - 1, 0)]}…"


def hanging(start: str, text: str, width: int | None) -> Iterator[str]:
    """``text`` after ``start``, broken between words, its further lines below its first."""
    if width is None or len(start) + len(text) <= width:
        yield f"{start}{text}".rstrip()
        return
    below = " " * len(start)
    # A path or a hash that is longer than the room stays whole, to be copied.
    yield from textwrap.wrap(
        text,
        width=max(width, len(start) + 20),
        initial_indent=start,
        subsequent_indent=below,
        break_long_words=False,
        break_on_hyphens=False,
    )


def folded(line: str, width: int | None) -> Iterator[str]:
    """``line`` broken between words, its further lines indented as far as its first and two more.

    A table's line that fits keeps its spaces.
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
