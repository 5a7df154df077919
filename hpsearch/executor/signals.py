"""Signals that end a launch: between two records, at once, and in any case."""

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
"""Ctrl-C; a batch system or ``kill``; a terminal that closes."""


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Undoes at the end what Ray, Tune and :func:`end_at_signals` did to signal handlers."""
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
    """What a signal interrupts between two calls of the Work.

    Attributes:
        interrupted: number of the signal that came; 0 while none has.
    """

    interrupted: int


def end_at_signals(driver: Interruptible, on_signal: Callable[[int], None]) -> None:
    """Turns the first signal to end into an interrupt between two calls of the Work.

    A second one, the same or another, interrupts at once. ``on_signal`` runs in a thread from
    the first on. Call this once Ray is up: Ray's own handler of SIGTERM prints a stack and leaves
    Ray's processes and files behind.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def between_calls(number: int, frame: Any) -> None:
        if driver.interrupted:
            raise KeyboardInterrupt(number)
        driver.interrupted = number
        threading.Thread(target=on_signal, args=(number,), daemon=True).start()

    for name in SIGNALS:
        # `nohup` has SIGHUP ignored, and it should stay so.
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, between_calls)


@contextmanager
def signals_delayed(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Delays the interrupt of a first signal until Ray has started; a second interrupts at once.

    If Ray's start is interrupted, its libraries may wait a minute for a server that never came up,
    and then end the process themselves. Where the signal went to the servers as well, the start
    fails; that error is not shown. ``on_signal`` runs in a thread from the first signal on.
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
        with _called_at_once(waited, on_signal), _kept(signal.SIGTERM):
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
    """Runs ``call`` in a thread when the first of the signals comes.

    A handler would have to wait until the main thread is back from a call of Ray's.
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


_LOOKS_SECONDS = 0.002


@contextmanager
def _kept(number: signal.Signals) -> Iterator[None]:
    """Puts the process's handler of a signal back as soon as a library has replaced it.

    While it connects Ray installs one in C that prints a stack and aborts, on whichever thread the
    signal comes, and so leaves its processes and files behind.
    """
    libc = ctypes.CDLL(None)
    ours = ctypes.create_string_buffer(1024)  # a struct sigaction, which has some 150 bytes
    libc.sigaction(int(number), None, ours)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(_LOOKS_SECONDS):
            libc.sigaction(int(number), ours, None)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


GRACE_SECONDS = 10.0
"""Between a signal and the next step of :func:`force_end`."""


STARTING_GRACE_SECONDS = 4.0
"""The same while Ray starts, when there is nothing yet that takes long to end."""


def force_end(
    folder: Path, over: threading.Event, number: int, grace_seconds: float | None = None
) -> None:
    """Ends this process where the interrupt does not: at once first, then by force.

    Where the signal came to Ray's own processes as well, as a batch system sends it, a call of
    Ray's may wait a minute for a server that is gone. Nothing is lost: every record is a
    transaction.
    """
    grace_seconds = grace_seconds or GRACE_SECONDS
    if over.wait(grace_seconds):
        return
    os.kill(os.getpid(), number)
    if over.wait(grace_seconds):
        return
    words = "hpsearch: interrupted; Ray did not answer and was killed; the same command goes on\n"
    with suppress(OSError):
        os.write(2, words.encode())
    remove(folder)
    os._exit(128 + number)


def ignore_signals() -> None:
    """Lets no signal interrupt the few seconds in which processes and files are removed."""
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            # Not SIG_IGN, which processes that are started meanwhile would inherit.
            signal.signal(name, lambda number, frame: None)
