"""Lines for a terminal: the check of the molecules."""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.data.check import DataCheck
from hpsearch.report.molecules import facts, tables
from hpsearch.terminal.columns import hanging
from hpsearch.terminal.lines import section_lines

_LABEL = 12


def check_lines(check: DataCheck, width: int | None) -> Iterator[str]:
    """Yield the check: sentences, tables, and what should be looked at.

    Args:
        check: of the molecules.
        width: columns of the terminal; ``None`` for no limit.
    """
    for label, text in facts(check):
        yield from hanging(f"{label:{_LABEL}}", text, width)
    for section in tables(check):
        yield ""
        yield from section_lines(section, width)
    yield ""
    warnings = check.warnings
    if not warnings:
        yield "nothing looks wrong"
        return
    yield f"{len(warnings)} thing{'s' * (len(warnings) > 1)} to look at:"
    for warning in warnings:
        yield from hanging("  ", warning, width)
