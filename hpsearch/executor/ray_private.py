"""What this package uses of Ray that is no public interface of Ray's; no other file uses any.

Ray's version is pinned to 2.60 for its sake. Why each is needed:

- ``ray.init(_temp_dir=...)``: Ray's files must lie in our scratch folder, which is removed and by
  which the processes of a cluster are known.
- ``ResourceAndLabelSpec``: what Ray will count as this machine's CPUs and GPUs, without starting
  Ray, which takes seconds.
- ``trial.temporary_state.ray_actor``: the worker of a trial, to kill one that hangs.
- ``RayActorManager._actor_task_failed``: a worker that Ray kills for memory would end the whole
  search.
- ``ray._private.worker.connect`` and ``ray._private.utils.set_sigterm_handler``: Ray installs
  signal handlers while it starts that would end the command without its message.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.exceptions import RayActorError, RayTaskError

from hpsearch.executor.signals import SIGNALS


def files_in(folder: Path) -> dict[str, Any]:
    """The option of ``ray.init`` that has Ray write its files in ``folder``."""
    return {"_temp_dir": str(folder)}


def resources_of_this_machine() -> dict[str, float]:
    """What Ray will count of this machine when it starts."""
    spec = ResourceAndLabelSpec().resolve(is_head=True)
    resources: dict[str, float] = spec.to_resource_dict()
    return resources


def kill_worker(trial: Any) -> None:
    """Kill the process that trains a trial of Tune's."""
    ray.kill(trial.temporary_state.ray_actor)


@contextmanager
def memory_kills_as_lost_workers() -> Iterator[None]:
    """Has Tune take a worker killed for its machine's memory as it takes any dead worker.

    Ray 2.60 raises an error of another family for such a kill, at which Tune's actor manager gives
    up the whole experiment and with it the neighbours.
    """
    # Tune, which takes a second to import and is not needed to count what a machine has.
    from ray.air.execution._internal import RayActorManager

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
