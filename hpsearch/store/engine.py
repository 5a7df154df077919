"""Database transactions: how they begin, and how long they wait for a locked database."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar, final

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpsearch.store.address import Address, obstacle
from hpsearch.system import failpoint
from hpsearch.system.errors import HpsearchError, InputError

Result = TypeVar("Result")

PATIENCE_SECONDS = 120.0
SILENT_SECONDS = 3.0
"""A longer wait is reported."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

_SQLITE_BUSY = 5
_SQLITE_LOCKED = 6
_SQLITE_OF_FILES = (3, 8, 10, 14)
"""No permission, a read-only database, a failed read or write, a file that cannot be opened."""

_SQLITE_FULL = 13
_SQLITE_NOT_A_DATABASE = 26
_SQLITE_IOERR_SHMSIZE = 10 | 19 << 8
_POSTGRESQL_FULL = "53100"
_POSTGRESQL_LACKS = ("42703", "42P01")  # a column, a table
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

_NO_FREE_CONNECTION = (
    "too many clients already",
    "remaining connection slots are reserved",
    "too many connections for ",
)
"""What a full PostgreSQL answers to a new connection. libpq passes on no code, only the text."""

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
        if self._reporter is None:
            return wait_for(action, self.address, self.patience_seconds)
        with self._reporter.watching() as failed:
            return wait_for(action, self.address, self.patience_seconds, failed)

    def _first_use_of_server(self, action: Callable[[], None]) -> None:
        try:
            action()
        except database_errors() as error:
            # The server was reached. Another process makes the tables or holds a lock, or the
            # server has no free connection.
            if not (is_locked(error) or has_no_connection(error)):
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
            with _asking_for_lock() if writes else nullcontext():
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        if writes and not options.get(_UNFENCED, False):
            fence(connection)

    event.listen(engine, "begin", begin)
    if always_writes:
        event.listen(engine, "commit", lambda connection: failpoint.reach("inside-commit"))


# --- Waiting for a database that is locked, restarting or unreachable -----------------------------


