"""Engines with SQLite's transactions made exact, for our tables and for Optuna's alike."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from hpsearch.store.address import Address

WRITES = "hpsearch_writes"
"""Execution option of connections that will write."""


def make_engine(address: Address, *, create: bool) -> Engine:
    """Our engine; :func:`writer` is the one to write through."""
    engine = create_engine(address.bare_url, **engine_options(address, create=create))
    prepare(engine, create=create)
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


def prepare(engine: Engine, *, create: bool, always_writes: bool = False) -> None:
    """Give SQLite connections their settings and their way to begin.

    Args:
        engine: ours or Optuna's.
        create: whether the file may be changed to write-ahead logging.
        always_writes: every transaction takes the write lock at once. Optuna's transactions read
            before they write, and do not say which of them will.
    """
    if engine.dialect.name != "sqlite":
        return

    def set_up(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        if create:
            # Readers and one writer do not wait for each other. Kept in the file once it is set.
            cursor.execute("PRAGMA journal_mode=WAL")
        # NORMAL may lose the last commits at a power cut: a trial that the user has seen complete
        # would be gone. FULL costs a sync per commit, some dozens per trial.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    def begin(connection: Connection) -> None:
        writes = always_writes or connection.get_execution_options().get(WRITES, False)
        # A transaction that first reads and then writes fails at once, however long the timeout,
        # when another one wrote in between; taking the lock at the start makes it wait instead.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
