"""Database transactions: how they begin, and how long they wait for a locked database."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar, final

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpsearch.errors import HpsearchError, InputError
from hpsearch.store.address import Address
from hpsearch.system import failpoint

Result = TypeVar("Result")

PATIENCE_SECONDS = 120.0
SILENT_SECONDS = 3.0
"""A longer wait is reported."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

_SQLITE_BUSY = 5
_SQLITE_LOCKED = 6
_SQLITE_FULL = 13
_SQLITE_NOT_A_DATABASE = 26
_SQLITE_IOERR_SHMSIZE = 10 | 19 << 8
_POSTGRESQL_FULL = "53100"
_POSTGRESQL_LOCKED = "55P03"  # lock_timeout
_POSTGRESQL_TRANSIENT = (
    "08",  # connection exceptions
    "25P03",  # idle_in_transaction_session_timeout
    "25006",  # a standby after a failover: it only reads until it is promoted
    "40001",  # serialization failure
    "40P01",  # deadlock
    "53300",  # too many connections
    _POSTGRESQL_LOCKED,
    "57014",  # statement_timeout, or a statement that an administrator cancelled
    "57P01",  # shut down by an administrator
    "57P02",  # shut down by a crash
    "57P03",  # starting up
    "57P05",  # idle_session_timeout
)

_WRITES = "hpsearch_writes"
"""Execution option: the connection will write."""

_UNFENCED = "hpsearch_unfenced"
"""Execution option: the connection writes without a lease, in order to take one."""

Fence = Callable[[Connection], None]
"""Called first in every writing transaction; raises an error if writing is not allowed."""


