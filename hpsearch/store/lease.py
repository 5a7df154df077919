"""The lease on an experiment: it allows one driver at a time, and every write verifies its token.

A driver takes the lease, renews it in a background thread, and gives it back at the end. The lease
lapses when it is not renewed for its length. Another driver may take a lapsed lease, or at once the
lease of a process that has ended.

Time alone is not enough: the first driver may only have been suspended and may continue to write.
So every writing transaction first reads the token, and writes nothing if the token has changed. On
PostgreSQL the read takes a lock that a taker waits for; SQLite has only one write lock.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    delete,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.store.rows import upsert
from hpsearch.store.tables import leases
from hpsearch.system import incarnation
from hpsearch.system.errors import HpsearchError, InputError

Result = TypeVar("Result")

SECONDS = 60.0
"""Length of a lease: how long a driver on another machine may be silent before it is replaced."""

VARIABLE = "HPSEARCH_LEASE_SECONDS"

RENEWALS = 6
"""Number of renewals in the length of a lease."""


class LeaseHeld(HpsearchError):
    """Another driver holds the lease."""


class LeaseLost(HpsearchError):
    """Another driver has taken the lease; nothing was written."""


@dataclass(frozen=True)
class Holder:
    """The driver that holds a lease.

    Attributes:
        host: name of its machine.
        process: its process id.
        since: when it took the lease.
        silent_seconds: seconds since it last renewed the lease.
        lapsed: whether it was silent for longer than the lease's length.
        gone: whether the process is known to have ended.
        here: whether the process is on this machine and has not ended; it may be suspended.
    """

    host: str
    process: int
    since: datetime
    silent_seconds: float
    lapsed: bool
    gone: bool
    here: bool

    @property
    def drives(self) -> bool:
        """Whether the driver counts as alive."""
        return not (self.lapsed or self.gone)

    def __str__(self) -> str:
        since = self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return f"process {self.process} on {self.host} since {since}"


def lease_seconds() -> float:
    """Return the length of the leases that this process takes.

    Raises:
        InputError: ``HPSEARCH_LEASE_SECONDS`` is not a number, or below 1.
    """
    text = os.environ.get(VARIABLE) or str(SECONDS)
    with suppress(ValueError):
        if float("inf") > float(text) >= 1:
            return float(text)
    raise InputError(f"{VARIABLE} must be a number of seconds, at least 1; got '{text}'")


@dataclass(frozen=True)
class _Refusal:
    """Why the lease cannot be taken now.

    Attributes:
        holder: the driver that has it.
        renewal: the token and the time of the last renewal; a new holder changes both.
        seconds: the length of the holder's lease.
    """

    holder: Holder
    renewal: tuple[str, float]
    seconds: float


@dataclass
class _Watch:
    """How long a waiting driver has seen no renewal, by its own clock.

    Attributes:
        pause: seconds between two looks.
        renewal: the renewal seen last.
        since: when that renewal was first seen.
        looked: time of the last look.
        renewed: whether the holder renewed the lease during the watch.
    """

    pause: float
    renewal: tuple[str, float] | None = None
    since: float = 0.0
    looked: float = 0.0
    renewed: bool = False

    def look(self, refusal: _Refusal) -> None:
        """Record a refusal."""
        now = time.monotonic()
        if refusal.renewal != self.renewal:
            self.renewed = self.renewal is not None
            self.renewal, self.since = refusal.renewal, now
        elif now - self.looked > self.pause + refusal.seconds / RENEWALS:
            # The database was unavailable, and the holder could not renew either.
            self.since = now
        self.looked = now

    def stale_renewal(self, seconds: float) -> tuple[str, float] | None:
        """Return the last renewal if the next one is overdue, otherwise ``None``."""
        watched = time.monotonic() - self.since
        return self.renewal if watched > 1.5 * seconds / RENEWALS else None


@final
class Lease:
    """The lease of this driver, which holds at most one at a time.

    Args:
        engine: for writing transactions that skip :meth:`verify`.
        patiently: calls an action, and repeats it while the database is unavailable.
    """

    def __init__(self, engine: Engine, patiently: Callable[[Callable[[], Any]], Any]) -> None:
        self._engine = engine
        self._patiently = patiently
        self._experiment_id: int | None = None
        self._what = ""
        self._token = ""
        self._stop = threading.Event()
        self._renewal: threading.Thread | None = None

    def take(
        self, experiment_id: int, what: str, *, wait: bool, say: Callable[[str], None]
    ) -> None:
        """Become the driver of an experiment.

        The lease of a process that has ended is taken over at once. A lapsed lease is first watched
        for a renewal: perhaps only the database was unavailable. For a holder on another machine
        the call waits until its lease lapses or is renewed.

        Args:
            experiment_id: the experiment.
            what: its name in messages, such as ``the study 'quick'``.
            wait: whether to wait for the end of a driver that is alive.
            say: called once with the name of the holder, if this call has to wait.

        Raises:
            LeaseHeld: another driver is alive, and ``wait`` is not set.
        """
        self.give_back()
        seconds, token, said = lease_seconds(), uuid.uuid4().hex, False
        watch = _Watch(pause=min(1.0, seconds / 20))
        stale: tuple[str, float] | None = None
        while True:
            contend = partial(
                _take, experiment_id=experiment_id, token=token, seconds=seconds, stale=stale
            )
            refusal = self._patiently(partial(self._transact, contend))
            if refusal is None:
                break
            watch.look(refusal)
            stale = watch.stale_renewal(refusal.seconds)
            holder = refusal.holder
            # A renewal proves more than the clocks, which may disagree.
            if not wait and (watch.renewed or (holder.here and not holder.lapsed)):
                raise LeaseHeld(
                    f"{what} is driven by {holder}; let it continue, wait for its end with "
                    "--if-held wait, or stop it first"
                )
            if not said:
                left = max(refusal.seconds - holder.silent_seconds, 0) + refusal.seconds / 4
                until = f"at most {left:.0f} s to see whether it responds"
                if wait:
                    until = f"for its end, or {left:.0f} s if it does not respond"
                say(f"{what} is driven by {holder}; waiting {until}")
                said = True
            time.sleep(watch.pause)
        self._experiment_id, self._what, self._token = experiment_id, what, token
        self._stop = threading.Event()
        self._renewal = threading.Thread(
            target=self._renew, args=(self._stop, seconds / RENEWALS), daemon=True, name="lease"
        )
        self._renewal.start()

    def verify(self, connection: Connection) -> None:
        """Check that this driver still has the lease; called first in every writing transaction.

        Raises:
            LeaseLost: another driver has taken the lease.
        """
        if self._experiment_id is None:
            return
        c = leases.c
        query = select(c.token).where(c.experiment_id == self._experiment_id)
        # A shared lock: it blocks a driver that would take the lease, not our own transactions.
        token = connection.execute(query.with_for_update(read=True)).scalar_one_or_none()
        if token != self._token:
            holder = find_holder(connection, self._experiment_id)
            now = f"now driven by {holder}" if holder else "no longer driven by this process"
            raise LeaseLost(
                f"{self._what} is {now}: another launch took it over while this process did not "
                "respond; this process has written nothing since, and ends"
            )

    def give_back(self) -> None:
        """Stop driving; does nothing if the lease is lost or was never taken.

        If the database is unavailable, the row stays and lapses.
        """
        if self._experiment_id is None:
            return
        self._stop.set()
        if self._renewal is not None:
            # With a timeout: the thread may hang in a call to a lost server.
            self._renewal.join(timeout=30)
        mine = self._mine()
        self._experiment_id = None
        with suppress(SQLAlchemyError):
            self._transact(lambda connection: connection.execute(delete(leases).where(mine)))

    def _renew(self, stop: threading.Event, every: float) -> None:
        mine = self._mine()

        def renew(connection: Connection) -> object:
            now = _database_time(connection)
            return connection.execute(update(leases).where(mine).values(renewed_at=now))

        while not stop.wait(every):
            # The driver's own calls report an unavailable database, and its next write detects a
            # lost lease.
            with suppress(SQLAlchemyError):
                self._transact(renew)

    def _mine(self) -> ColumnElement[bool]:
        return (leases.c.experiment_id == self._experiment_id) & (leases.c.token == self._token)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.begin() as connection:
            return work(connection)


def find_holder(connection: Connection, experiment_id: int) -> Holder | None:
    """Return the driver of the experiment, alive or not; ``None`` if it has none."""
    if not inspect(connection).has_table(leases.name):
        return None  # the store has an older schema, which readers do not upgrade
    row = connection.execute(
        select(leases).where(leases.c.experiment_id == experiment_id)
    ).one_or_none()
    return None if row is None else _holder(row, _database_time(connection))


def _take(
    connection: Connection,
    *,
    experiment_id: int,
    token: str,
    seconds: float,
    stale: tuple[str, float] | None,
) -> _Refusal | None:
    """Take the lease, or return who has it; ``stale`` is a renewal whose successor is overdue."""
    now = _database_time(connection)
    mine = {
        "experiment_id": experiment_id,
        "token": token,
        "host": platform.node(),
        "process": os.getpid(),
        "incarnation": incarnation.mine(),
        "seconds": seconds,
        "taken_at": now,
        "renewed_at": now,
    }
    this = leases.c.experiment_id == experiment_id
    query = select(leases).where(this).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        # If two drivers see no row, the second one waits here and then sees the first one's row.
        upsert(connection, leases, [mine], key=("experiment_id",), replace=("experiment_id",))
        row = connection.execute(query).one()
    if row.token == token:
        return None
    holder, renewal = _holder(row, now), (row.token, row.renewed_at)
    # Without an incarnation another machine may have the same host name and process number.
    own = mine["incarnation"] != "" and all(
        getattr(row, name) == mine[name] for name in ("host", "process", "incarnation")
    )
    if own or holder.gone or (holder.lapsed and renewal == stale):
        connection.execute(update(leases).where(this).values(mine))
        return None
    return _Refusal(holder, renewal, row.seconds)


def _holder(row: Row[Any], now: float) -> Holder:
    # Absolute: if a clock was set back, the last renewal lies in the future.
    silent = abs(now - row.renewed_at)
    return Holder(
        host=row.host,
        process=row.process,
        since=datetime.fromtimestamp(row.taken_at, UTC),
        silent_seconds=silent,
        lapsed=silent > row.seconds,
        gone=incarnation.is_gone(row.process, row.incarnation),
        here=incarnation.is_here(row.process, row.incarnation),
    )


def _database_time(connection: Connection) -> float:
    """Return the time in seconds, by the clock all drivers share: the server's or the machine's."""
    if connection.dialect.name == "sqlite":
        return time.time()
    query = select(func.extract("epoch", func.clock_timestamp()))
    return float(connection.execute(query).scalar_one())
