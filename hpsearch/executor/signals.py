"""Signals that end a launch: in order first, then at once, then by force."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from hpsearch.executor.leftovers import remove

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Sent by Ctrl-C; by a batch system or ``kill``; by a terminal that closes."""


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore the signal handlers that Ray, Tune and :func:`ended_by_signals` replace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in (*SIGNALS, signal.SIGUSR1)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class Interruptible(Protocol):
    """The part of the `Driver` that signals use.

    Attributes:
        interrupted: number of the signal that came; 0 if none has.
    """

    interrupted: int


@contextmanager
def ended_by_signals(driver: Interruptible, on_signal: Callable[[int], None]) -> Iterator[None]:
    """Install handlers: the first signal interrupts between two calls of the Work.

    A second signal interrupts at once. The first signal also starts ``on_signal`` in a thread, even
    if Ray never returns from a call. Call this after Ray has started, because it replaces Ray's
    handler of SIGTERM, which prints a stack and leaves Ray's processes and files. The handlers
    stay; `restored_handlers` puts the earlier ones back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def between_calls(number: int, frame: Any) -> None:
        if driver.interrupted:
            raise KeyboardInterrupt(number)
        driver.interrupted = number

    # `nohup` ignores SIGHUP, which must stay ignored.
    heeded = [name for name in SIGNALS if signal.getsignal(name) is not signal.SIG_IGN]
    for name in heeded:
        signal.signal(name, between_calls)
    with _called_at_once(heeded, on_signal):
        yield


@contextmanager
def signals_delayed(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Delay the first signal until Ray has started; a second signal interrupts at once.

    If Ray's start were interrupted, its libraries might wait a minute for a server and then end the
    process. If the signal also reached Ray's servers, the start fails; that error is not shown. The
    first signal also starts ``on_signal`` in a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt(number)

    before = {name: signal.getsignal(name) for name in SIGNALS}
    waited = [name for name, handler in before.items() if handler is not signal.SIG_IGN]
    for name in waited:
        signal.signal(name, note)
    try:
        with _called_at_once(waited, on_signal), kept(signal.SIGTERM):
            yield
    except Exception:
        if not came:
            raise
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    if came:
        raise KeyboardInterrupt(came[0])


@contextmanager
def _called_at_once(numbers: list[signal.Signals], call: Callable[[int], None]) -> Iterator[None]:
    """Run ``call`` in a thread when the first of the signals comes.

    A signal handler would have to wait until the main thread returns from Ray's code.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        was_called = False
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while came := pipe.read(1):
                if came[0] in numbers and not was_called:
                    was_called = True
                    call(came[0])

    threading.Thread(target=listen, daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


_LOOKS_SECONDS = 0.0005


@contextmanager
def kept(number: signal.Signals) -> Iterator[None]:
    """Restore the process's handler of a signal as soon as a library replaces it.

    When Ray connects, it installs a handler in C that prints a stack and aborts. When Ray shuts
    down, it puts the system's default in its place, which ends the process at once. Both leave
    Ray's processes and files.
    """
    libc = ctypes.CDLL(None)
    ours = ctypes.create_string_buffer(1024)  # a struct sigaction, of about 150 bytes
    libc.sigaction(int(number), None, ours)
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_LOOKS_SECONDS):
            libc.sigaction(int(number), ours, None)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        libc.sigaction(int(number), ours, None)


GRACE_SECONDS = 10.0
"""Seconds between a signal and the next step of :func:`force_end`."""


STARTING_GRACE_SECONDS = 4.0
"""The same while Ray starts, when nothing takes long to end yet."""


def force_end(
    folder: Path, ended: threading.Event, number: int, grace_seconds: float | None = None
) -> None:
    """End this process if the interrupt does not: send a second signal, then exit by force.

    If the signal also reached Ray's processes, as from a batch system, Ray may wait a minute for a
    server that has ended. Nothing is lost, because every record is a transaction.
    """
    grace_seconds = grace_seconds or GRACE_SECONDS
    if ended.wait(grace_seconds):
        return
    os.kill(os.getpid(), number)
    if ended.wait(grace_seconds):
        return
    words = (
        "hpsearch: interrupted; Ray did not respond and was killed; run the same command again to "
        "continue\n"
    )
    with suppress(OSError):
        os.write(2, words.encode())
    remove(folder)
    os._exit(128 + number)


def ignore_signals() -> None:
    """Ignore signals during the few seconds in which processes and files are removed."""
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            # Not SIG_IGN, which processes started in this time would inherit.
            signal.signal(name, lambda number, frame: None)
