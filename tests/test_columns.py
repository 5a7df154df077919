"""Tables and paragraphs at several widths."""

from __future__ import annotations

import pytest

from hpsearch.report import Section
from hpsearch.terminal.columns import columns, cut, folded, hanging
from hpsearch.terminal.lines import section_lines

TABLE = [
    ("trial", "state", "loss", "on"),
    ("7", "done", "1,234", "cpu a-long-name"),
    ("12", "-", "5", "x"),
]


def test_cells_stand_below_each_other() -> None:
    assert columns(TABLE, None, left=(1,)) == [
        "trial  state   loss  on",
        "    7  done   1,234  cpu a-long-name",
        "   12  -          5  x",
    ]


@pytest.mark.parametrize("width", [0, 1, 20, 35, 36])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = columns(TABLE, width)
    assert max(map(len, lines)) <= max(width, 1)
    assert ("…" in "".join(lines)) == (width < 36)


def test_a_cut_line_says_so() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 5) == "abcd…"


def test_a_reason_hangs_below_its_first_line() -> None:
    text = "no space left on device while the checkpoint was written"
    assert list(hanging("7  failed  ", text, None)) == [f"7  failed  {text}"]
    first, *others = hanging("7  failed  ", text, 40)
    assert first == "7  failed  no space left on device while"
    assert others == ["           the checkpoint was written"]
    # A path stays whole.
    path = "/a/very/long/path/to-a/file-that-is/somewhere.yaml"
    assert path in "\n".join(hanging("-> ", f"write {path} again", 30))


def test_a_long_line_is_broken_between_words() -> None:
    line = "  epoch     3 s to 9 s, middle 5 s"
    assert list(folded(line, 34)) == [line]
    assert list(folded(line, None)) == [line]
    assert list(folded(line, 26)) == ["  epoch     3 s to 9 s,", "    middle 5 s"]


WIDE = Section(
    "Table 1: test errors",
    header=("Target", "Unit", *(f"Network{n}" for n in range(8))),
    rows=(("mu", "D", *(f"0.{n}" for n in range(8))),),
    groups=("", "", *["ours"] * 4, *["published, other sizes"] * 4),
)


@pytest.mark.parametrize("width", [40, 52, 80])
def test_a_wide_table_comes_in_blocks_of_columns(width: int) -> None:
    lines = list(section_lines(WIDE, width))
    assert max(map(len, lines)) <= width
    assert lines.count("Table 1: test errors") == 1
    heads = [line.split() for line in lines if "Target" in line]
    assert all(head[:2] == ["Target", "Unit"] for head in heads)
    assert [name for head in heads for name in head[2:]] == [f"Network{n}" for n in range(8)]
    rows = [line.split() for line in lines if line.startswith("mu")]
    assert [cell for row in rows for cell in row[2:]] == [f"0.{n}" for n in range(8)]
    assert len(heads) > 1


def test_a_table_that_fits_stays_whole() -> None:
    whole = list(section_lines(WIDE, None))
    assert list(section_lines(WIDE, 200)) == whole
    assert len(whole) == 4
