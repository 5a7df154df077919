"""A launch as a person starts one, and the named instants at which it can be stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from faults.processes import kill, living, marked, title, wait_until

HPSEARCH = str(Path(sys.executable).parent / "hpsearch")
LONGEST_SECONDS = 240.0


class Failpoints:
    """The suite's side of `hpsearch.system.failpoint`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def arm(self, name: str) -> None:
        """Stop the next process that reaches ``name``."""
        (self.folder / f"arm {name}").touch()

    def disarm(self) -> None:
        """Stop nobody, and let those go on who are stopped."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def stopped(self, name: str) -> int | None:
        """The process that stands at ``name``."""
        for path in self.folder.glob(f"hit {name} *"):
            return int(path.name.rpartition(" ")[2])
        return None


class Launch:
    """`hpsearch launch` in a session of its own; its output is what a person would read.

    Attributes:
        began: the trials that were COMPLETE when it began.
        code: its exit code; ``None`` while it runs.
        killed: whether the suite ended it with SIGKILL.
        mark: text in the environment of all its processes.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        name: str,
        mark: str,
        environment: dict[str, str],
        began: set[int],
    ) -> None:
        self.began = began
        self.killed = False
        self.arguments = arguments
        self.mark = mark
        self._output, self._errors = folder / f"{name}.out", folder / f"{name}.err"
        with self._output.open("w") as output, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [HPSEARCH, *arguments],
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def read(self, pattern: str, seconds: float = LONGEST_SECONDS) -> re.Match[str]:
        """Wait until the output holds ``pattern``."""

        def look() -> re.Match[str] | None:
            ended = self.code is not None
            found = re.search(pattern, self.output, re.M)
            assert found or not ended, f"it ended ({self.code}) without '{pattern}': {self.said()}"
            return found

        found = wait_until(look, f"'{pattern}' in {self.said()}", seconds)
        assert found is not None
        return found

    def reach(self, failpoints: Failpoints, name: str, seconds: float = LONGEST_SECONDS) -> int:
        """Wait until a process stands at ``name``; which."""

        def look() -> int | None:
            found = failpoints.stopped(name)
            assert found or self.code is None, f"it ended without reaching {name}: {self.said()}"
            return found

        return wait_until(look, f"somebody at {name}: {self.said()}", seconds) or 0

    def workers(self) -> list[int]:
        """The processes that train for it."""
        return [process for process in self.below() if title(process).startswith("ray::Worker")]

    def raylets(self) -> list[int]:
        """Ray's process that places workers; one, unless it has died."""
        return [process for process in self.below() if "/raylet/raylet" in title(process)]

    def below(self) -> list[int]:
        """All its processes but the driver, whoever their parents are by now."""
        return [process for process in marked(self.mark) if process != self.pid]

    def kill(self) -> None:
        """SIGKILL to the driver alone; its children are left to see to themselves."""
        self.killed = True
        kill(self.pid)
        self.process.wait(30)

    def signal(self, number: int) -> None:
        """To the whole group, as a terminal does; nothing once it has ended.

        Its number may be another process's by then.
        """
        if self.code is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Its exit code, once it has ended by itself."""
        wait_until(lambda: self.code is not None, f"the end of {self.said()}", seconds)
        return self.process.returncode

    def said(self) -> str:
        """What it was, and the ends of its output, for messages."""
        tail = " | ".join((self.output + self.errors).strip().splitlines()[-4:])
        return f"`hpsearch {' '.join(self.arguments)}` which said: {tail[-700:]}"

    def close(self) -> None:
        """End whatever is left of it, hard."""
        left = {self.pid, *self.below()} if self.code is None else set(self.below())
        for process in left & set(living()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
            kill(process)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


def orphans(mark: str, seconds: float) -> list[str]:
    """Processes with ``mark`` that are still there after ``seconds``, by title."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"{process} {title(process)[:80]}" for process in left]
