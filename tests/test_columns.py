"""Tables and paragraphs at several widths."""

from __future__ import annotations

import pytest

from hpsearch.columns import columns, cut, hanging

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
