"""The command ``hpsearch``: its group, and how a command ends after an error or a signal.

Heavy imports are inside the commands, so that ``hpsearch --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from hpsearch import __version__
from hpsearch.cli.ablate import ablate
from hpsearch.cli.doctor import doctor
from hpsearch.cli.launch import launch
from hpsearch.cli.look import dashboard, export_best, replay, report, status, verify
from hpsearch.cli.models import model, predict
from hpsearch.cli.train import data, dipoles, train
from hpsearch.system import credentials
from hpsearch.system.collector import collect_seldom
from hpsearch.system.errors import HpsearchError, InputError

_TRAINING = {"launch", "ablate", "train"}


class Interrupted(HpsearchError):
    """Ctrl-C or another signal has ended a command; the exit code is that of shells."""

    def __init__(self, number: int) -> None:
        command = shlex.join(["hpsearch", *sys.argv[1:]])
        super().__init__(f"interrupted; to resume, type: {command}")
        self.exit_code = 128 + number


class _Commands(click.Group):
    """A group that handles Ctrl-C itself, because click would print an empty line first."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(error.args[0] if error.args else signal.SIGINT) from None


@click.group(
    cls=_Commands,
    commands=[
        *(launch, status, verify, doctor, dashboard, export_best),
        *(replay, ablate, report, train, model, predict),
        *(dipoles, data),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nA first search on real molecules, its winner, an ablation, a report:\n"
    "  hpsearch launch search_spaces/quick.yaml\n"
    "  hpsearch export-best -o best.yaml\n"
    "  hpsearch ablate best.yaml --targets mu,U0 --epochs 2 --train-size 200\n"
    "  hpsearch report -o report/",
)
@click.version_option(__version__, prog_name="hpsearch")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Search the hyperparameters of equivariant molecular networks on QM9.

    Then ablate the winner: train it without vector features, and compare.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise InputError(
            "the working folder must exist; it was deleted after the shell entered it: "
            "change to another folder"
        ) from None


def main() -> None:
    """Run a command; errors are one line on standard error and an exit code."""
    debug = "--debug" in sys.argv[1:]
    collect_seldom()
    _open_closed_streams()
    output = sys.stdout
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under `nohup`, SIGHUP is ignored and must stay ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        credentials.refuse_passwords(sys.argv[1:])
        code = cli.main(standalone_mode=False)
    except HpsearchError as error:
        if debug:
            traceback.print_exc()
        # The terminal has printed ^C without a new line.
        start = "\n" if isinstance(error, Interrupted) and sys.stderr.isatty() else ""
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        click.echo(f"{start}hpsearch: {_printable(str(error))}", err=True)
        code = error.exit_code
        if isinstance(error, Interrupted):
            _leave(code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see: {context.command_path} --help" if context else ""
        click.echo(f"hpsearch: {_printable(error.format_message().rstrip('.'))}{hint}", err=True)
        code = 2
    except OSError as error:
        if debug:
            traceback.print_exc()
        code = _unwritten(error) if error.filename is None else _unusable(error)
    except SystemExit:
        # Where the reader of a pipe has ended, click replaces the stream and ends with 1.
        if sys.stdout is output:
            raise
        code = _unwritten(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
    except click.Abort:  # a signal before a command began
        code = 128 + signal.SIGINT
    sys.exit(code or 0)


def _open_closed_streams() -> None:
    """Open standard streams that the shell has closed (``>&-``) on /dev/null.

    Otherwise a file that is opened later, such as the store, would get the number of the closed
    stream. Then everything that a library prints would be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one. Processes that we start need it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _unusable(error: OSError) -> int:
    """Report a file that a command could not use, and return the exit code.

    The packages report their own files, so this is a file that none of them expected to fail.
    """
    name = _printable(os.fsdecode(error.filename))
    click.echo(
        f"hpsearch: '{name}' could not be used: {error.strerror or error}; mend this, then type "
        "the same command again to continue",
        err=True,
    )
    return 1


def _unwritten(error: OSError) -> int:
    """Report that standard output cannot be written; return the exit code.

    The error has no file name: it comes from a full disk, or a pipe whose reader has ended.

    A pipe whose reader has ended gives the code of SIGPIPE. A person who types ``| head`` expects
    that, so only a command that trains reports it. No code is 1, because `hpsearch verify` returns
    1 for a breach.
    """
    broken = error.errno == errno.EPIPE
    if not broken or _TRAINING & set(sys.argv[1:]):
        with suppress(OSError):
            reason = error.strerror or error
            click.echo(
                f"hpsearch: the output could not be written: {reason}; "
                "type the same command again to continue",
                err=True,
            )
    # The interpreter flushes at its end and would report the error a second time.
    with suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return 128 + signal.SIGPIPE if broken else os.EX_IOERR


def _leave(code: int) -> NoReturn:
    """Exit without the interpreter's teardown; our own resources are already closed.

    Ray's libraries may crash in the teardown if they were interrupted while they started.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _printable(message: str) -> str:
    """Return ``message`` with control characters escaped, since a name may contain some."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], message)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise the interrupt; during an import, wait until the import has ended.

    A module that is only half imported may swallow the interrupt or turn it into another error.
    """
    if _importing(frame):
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    raise KeyboardInterrupt(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