@final
class Database:
    """A database and its connections.

    Attributes:
        address: the address of the database.
        engine: SQLAlchemy's engine for our tables. Writes go through :func:`writer` of it.
        fence: called in every writing transaction. The default allows every write.
        patience_seconds: how long a call waits for the database.
    """

    def __init__(
        self,
        address: Address,
        *,
        create: bool,
        patience_seconds: float,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Make the connections' pool; nothing is opened yet.

        Args:
            address: the address of the database.
            create: whether a missing SQLite file may be created.
            patience_seconds: how long a call waits for the database.
            say: called with a line, in another thread, when a call waits for longer than
                :data:`SILENT_SECONDS`, and with one when the database answers again.
        """
        self.address = address
        self.patience_seconds = patience_seconds
        self._reporter = _WaitReporter(say, address, patience_seconds) if say else None
        self.fence: Fence = no_fence
        # A lambda, because the lease that becomes the fence needs this engine first.
        self.engine = make_engine(address, create=create, fence=lambda c: self.fence(c))
        self._before_closing: list[Callable[[], None]] = []

    def first_use(self, action: Callable[[], None]) -> None:
        """Call ``action``, the first use of the database; close the database if it fails.

        Raises:
            InputError: the database cannot be used.
        """
        # The first failure of a PostgreSQL URL usually means that the URL is wrong, so it is
        # reported at once. A locked SQLite file exists and is in use, so waiting helps.
        try:
            if self.address.path is None:
                self._first_use_of_server(action)
            else:
                self.wait(action)
        except InputError:
            self.close()
            raise
        except database_errors(HpsearchError) as error:
            self.close()
            raise refusal(self.address, error) from None

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Call ``work`` in a read transaction; repeat it as :meth:`wait` does."""

        def transaction() -> Result:
            with self.engine.connect() as connection:
                return work(connection)

        return self.wait(transaction)

    def wait(self, action: Callable[[], Result]) -> Result:
        """Call ``action``; repeat it while the database is unavailable: see :func:`wait_for`."""
        with self._reporter.watching() if self._reporter else nullcontext():
            return wait_for(action, self.address, self.patience_seconds)

    def _first_use_of_server(self, action: Callable[[], None]) -> None:
        try:
            action()
        except database_errors() as error:
            # The server was reached: another process makes the tables, or holds a lock.
            if not is_locked(error):
                raise
            self.wait(action)

    def at_close(self, action: Callable[[], None]) -> None:
        """Register ``action`` to be called by :meth:`close`, before the connections close."""
        self._before_closing.append(action)

    def close(self) -> None:
        """Close all connections. A later call opens new ones."""
        for action in self._before_closing:
            action()
        self.engine.dispose()


def no_fence(connection: Connection) -> None:
    """Allow the write: no lease is needed."""


def make_engine(address: Address, *, create: bool, fence: Fence) -> Engine:
    """Return the engine for our tables; writes go through :func:`writer` of it."""
    engine = create_engine(address.bare_url, **engine_options(address, create=create))
    set_beginning(engine, fence)
    return engine


def writer(engine: Engine, *, fenced: bool = True) -> Engine:
    """Return ``engine`` for writing transactions; it shares the connections."""
    return engine.execution_options(**{_WRITES: True, _UNFENCED: not fenced})


def engine_options(
    address: Address, *, create: bool = False, writes: bool = True
) -> dict[str, object]:
    """Return the arguments of ``create_engine``, the same for our engine and Optuna's."""
    return {
        "creator": address.connector(create=create, writes=writes),
        "poolclass": QueuePool,
        # Replaces a connection that broke when PostgreSQL restarted.
        "pool_pre_ping": address.path is None,
    }


def set_beginning(engine: Engine, fence: Fence, *, always_writes: bool = False) -> None:
    """Begin SQLite transactions with the right lock, and call ``fence`` in writing ones.

    Args:
        engine: ours or Optuna's.
        fence: called inside the transaction, so that its result is valid until the commit.
        always_writes: whether every transaction takes the write lock at once. Optuna's
            transactions read first and do not say whether they will write.
    """

    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        writes = always_writes or options.get(_WRITES, False)
        if connection.dialect.name == "sqlite":
            # A transaction that reads and then writes fails, whatever the timeout, if another
            # one wrote in between. With the lock from the start it waits instead.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        if writes and not options.get(_UNFENCED, False):
            fence(connection)

    event.listen(engine, "begin", begin)
    if always_writes:
        event.listen(engine, "commit", lambda connection: failpoint.reach("inside-commit"))


# --- Waiting for a database that is locked, restarting or unreachable -----------------------------


def wait_for(action: Callable[[], Result], address: Address, seconds: float) -> Result:
    """Call ``action``; repeat it while the database is unavailable.

    ``action`` must be safe to repeat: a commit may have succeeded although its reply was lost.

    Args:
        action: one or more complete transactions.
        address: names the store in the error message.
        seconds: longest time to wait after the first failure.

    Raises:
        HpsearchError: the error is permanent, or lasted longer than ``seconds``.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except database_errors() as error:
            reason = address.one_line(driver_error(error) or error)
            if not is_transient(error):
                advice = ""
                if is_full(error):
                    advice = "; free some space, then run the same command again to continue"
                raise HpsearchError(
                    f"the store {address.label} failed: {reason}{advice}"
                ) from error
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise HpsearchError(
                    f"the store {address.label} could not be used for {seconds:.0f} s: {reason}; "
                    "run the same command again to continue"
                ) from error
            # Random, so that several processes do not retry at the same moment.
            time.sleep(min(pause, deadline - now) * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


@final
class _WaitReporter:
    """Reports a call that waits for long, and the end of the wait.

    One thread watches all calls. A thread for each call would cost as much as the call.
    """

    def __init__(self, say: Callable[[str], None], address: Address, patience: float) -> None:
        self._say = say
        self._waiting = (
            f"waiting for the store {address.label}, which is locked or does not answer; "
            f"this lasts {patience:.0f} s at most"
        )
        self._watched = threading.Lock()
        self._state = threading.Lock()
        self._began: float | None = None
        self._said = False
        self._thread = threading.Thread(target=self._watch, daemon=True, name="store waits")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch a call. Calls may be nested or come from two threads: one of them is watched."""
        if not self._watched.acquire(blocking=False):
            yield
            return
        if not self._thread.is_alive():
            self._thread.start()
        began = self._began = time.monotonic()
        said = False
        try:
            yield
        finally:
            with self._state:
                said, self._said, self._began = self._said, False, None
            self._watched.release()
        if said:
            self._say(f"the store answers again, after {time.monotonic() - began:.0f} s")

    def _watch(self) -> None:
        while True:
            time.sleep(SILENT_SECONDS / 10)
            with self._state:
                began = self._began
                if began is None or self._said or time.monotonic() - began < SILENT_SECONDS:
                    continue
                self._said = True
                self._say(self._waiting)


def database_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the errors of SQLAlchemy and Optuna, and ``others``."""
    # Imported when something fails, because most commands need no Optuna and it takes long to load.
    from optuna.exceptions import StorageInternalError

    return SQLAlchemyError, StorageInternalError, *others


def driver_error(error: BaseException) -> DBAPIError | None:
    """Return the database driver's error in ``error`` or its causes; Optuna wraps it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DBAPIError):
            return seen
        seen = seen.__cause__
    return None


def is_full(error: BaseException) -> bool:
    """Whether the database's disk is full."""
    found = driver_error(error)
    if found is None or found.orig is None:
        return False
    code = getattr(found.orig, "sqlite_errorcode", None)
    # On a full disk SQLite may also fail to enlarge the index of its log.
    full = (_SQLITE_FULL, _SQLITE_IOERR_SHMSIZE)
    return code in full or getattr(found.orig, "sqlstate", None) == _POSTGRESQL_FULL


def is_locked(error: BaseException) -> bool:
    """Whether PostgreSQL gave up waiting for a lock that another session has."""
    found = driver_error(error)
    return getattr(getattr(found, "orig", None), "sqlstate", None) == _POSTGRESQL_LOCKED


def is_transient(error: BaseException) -> bool:
    """Whether the same call can succeed later."""
    found = driver_error(error)
    if found is None or found.orig is None:
        return False
    if found.connection_invalidated:
        return True
    code = getattr(found.orig, "sqlite_errorcode", None)
    if code is not None:
        # The low byte is the primary code: BUSY_SNAPSHOT, for example, is BUSY.
        return code & 0xFF in (_SQLITE_BUSY, _SQLITE_LOCKED)
    name = type(found.orig).__module__
    if not name.startswith("psycopg"):
        return False
    state = getattr(found.orig, "sqlstate", None)
    if state is None:
        # Without a state, the server did not answer.
        return type(found.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    return any(state.startswith(prefix) for prefix in _POSTGRESQL_TRANSIENT)


def refusal(address: Address, error: BaseException) -> InputError:
    """Return the error for a store that cannot be opened."""
    found = driver_error(error) or error
    code = getattr(getattr(found, "orig", None), "sqlite_errorcode", 0)
    if code & 0xFF == _SQLITE_NOT_A_DATABASE:
        return InputError(f"{address.label} is not a study store: it is not a SQLite database")
    reason = address.one_line(found)
    if address.path is not None:
        return InputError(f"the store {address.label} cannot be opened: {reason}")
    return InputError(
        f"the store {address.label} cannot be reached: {reason}; start its server or correct the "
        "URL (--storage or HPSEARCH_STORAGE)"
    )
