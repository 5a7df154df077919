"""The Ray cluster: connect to it or start it, and remove all traces at the end."""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from hpsearch.executor.failures import one_line
from hpsearch.executor.leftovers import kill_all, kill_remaining, remove, watched
from hpsearch.executor.placement import Placement
from hpsearch.executor.ray_private import (
    files_in,
    private_cluster,
    resources_of_this_machine,
    servers_in_own_groups,
    without_rays_handlers,
    without_spilled_objects,
    without_unused_servers,
)
from hpsearch.executor.signals import (
    STARTING_GRACE_SECONDS,
    force_end,
    ignore_signals,
    kept,
    restored_handlers,
    signals_delayed,
)
from hpsearch.system import credentials
from hpsearch.system.errors import HpsearchError, InputError, disk_full, or_inodes
from hpsearch.system.process import worker_environment


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """Make a folder and remove it at the end; its path is short enough for Ray's sockets."""
    parent = parent or Path(tempfile.gettempdir())
    # The path of a socket may have 107 bytes, and Ray's part of it takes up to 72.
    if len(os.fsencode(parent.resolve())) > 24:
        parent = Path("/tmp")
    try:
        # Resolved, because the processes of a cluster are recognised by the kernel's paths.
        folder = Path(tempfile.mkdtemp(prefix="hps", dir=parent)).resolve()
    except OSError as error:
        raise unusable_for_temporary_files(parent, error) from None
    with watched(folder):
        try:
            yield folder
        finally:
            remove(folder)


def unusable_for_temporary_files(folder: Path, error: OSError) -> HpsearchError:
    """Return the error for a folder into which a launch cannot write its temporary files."""
    full = disk_full(error)
    free = f"free some space{or_inodes(folder)}" if full else "make it writable"
    return (HpsearchError if full else InputError)(
        f"the folder for temporary files, {folder}, must be writable, got: "
        f"{error.strerror or error}; {free} or set TMPDIR to another folder, then run the same "
        "command again to continue"
    )


def writing_failed(error: BaseException) -> OSError | None:
    """Return ``error`` or its cause that means a full disk or a folder that may not be written."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _CANNOT_WRITE:
            return seen
        seen = seen.__cause__
    return None


_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@contextmanager
def cluster(address: str | None, folder: Path, cpus: float) -> Iterator[Callable[[int], None]]:
    """Connect to Ray at ``address``, or start it on this machine; leave or stop it at the end.

    Yields:
        A function that a signal handler calls with the signal's number. It ends this process even
        if Ray does not respond.
    """
    ended = threading.Event()
    on_signal = functools.partial(force_end, folder, ended)
    with private_cluster() if address is None else nullcontext():
        try:
            soon = functools.partial(on_signal, grace_seconds=STARTING_GRACE_SECONDS)
            with signals_delayed(soon):
                _connect(address, folder, cpus)
            yield on_signal
        finally:
            ignore_signals()
            try:
                with _ended_by_force(folder), without_spilled_objects(), kept(signal.SIGTERM):
                    ray.shutdown()
                kill_remaining(folder)
            finally:
                ended.set()


SHUTDOWN_SECONDS = 5.0
"""Seconds that Ray has to end its processes; it needs about one.

Less than the time that `force_end` gives, so that a launch whose Ray is gone still ends in order.
"""


@contextmanager
def _ended_by_force(folder: Path) -> Iterator[None]:
    """Kill the cluster's processes if the block takes too long: Ray may wait for one for ever."""
    timer = threading.Timer(SHUTDOWN_SECONDS, kill_all, (folder,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def machines_up() -> list[dict[str, float]]:
    """Return the resources of each live machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def machines_of(placement: Placement) -> list[dict[str, float]]:
    """Return the resources of each machine of the placement's cluster.

    Without an address, this machine is the cluster.

    Raises:
        InputError: the cluster cannot be reached.
    """
    if placement.address is None:
        # Without starting Ray, which takes seconds.
        return [resources_of_this_machine()]
    with (
        restored_handlers(),
        scratch_folder(None) as folder,
        cluster(placement.address, folder, placement.cpus_per_run),
    ):
        return machines_up()


def free_resources() -> dict[str, float]:
    """Return the free resources of all machines together."""
    free: dict[str, float] = ray.available_resources()
    return free


def _connect(address: str | None, folder: Path, cpus: float) -> None:
    environment = {**worker_environment(cpus), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    own: dict[str, Any] = {}
    if address is None:
        own = {
            "include_dashboard": False,
            **files_in(folder),
            # The smallest size that Ray accepts: reports are short, and no data is sent.
            "object_store_memory": 80 * 2**20,
        }
        _check_shared_memory()
        # Temporary files of torch and others are removed together with the cluster.
        environment["TMPDIR"] = str(folder)
    _check_reachable(address)
    try:
        # No passwords: Ray's processes and the workers inherit the environment.
        with (
            credentials.withheld(),
            without_rays_handlers(),
            without_unused_servers(),
            servers_in_own_groups(),
        ):
            ray.init(
                address=address or "local",
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
                **own,
            )
    except Exception as error:  # Ray raises plain Exception if its servers do not start
        if (unwritten := writing_failed(error)) is not None:
            raise unusable_for_temporary_files(folder.parent, unwritten) from error
        if address is None:
            raise HpsearchError(f"Ray could not be started: {one_line(error)}") from error
        raise _unreachable(address, error) from None


def _check_shared_memory(folder: Path = Path("/dev/shm")) -> None:
    """Refuse shared memory that cannot be written; Ray would try for 40 s. It may be full."""
    if folder.exists() and not os.access(folder, os.W_OK):
        raise InputError(
            f"the folder {folder} must be writable for Ray, got one that is not; mount it writable "
            "(in a container: a tmpfs), then run the same command again to continue"
        )


def _check_reachable(address: str | None) -> None:
    """Try to connect for ten seconds; Ray itself would try for more than five minutes."""
    host, _, port = (address or "").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"no Ray cluster answers at '{address}': {one_line(error)}; start one with "
        "`ray start --head`, or leave the address out"
    )
