"""Standard streams that are closed, full or a pipe without a reader; a deleted working folder."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.commands import HPSEARCH, environment, listing, run

DESCRIBE = "data describe --train-size 64 --validation-size 10 --test-size 10"


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "bash", "-c", f"set -o pipefail; {line}")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("command", "code"), [("status", 2), (DESCRIBE, 0), ("--help", 0)])
def test_a_closed_stream_is_no_fault(tmp_path: Path, command: str, code: int, closed: str) -> None:
    done = shell(tmp_path, f"{HPSEARCH} {command} {closed}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (command == "status" and "2>" not in closed)


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from pathlib import Path
from unittest.mock import patch
from hpsearch.cli import main
numbers = []
with patch.object(sys, "argv", ["hpsearch", "--version"]):
    try:
        main()
    except SystemExit:
        with Path("store").open("w") as store:
            print("into no store")
            os.write(1, b"nor this")
            # Nor does a process that is started from here.
            subprocess.run(["sh", "-c", "echo nor from there"], check=True)
            sys.exit(store.fileno())
"""
    (tmp_path / "code.py").write_text(code)
    python = Path(HPSEARCH).with_name("python")
    done = shell(tmp_path, f"{python} code.py <&- >&- 2>&-")
    assert done.returncode > 2
    assert (tmp_path / "store").read_text() == ""


@pytest.mark.parametrize("command", ["--help", "status --help", DESCRIBE])
def test_a_reader_that_has_ended_is_told_by_the_code_of_the_signal(
    tmp_path: Path, command: str
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as pipe:
        done = subprocess.run(
            [HPSEARCH, *command.split()],
            cwd=tmp_path,
            env=environment(),
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_an_output_that_is_full_is_said(tmp_path: Path) -> None:
    done = shell(tmp_path, f"{HPSEARCH} {DESCRIBE} > /dev/full")
    assert done.returncode == os.EX_IOERR
    assert done.stderr == (
        "hpsearch: the output could not be written: No space left on device; "
        "type the same command again to continue\n"
    )


@pytest.mark.parametrize("command", ["status", "launch quick", "verify"])
def test_a_working_folder_that_was_deleted_is_named(tmp_path: Path, command: str) -> None:
    before = listing(tmp_path)
    done = shell(tmp_path, f"mkdir gone; cd gone; rmdir ../gone; {HPSEARCH} {command}")
    assert done.returncode == 2
    assert done.stderr.startswith("hpsearch: the working folder must exist; it was deleted")
    assert done.stderr.count("\n") == 1
    assert listing(tmp_path) == before
