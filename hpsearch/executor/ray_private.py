"""What this package uses of Ray that is no public interface of Ray's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError

from hpsearch.executor.signals import SIGNALS


@contextmanager
def memory_kills_are_deaths() -> Iterator[None]:
    """Has Tune take a worker killed for its machine's memory as it takes any dead worker.

    Ray 2.60 raises an error of another family for such a kill, at which Tune's actor manager gives
    up the whole experiment and with it the neighbours.
    """
    original = RayActorManager._actor_task_failed

    def actor_task_failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=str(exception))
        original(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = actor_task_failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original


@contextmanager
def without_rays_handlers() -> Iterator[None]:
    """Keeps the signal handlers that there are while Ray starts.

    Ray's own of SIGTERM, one in Python and, once it connects, one in C that prints a stack and
    aborts, would leave the command without its message and its temporary files in place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    worker, utilities = ray._private.worker, ray._private.utils
    connect, set_handler = worker.connect, utilities.set_sigterm_handler

    def connect_and_put_back(*arguments: Any, **options: Any) -> Any:
        handlers = {name: signal.getsignal(name) for name in SIGNALS}
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return connect(*arguments, **options)
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    worker.connect, utilities.set_sigterm_handler = connect_and_put_back, lambda handler: None
    try:
        yield
    finally:
        worker.connect, utilities.set_sigterm_handler = connect, set_handler
