"""The tutorial: every command is typed as it stands there, and prints what stands below it.

``python tests/test_tutorial.py`` prints what the commands print now.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
CTRL_C = "^C"
LONGEST = 1200.0
"""Seconds of one command."""


@dataclass(frozen=True)
class Step:
    """A command and the lines that it is said to print, some of all; the last may be ``^C``."""

    command: str
    shown: tuple[str, ...]

    @property
    def is_interrupted(self) -> bool:
        return self.shown[-1:] == (CTRL_C,)


def steps(text: str) -> Iterator[Step]:
    """The commands in the blocks of a terminal, after ``$``, in their order."""
    for block in re.findall(r"```console\n(.*?)```", text, flags=re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *shown = part.replace("\\\n", " ").splitlines()
            yield Step(" ".join(command.split()), tuple(line for line in shown if line.strip()))


def pattern(line: str) -> re.Pattern[str]:
    """What the line says, whatever its numbers are; ``...`` is any text."""
    parts = []
    for part in re.split(r"(\.\.\.|\d[\d.,:e+-]*|\s+)", line.strip()):
        if part == "...":
            parts.append(".*")
        elif part[:1].isdigit():
            parts.append(r"[\d.,:e+-]*")
        elif part.strip():
            parts.append(re.escape(part))
        elif part:
            parts.append(r"\s+")
    return re.compile(r"\s*" + "".join(parts) + r"\s*")


def unsaid(shown: tuple[str, ...], printed: list[str]) -> str | None:
    """The first of the shown lines that was not printed, in their order; ``None`` if all were."""
    lines = iter(printed)
    for line in shown:
        if line not in ("...", CTRL_C) and not any(map(pattern(line).fullmatch, lines)):
            return line
    return None


def run(step: Step, folder: Path) -> tuple[int, list[str]]:
    """Type the command; where Ctrl-C is shown, type that once the line before has come."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", step.command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    ending = threading.Timer(LONGEST, os.killpg, (process.pid, signal.SIGKILL))
    ending.start()
    assert process.stdout is not None
    try:
        printed = []
        awaited = step.shown[-2] if step.is_interrupted else None
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if awaited is not None and pattern(awaited).fullmatch(printed[-1]):
                os.killpg(process.pid, signal.SIGINT)
                awaited = None
        return process.wait(), printed
    finally:
        ending.cancel()
        process.stdout.close()


def test_lines_are_held_against_what_was_printed() -> None:
    printed = ["trial 3: epoch 12, loss 1.5e-3 (4 s)", "", "  mu   0.75  D", "done"]
    assert unsaid(("trial 0: epoch 1, loss 2,000 (11 s)", "...", "mu 1 D"), printed) is None
    assert unsaid(("trial 0: ... (1 s)", "done", CTRL_C), printed) is None
    assert unsaid(("mu 1 D", "trial 0: epoch 1, loss 2 (1 s)"), printed) == (
        "trial 0: epoch 1, loss 2 (1 s)"
    )
    assert unsaid(("trial 0: epoch 1",), printed) == "trial 0: epoch 1"


def test_blocks_are_read_as_commands() -> None:
    text = "x\n```console\n$ a \\\n    b\none\n\ntwo\n$ c\n```\n"
    text += "```\n$ no\n```\n```console\n$ d\n^C\n```"
    assert list(steps(text)) == [
        Step("a b", ("one", "two")),
        Step("c", ()),
        Step("d", (CTRL_C,)),
    ]


def test_ctrl_c_is_typed_once_its_line_has_come(tmp_path: Path) -> None:
    code, printed = run(Step("echo up 1; exec sleep 60", ("up 7", CTRL_C)), tmp_path)
    assert (code, printed) == (-signal.SIGINT, ["up 1"])


@pytest.mark.acceptance
def test_the_tutorial_goes_as_it_is_written(tmp_path: Path) -> None:
    taken = list(steps(TUTORIAL.read_text(encoding="utf-8")))
    assert len(taken) > 10
    # Who has cloned the repository is in its folder.
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    for step in taken:
        code, printed = run(step, tmp_path)
        said = "\n".join([f"$ {step.command}", *printed])
        assert (missing := unsaid(step.shown, printed)) is None, f"no line '{missing}' in:\n{said}"
        fails = any(line.startswith("hpsearch: ") for line in step.shown)
        if step.is_interrupted:
            # A launch says that it was; for a dashboard it is the end.
            assert code in (0, 130), f"exit code {code}:\n{said}"
        else:
            assert (code != 0) == fails, f"exit code {code}:\n{said}"


if __name__ == "__main__":
    # A shell starts what runs in its background with SIGINT ignored, and so would be the commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "search_spaces", Path(folder) / "search_spaces")
        for each in steps(TUTORIAL.read_text(encoding="utf-8")):
            print(f"$ {each.command}", flush=True)
            print(*run(each, Path(folder))[1], sep="\n", flush=True)
