"""A Ray cluster of two nodes on this machine, whose second node may be killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from faults.processes import kill, living, marked, title, wait_until

RAY = str(Path(sys.executable).parent / "ray")


class Cluster:
    """Started as a person does, by `ray start`, with one CPU a node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = f"{folder}/cluster"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Cluster:
        port = self.address.rpartition(":")[2]
        temporary = ["--temp-dir", str(self._folder / "r")]
        head = ["--head", "--port", port, "--include-dashboard", "false", *temporary]
        self._start(*head)
        first = set(self._raylets())
        self._start("--address", self.address)
        [self._second] = set(self._raylets()) - first
        return self

    def __exit__(self, *_: object) -> None:
        for process in marked(self._mark):
            kill(process)
        wait_until(lambda: not set(marked(self._mark)) & set(living()), "the end of the cluster")

    def kill_second(self) -> None:
        """SIGKILL to the second node's raylet."""
        kill(self._second)

    def _start(self, *options: str) -> None:
        usual = ["--num-cpus", "1", "--object-store-memory", str(80 * 2**20)]
        done = subprocess.run(
            [RAY, "start", *usual, *options],
            env={
                **os.environ,
                "HPSEARCH_FAULTS": self._mark,
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_AUTH_MODE": "disabled",
                "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, re.sub(r"\s+", " ", done.stdout + done.stderr)[-500:]

    def _raylets(self) -> list[int]:
        return [process for process in marked(self._mark) if "/raylet/raylet" in title(process)]
