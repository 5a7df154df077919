"""Engines with SQLite's transactions made exact, for our tables and for Optuna's alike."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from hpsearch import failpoint
from hpsearch.store.address import Address

WRITES = "hpsearch_writes"
"""Execution option of connections that will write."""


def make_engine(address: Address, *, create: bool) -> Engine:
    """Our engine; :func:`writer` is the one to write through."""
    engine = create_engine(address.bare_url, **engine_options(address, create=create))
    set_beginning(engine)
    return engine


def writer(engine: Engine) -> Engine:
    """``engine`` with the same connections, whose transactions write."""
    return engine.execution_options(**{WRITES: True})


def engine_options(address: Address, *, create: bool) -> dict[str, object]:
    """Keyword arguments of ``create_engine``, the same for our engine and for Optuna's."""
    return {
        "creator": address.connector(create=create),
        "poolclass": QueuePool,
        # A connection that a restart of PostgreSQL has broken is replaced before it is used.
        "pool_pre_ping": address.path is None,
    }


def set_beginning(engine: Engine, *, always_writes: bool = False) -> None:
    """Make SQLite's transactions begin by our word.

    Args:
        engine: ours or Optuna's.
        always_writes: every transaction takes the write lock at once. Optuna's transactions read
            before they write, and do not say which of them will.
    """
    if always_writes:
        event.listen(engine, "commit", lambda connection: failpoint.reach("inside-commit"))
    if engine.dialect.name != "sqlite":
        return

    def begin(connection: Connection) -> None:
        writes = always_writes or connection.get_execution_options().get(WRITES, False)
        # A transaction that first reads and then writes fails at once, however long the timeout,
        # when another one wrote in between; taking the lock at the start makes it wait instead.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "begin", begin)
