"""All uses of Ray's private interfaces. Because of them, Ray's version is pinned to 2.60.

The private interfaces, and why they are needed:

- ``ray.init(_temp_dir=...)``: Ray's files must be in our scratch folder, which is removed and by
  which the processes of a cluster are recognised.
- ``ResourceAndLabelSpec``: counts this machine's CPUs and GPUs as Ray does, without starting Ray,
  which takes seconds.
- ``trial.temporary_state.ray_actor``: the worker of a trial, to kill a worker that hangs.
- ``RayActorManager._actor_task_failed``: without the change, the search ends when Ray kills a
  worker to free memory.
- ``ray._private.worker.connect`` and ``ray._private.utils.set_sigterm_handler``: Ray installs
  signal handlers when it starts, which would end the command without its message.
- ``Node.start_monitor``, ``start_log_monitor`` and ``start_api_server``: three servers of Ray that
  a launch does not use. ``ray.init`` has no option for the first two, and with
  ``include_dashboard=False`` it still starts the third.
- ``ray._private.services.ConsolePopen``: starts Ray's servers, in the process group of the launch.
- ``Node.destroy_external_storage``: makes a folder when Ray is shut down. If the disk is full that
  fails, and Ray's processes are not ended.
- ``ray_constants.ENABLE_RAY_CLUSTER``: Ray's servers listen on all addresses of a machine unless
  this is false.
- ``authentication_token_setup``: Ray reads its token once, when it is imported. Without one it
  writes a token into the home folder, in a file that all users of the machine can read.
"""

from __future__ import annotations

import functools
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.authentication import authentication_token_setup as authentication
from ray._private.node import Node
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.exceptions import RayActorError, RayTaskError

from hpsearch.executor.signals import SIGNALS


def files_in(folder: Path) -> dict[str, Any]:
    """Return the option of ``ray.init`` that makes Ray write its files into ``folder``.

    They lie one level below it, because Ray lets everyone read and write its own folder.
    """
    return {"_temp_dir": str(folder / "r")}


def resources_of_this_machine() -> dict[str, float]:
    """Return this machine's resources as Ray counts them."""
    spec = ResourceAndLabelSpec().resolve(is_head=True)
    resources: dict[str, float] = spec.to_resource_dict()
    return resources


def kill_worker(trial: Any) -> None:
    """Kill the process that trains a run."""
    ray.kill(trial.temporary_state.ray_actor)


@contextmanager
def memory_kills_as_lost_workers() -> Iterator[None]:
    """Make Tune treat a worker that Ray killed to free memory like any other dead worker.

    Ray 2.60 raises another class of error for such a worker, and Tune's actor manager then ends all
    runs.
    """
    # Imported here: Tune takes a second to import, and counting resources does not need it.
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
    """Keep the present signal handlers while Ray starts.

    Ray installs two handlers of SIGTERM: one in Python, and one in C that prints a stack and
    aborts. With them a command would end without its message and leave its temporary files.
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


@contextmanager
def without_unused_servers() -> Iterator[None]:
    """Start Ray without its autoscaler, its log monitor and its dashboard.

    Each is a Python process, and the three take as much CPU time as a small run. No machines are
    added, the workers' output is not shown, and nobody opens Ray's dashboard.
    """
    names = ("start_monitor", "start_log_monitor", "start_api_server")
    originals = {name: getattr(Node, name) for name in names}
    for name in names:
        setattr(Node, name, lambda node, **options: None)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Node, name, original)


@contextmanager
def servers_in_own_groups() -> Iterator[None]:
    """Start each server of Ray in a process group of its own.

    A terminal or a batch system sends a signal to the whole group of the launch. Ray's GCS would
    stop answering then, and the driver would wait for it in a call that never returns.
    """
    original = services.ConsolePopen
    services.ConsolePopen = functools.partial(original, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = original


@contextmanager
def without_spilled_objects() -> Iterator[None]:
    """Let Ray shut down without removing the objects that it has moved to disk.

    There are none, and the scratch folder is removed anyway. Ray would first make the folder of
    these objects, which fails on a full disk.
    """
    original = Node.destroy_external_storage
    Node.destroy_external_storage = lambda node: None
    try:
        yield
    finally:
        Node.destroy_external_storage = original


_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def private_cluster() -> Iterator[None]:
    """Let only this launch use the cluster that starts in the block, until the block ends.

    The servers listen on the loopback address, and accept only a random token. The token is in the
    environment of this process and of its children, which no other user can read.
    """
    before = {name: os.environ.pop(name, None) for name in _TOKEN_VARIABLES}
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    authentication._enable_token_auth()
    authentication.AuthenticationTokenLoader.instance().reset_cache()
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        authentication.Config.initialize("")
        authentication.AuthenticationTokenLoader.instance().reset_cache()