def wait_for(
    action: Callable[[], Result],
    address: Address,
    seconds: float,
    failed: Callable[[str], None] = lambda reason: None,
) -> Result:
    """Call ``action``; repeat it while the database is unavailable.

    ``action`` must be safe to repeat: a commit may have succeeded although its reply was lost.

    Args:
        action: one or more complete transactions.
        address: names the store in the error message.
        seconds: longest time to wait after the first failure.
        failed: called with the reason each time that ``action`` fails and will be repeated.

    Raises:
        HpsearchError: the error is permanent, or lasted longer than ``seconds``. It is an
            `InputError` if this user cannot use the file.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except database_errors() as error:
            reason = address.one_line(driver_error(error) or error)
            if not is_transient(error):
                raise _permanent(address, error, reason) from error
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise HpsearchError(
                    f"the store {address.label} could not be used for {seconds:.0f} s: {reason}; "
                    "run the same command again to continue"
                ) from error
            failed(reason)
            # Random, so that several processes do not retry at the same moment.
            time.sleep(min(pause, deadline - now) * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _permanent(address: Address, error: BaseException, reason: str) -> HpsearchError:
    """Return the error to raise for one that waiting does not end, with the way to mend it."""
    kind, advice = HpsearchError, ""
    if is_full(error):
        advice = "; free some space"
    elif _is_of_files(error) and address.path is not None:
        found = obstacle(address.path)
        if found is None:
            advice = "; check the disk that holds it"
        else:
            kind, advice = InputError, f"; {found}"
    elif _has_other_tables(error):
        advice = (
            "; its tables were changed, perhaps by a newer hpsearch that has upgraded them: use "
            "that version"
        )
    again = ", then run the same command again to continue" if advice else ""
    return kind(f"the store {address.label} failed: {reason}{advice}{again}")


_asked: dict[int, float] = {}
"""Since when a thread has asked for SQLite's write lock, by the thread's number."""


@contextmanager
def _asking_for_lock() -> Iterator[None]:
    """Note that this thread asks for the write lock: see :class:`_WaitReporter`."""
    thread = threading.get_ident()
    _asked[thread] = time.monotonic()
    try:
        yield
    finally:
        del _asked[thread]


@dataclass
class _WatchedCall:
    """A call of the store that is being watched.

    Attributes:
        thread: the number of the thread that calls.
        began: when it began (monotonic seconds).
        failure: why it failed last and is repeated; ``None`` if it has not failed.
        said: the lines about it.
    """

    thread: int
    began: float
    failure: str | None = None
    said: list[str] = field(default_factory=list)

    def failed(self, reason: str) -> None:
        """Note that the call failed and is repeated."""
        self.failure = reason

    def why(self) -> str | None:
        """Return why the call takes long, ``slow`` if it just does; ``None`` if not known yet."""
        now = time.monotonic()
        if now - self.began < SILENT_SECONDS:
            return None
        if self.failure is not None:
            return self.failure
        asked = _asked.get(self.thread)
        if asked is None:
            return _SLOW
        return "it is locked" if now - asked >= SILENT_SECONDS else None


_SLOW = "slow"


@final
class _WaitReporter:
    """Reports a call that takes long, and its end.

    One thread watches all calls. A thread for each call would cost as much as the call.
    """

    def __init__(self, say: Callable[[str], None], address: Address, patience: float) -> None:
        self._say = say
        self._label = address.label
        self._patience = patience
        self._watched = threading.Lock()
        self._state = threading.Lock()
        self._call: _WatchedCall | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True, name="store waits")

    @contextmanager
    def watching(self) -> Iterator[Callable[[str], None]]:
        """Watch a call. Calls may be nested or come from two threads: one of them is watched.

        Yields:
            A function to call with the reason when the call fails and is repeated.
        """
        if not self._watched.acquire(blocking=False):
            yield lambda reason: None
            return
        if not self._thread.is_alive():
            self._thread.start()
        call = self._call = _WatchedCall(threading.get_ident(), time.monotonic())
        try:
            yield call.failed
        finally:
            with self._state:
                self._call = None
            self._watched.release()
        if call.said:
            self._say(f"the store answers again, after {time.monotonic() - call.began:.0f} s")

    def _watch(self) -> None:
        while True:
            time.sleep(SILENT_SECONDS / 10)
            with self._state:
                if self._call is not None and (why := self._call.why()) is not None:
                    self._say_once(self._call, why)

    def _say_once(self, call: _WatchedCall, why: str) -> None:
        """Say that the call is slow, or that it waits; each of them once, a wait last."""
        line = f"the store {self._label} takes long to answer"
        if why != _SLOW:
            line = f"waiting for the store {self._label} for {self._patience:.0f} s at most: {why}"
        waits = any(earlier.startswith("waiting") for earlier in call.said)
        if waits or line in call.said:
            return
        call.said.append(line)
        self._say(line)


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


def has_no_connection(error: BaseException) -> bool:
    """Whether PostgreSQL answers, but has no free connection."""
    found = driver_error(error)
    return found is not None and any(words in str(found.orig) for words in _NO_FREE_CONNECTION)


def _has_other_tables(error: BaseException) -> bool:
    """Whether the database lacks a table or a column that this code uses."""
    found = getattr(driver_error(error), "orig", None)
    lacks = ("no such table", "no such column", "has no column named")  # SQLite has no code for it
    return getattr(found, "sqlstate", None) in _POSTGRESQL_LACKS or (
        hasattr(found, "sqlite_errorcode") and any(words in str(found) for words in lacks)
    )


def _is_of_files(error: BaseException) -> bool:
    """Whether SQLite could not open, read or write a file."""
    code = getattr(getattr(driver_error(error), "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF in _SQLITE_OF_FILES


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
    if has_no_connection(error):
        return InputError(
            f"the store {address.label} had no free connection for a long time: {reason}; end some "
            "of its sessions or raise its max_connections, then run the same command again"
        )
    return InputError(
        f"the store {address.label} cannot be reached: {reason}; start its server or correct the "
        "URL (--storage or HPSEARCH_STORAGE)"
    )
