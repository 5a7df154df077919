"""A launch on a real pseudo-terminal, as the person before it sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import HPSEARCH, LAUNCH
from support.terminals import Terminal

pytestmark = pytest.mark.slow


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(columns: int, *command: str, **variables: str) -> Terminal:
        opened.append(Terminal(tmp_path, columns, *command, **variables))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


LONGER = [*LAUNCH, "--epochs", "4", "--trials", "3"]


@pytest.mark.parametrize("columns", [80, 200])
def test_a_launch_draws_its_trials_and_leaves_only_lines(
    terminal: Callable[..., Terminal], columns: int
) -> None:
    # On the wide one without colours, and with two trials at a time.
    variables = {"NO_COLOR": "1"} if columns == 200 else {}
    at_a_time = ["--max-concurrent", "2"] if columns == 200 else []
    seen = terminal(columns, HPSEARCH, *LONGER, *at_a_time, **variables)
    assert seen.until(lambda: seen.shows("trial", "epoch", "loss", "s/epoch", "weights"))
    assert seen.until(lambda: seen.shows("/4 ", "%  "))
    [row] = [line for line in seen.screen.display if "/4 " in line][:1]
    assert "cpu" in row
    assert seen.until(lambda: seen.shows("of 3 done", "running", "best", "left"))
    assert seen.until(lambda: False) is False
    assert seen.process.wait(30) == 0
    said = seen.lines()
    # The table is gone, the ends of the trials stay.
    assert not any("s/epoch" in line for line in said)
    assert sum("complete after 4 epochs" in line for line in said) == 3
    assert not any("epoch 1, validation loss" in line for line in said)
    assert any(line.startswith("next: hpsearch export-best") for line in said)
    # The cursor is back.
    assert seen.raw.rfind(b"\x1b[?25h") > seen.raw.rfind(b"\x1b[?25l") >= 0
    colours = [b"\x1b[%d" % number for number in (*range(31, 38), *range(91, 98))]
    assert columns == 80 or not any(colour in seen.raw for colour in colours)


def test_ctrl_c_leaves_the_command_that_goes_on(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(80, HPSEARCH, *LONGER)
    assert seen.until(lambda: seen.shows("/4 ", "%  "))
    seen.type(b"\x03")
    assert seen.until(lambda: False, 60) is False
    assert seen.process.wait(30) == 130
    said = " ".join(seen.lines())
    assert "interrupted; to resume, type: hpsearch launch quick.yaml" in said
    assert "Traceback" not in said
    assert seen.raw.rfind(b"\x1b[?25h") > seen.raw.rfind(b"\x1b[?25l") >= 0


def test_a_dumb_terminal_gets_lines(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(80, HPSEARCH, *LAUNCH, "--trials", "1", TERM="dumb")
    assert seen.until(lambda: False) is False
    # A last "back to plain", which Ray sends, aside.
    assert b"\x1b[" not in seen.raw.removesuffix(b"\x1b[0m")
    assert b"epoch 1, validation loss" in seen.raw
