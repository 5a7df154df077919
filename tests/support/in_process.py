"""A command of hpsearch inside the process of the tests, where a process would cost half a second.

Nothing that starts Ray belongs here: it would stay in the process for the tests that follow.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from hpsearch.cli import main
from support.commands import environment

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def typed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``hpsearch`` with these arguments prints, and the code that it ends with."""
    command = ["hpsearch", *arguments]
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    printed, said, code = io.StringIO(), io.StringIO(), None
    collector = gc.get_threshold()  # a command makes it rare, which later tests would feel
    try:
        with (
            chdir(folder),
            patch.dict(os.environ, environment(), clear=True),
            patch.object(sys, "argv", command),
            redirect_stdout(printed),
            redirect_stderr(said),
        ):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        gc.set_threshold(*collector)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(code, int), f"{command} ended with {code!r}"
    return subprocess.CompletedProcess(command, code, printed.getvalue(), said.getvalue())
