"""Transactions on the database: how they begin, and how long they wait for a locked one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar, final

from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpsearch.errors import HpsearchError, InputError
from hpsearch.store.address import Address
from hpsearch.system import failpoint

Result = TypeVar("Result")

PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

_SQLITE_BUSY = 5
_SQLITE_LOCKED = 6
_SQLITE_FULL = 13
_SQLITE_NOT_A_DATABASE = 26
_SQLITE_IOERR_SHMSIZE = 10 | 19 << 8
_POSTGRESQL_FULL = "53100"
_POSTGRESQL_TRANSIENT = (
    "08",  # connection exceptions
    "40001",  # serialization failure
    "40P01",  # deadlock
    "53300",  # too many connections
    "55P03",  # lock not available
    "57P01",  # shut down by an administrator
    "57P02",  # shut down by a crash
    "57P03",  # starting up
)

_WRITES = "hpsearch_writes"
"""Execution option of connections that will write."""

_UNFENCED = "hpsearch_unfenced"
"""Execution option of connections that write without the lease: those that take it."""

Fence = Callable[[Connection], None]
"""Called first in every transaction that writes; raises where it must not."""


@final
class Database:
    """One database and its connections.

    Attributes:
        address: where it is.
        engine: of our tables; :func:`writer` is the one to write through.
        fence: called in every transaction that writes; until a writer sets it, it refuses nothing.
        patience_seconds: how long a call waits for the database.
    """

    def __init__(self, address: Address, *, create: bool, patience_seconds: float) -> None:
        self.address = address
        self.patience_seconds = patience_seconds
        self.fence: Fence = no_fence
        # Looked up in each transaction: what fences, a lease, needs the engine itself.
        self.engine = make_engine(address, create=create, fence=lambda c: self.fence(c))
        self._before_closing: list[Callable[[], None]] = []

    def first_use(self, action: Callable[[], None]) -> None:
        """Call ``action``, the first to use the database; close the database if it fails.

        Raises:
            InputError: the database cannot be used.
        """
        # Here a failure is far more often a wrong URL than a database that is away for a moment,
        # so PostgreSQL's is reported at once. A SQLite file that is locked is in use: it exists.
        try:
            if self.address.path is None:
                action()
            else:
                self.wait(action)
        except InputError:
            self.close()
            raise
        except (HpsearchError, SQLAlchemyError, StorageInternalError) as error:
            self.close()
            raise refusal(self.address, error) from None

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Call ``work`` in a transaction that reads; repeat it as :meth:`wait` does."""

        def transaction() -> Result:
            with self.engine.connect() as connection:
                return work(connection)

        return self.wait(transaction)

    def wait(self, action: Callable[[], Result]) -> Result:
        """Call ``action``, again while the database is locked or away: see :func:`wait_for`."""
        return wait_for(action, self.address, self.patience_seconds)

    def at_close(self, action: Callable[[], None]) -> None:
        """Call ``action`` whenever the database is closed, before its connections are."""
        self._before_closing.append(action)

    def close(self) -> None:
        """Close every connection; used again, the database makes new ones."""
        for action in self._before_closing:
            action()
        self.engine.dispose()


def no_fence(connection: Connection) -> None:
    """No lease is needed."""


def make_engine(address: Address, *, create: bool, fence: Fence) -> Engine:
    """Our engine; :func:`writer` is the one to write through."""
    engine = create_engine(address.bare_url, **engine_options(address, create=create))
    set_beginning(engine, fence)
    return engine


def writer(engine: Engine, *, fenced: bool = True) -> Engine:
    """``engine`` with the same connections, whose transactions write."""
    return engine.execution_options(**{_WRITES: True, _UNFENCED: not fenced})


def engine_options(
    address: Address, *, create: bool = False, writes: bool = True
) -> dict[str, object]:
    """Keyword arguments of ``create_engine``, the same for our engine and for Optuna's."""
    return {
        "creator": address.connector(create=create, writes=writes),
        "poolclass": QueuePool,
        # A connection that a restart of PostgreSQL has broken is replaced before it is used.
        "pool_pre_ping": address.path is None,
    }


def set_beginning(engine: Engine, fence: Fence, *, always_writes: bool = False) -> None:
    """Begin SQLite's transactions with the right lock, and call ``fence`` in all that write.

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


# --- Waiting for a database that is locked, restarting or briefly out of reach --------------------


def wait_for(action: Callable[[], Result], address: Address, seconds: float) -> Result:
    """Call ``action``, again and again while the database cannot serve it.

    ``action`` must be safe to repeat: a commit may have arrived although its answer did not.

    Args:
        action: one or more whole transactions.
        address: names the store in the error.
        seconds: from the first failure until waiting ends.

    Raises:
        HpsearchError: the database refused for a lasting reason, or for longer than ``seconds``.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = address.one_line(driver_error(error) or error)
            if not is_transient(error):
                advice = ""
                if is_full(error):
                    advice = "; free space and run the same command again: it goes on from here"
                raise HpsearchError(
                    f"the store {address.label} failed: {reason}{advice}"
                ) from error
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise HpsearchError(
                    f"the store {address.label} could not be used for {seconds:.0f} s: {reason}; "
                    "the same command goes on from here"
                ) from error
            # Jitter, so that several processes do not come back at the same instant.
            time.sleep(min(pause, deadline - now) * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def driver_error(error: BaseException) -> DBAPIError | None:
    """The database driver's error that ``error`` is or wraps; Optuna hides it as a cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DBAPIError):
            return seen
        seen = seen.__cause__
    return None


def is_full(error: BaseException) -> bool:
    """Whether the database found no space on its disk."""
    found = driver_error(error)
    if found is None or found.orig is None:
        return False
    code = getattr(found.orig, "sqlite_errorcode", None)
    # Without space SQLite may also fail to enlarge the index of its log.
    full = (_SQLITE_FULL, _SQLITE_IOERR_SHMSIZE)
    return code in full or getattr(found.orig, "sqlstate", None) == _POSTGRESQL_FULL


def is_transient(error: BaseException) -> bool:
    """Whether the same call can succeed later."""
    found = driver_error(error)
    if found is None or found.orig is None:
        return False
    if found.connection_invalidated:
        return True
    code = getattr(found.orig, "sqlite_errorcode", None)
    if code is not None:
        # The low byte is the primary code: BUSY_SNAPSHOT and its kin are BUSY.
        return code & 0xFF in (_SQLITE_BUSY, _SQLITE_LOCKED)
    name = type(found.orig).__module__
    if not name.startswith("psycopg"):
        return False
    state = getattr(found.orig, "sqlstate", None)
    if state is None:
        # No state means that the server could not be asked.
        return type(found.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    return any(state.startswith(prefix) for prefix in _POSTGRESQL_TRANSIENT)


def refusal(address: Address, error: BaseException) -> InputError:
    """What to tell the user of a store that cannot be opened."""
    found = driver_error(error) or error
    code = getattr(getattr(found, "orig", None), "sqlite_errorcode", 0)
    if code & 0xFF == _SQLITE_NOT_A_DATABASE:
        return InputError(f"{address.label} is not a study store: it is no SQLite database")
    reason = address.one_line(found)
    if address.path is not None:
        return InputError(f"the store {address.label} cannot be opened: {reason}")
    return InputError(
        f"the store {address.label} cannot be reached: {reason}; start its server or correct the "
        "URL (--storage, else HPSEARCH_STORAGE)"
    )
