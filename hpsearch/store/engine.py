"""Engines with SQLite's transactions made exact, for our tables and for Optuna's alike."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from hpsearch.store.address import Address
from hpsearch.system import failpoint

_WRITES = "hpsearch_writes"
"""Execution option of connections that will write."""

_UNFENCED = "hpsearch_unfenced"
"""Execution option of connections that write without the lease: those that take it."""

Fence = Callable[[Connection], None]
"""Called first in every transaction that writes; raises where it must not."""


def make_engine(address: Address, *, create: bool, fence: Fence) -> Engine:
    """Our engine; :func:`writer` is the one to write through."""
    engine = create_engine(address.bare_url, **engine_options(address, create=create))
    set_beginning(engine, fence)
    return engine


def writer(engine: Engine, *, fenced: bool = True) -> Engine:
    """``engine`` with the same connections, whose transactions write."""
    return engine.execution_options(**{_WRITES: True, _UNFENCED: not fenced})


def engine_options(address: Address, *, create: bool) -> dict[str, object]:
    """Keyword arguments of ``create_engine``, the same for our engine and for Optuna's."""
    return {
        "creator": address.connector(create=create),
        "poolclass": QueuePool,
        # A connection that a restart of PostgreSQL has broken is replaced before it is used.
        "pool_pre_ping": address.path is None,
    }


def set_beginning(engine: Engine, fence: Fence, *, always_writes: bool = False) -> None:
    """Make transactions begin by our word: SQLite's with its lock, all that write with the fence.

    Args:
        engine: ours or Optuna's.
        fence: called in the transaction, so that what it reads holds until the commit.
        always_writes: every transaction takes the write lock at once. Optuna's transactions read
            before they write, and do not say which of them will.
    """

    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        writes = always_writes or options.get(_WRITES, False)
        if connection.dialect.name == "sqlite":
            # A transaction that first reads and then writes fails at once, however long the
            # timeout, when another one wrote in between; with the lock from the start it waits.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        if writes and not options.get(_UNFENCED, False):
            fence(connection)

    event.listen(engine, "begin", begin)
    if always_writes:
        event.listen(engine, "commit", lambda connection: failpoint.reach("inside-commit"))
