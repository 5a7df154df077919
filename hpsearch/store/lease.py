"""The lease on an experiment: one driver at a time, fenced by a token that every write verifies.

A driver takes the lease, renews it from a thread of its own and gives it back at the end. It lapses
when it was not renewed for its length; then, or at once where the holder's process is known to be
gone, another driver may take it. Time alone cannot keep the first one out: it may only have slept.
So each transaction that writes first reads the token, on PostgreSQL with a lock that a taking waits
for, on SQLite under the only write lock; a driver whose token is not there any more writes nothing.
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

from hpsearch.errors import HpsearchError, InputError
from hpsearch.store.rows import upsert
from hpsearch.store.tables import leases
from hpsearch.system import incarnation

Result = TypeVar("Result")

SECONDS = 60.0
"""Length of a lease: so long a driver of another machine may be silent before it is replaced."""

VARIABLE = "HPSEARCH_LEASE_SECONDS"

RENEWALS = 6
"""So many renewals in the length of a lease."""


class LeaseHeld(HpsearchError):
    """Another driver holds the lease."""


class LeaseLost(HpsearchError):
    """Another driver has taken the lease; nothing was written."""


@dataclass(frozen=True)
class Holder:
    """Who drives an experiment.

    Attributes:
        host: name of the machine.
        process: number of the process there.
        since: when it took the lease.
        silent_seconds: since the lease was renewed.
        lapsed: whether it was not renewed for its length.
        gone: whether the process is known to have ended.
        here: whether the process is on this machine and has not ended; it may be stopped.
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
        """Whether it counts as alive."""
        return not (self.lapsed or self.gone)

    def __str__(self) -> str:
        since = self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return f"process {self.process} on {self.host} since {since}"


def lease_seconds() -> float:
    """Length of the leases that this process takes.

    Raises:
        InputError: ``HPSEARCH_LEASE_SECONDS`` is no number of at least one second.
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
        holder: who has it.
        renewal: changes with every renewal and every taking.
        seconds: the length of the holder's lease.
    """

    holder: Holder
    renewal: tuple[str, float]
    seconds: float


@dataclass
class _Watch:
    """How long a contender has seen no renewal, by its own clock.

    Attributes:
        pause: seconds between two looks.
        renewal: seen last.
        since: when it was seen first.
        looked: when the contender looked last.
        renewed: whether a renewal came while it watched.
    """

    pause: float
    renewal: tuple[str, float] | None = None
    since: float = 0.0
    looked: float = 0.0
    renewed: bool = False

    def look(self, refusal: _Refusal) -> None:
        """Note a refusal."""
        now = time.monotonic()
        if refusal.renewal != self.renewal:
            self.renewed = self.renewal is not None
            self.renewal, self.since = refusal.renewal, now
        elif now - self.looked > self.pause + refusal.seconds / RENEWALS:
            # The database was away, for the holder as well.
            self.since = now
        self.looked = now

    def settled(self, seconds: float) -> tuple[str, float] | None:
        """The renewal seen last, once a living holder would have made the next one."""
        watched = time.monotonic() - self.since
        return self.renewal if watched > 1.5 * seconds / RENEWALS else None


@final
class Lease:
    """The lease of one driver; at most one at a time.

    Args:
        engine: of transactions that write and are exempt from :meth:`verify`.
        patiently: repeats an action while the database is away.
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

        A lease whose process is gone is taken over at once, one that has lapsed after a look at
        whether it is renewed after all: the database may have been away, and not its holder. One
        of another machine is waited for until it lapses or is renewed.

        Args:
            experiment_id: the experiment.
            what: names it in messages, ``the study 'quick'``.
            wait: whether to wait for a holder that is alive until it ends.
            say: told once who holds the lease while this call waits.

        Raises:
            LeaseHeld: another driver is alive, and ``wait`` is not set.
        """
        self.give_back()
        seconds, token, told = lease_seconds(), uuid.uuid4().hex, False
        watch = _Watch(pause=min(1.0, seconds / 20))
        settled: tuple[str, float] | None = None
        while True:
            contend = partial(
                _take, experiment_id=experiment_id, token=token, seconds=seconds, settled=settled
            )
            refusal = self._patiently(partial(self._transact, contend))
            if refusal is None:
                break
            watch.look(refusal)
            settled = watch.settled(refusal.seconds)
            holder = refusal.holder
            if not wait and not holder.lapsed and (holder.here or watch.renewed):
                raise LeaseHeld(
                    f"{what} is driven by {holder}; leave it to that, wait for its end with "
                    "--if-held wait, or end it first"
                )
            if not told:
                until = "ends or lapses" if wait else "proves to be alive or lapses"
                left = max(refusal.seconds - holder.silent_seconds, 0) + refusal.seconds / 4
                say(f"{what} is held by {holder}; waiting until that {until} ({left:.0f} s)")
                told = True
            time.sleep(watch.pause)
        self._experiment_id, self._what, self._token = experiment_id, what, token
        self._stop = threading.Event()
        self._renewal = threading.Thread(
            target=self._renew, args=(self._stop, seconds / RENEWALS), daemon=True, name="lease"
        )
        self._renewal.start()

    def verify(self, connection: Connection) -> None:
        """Called first in every transaction that writes.

        Raises:
            LeaseLost: the lease that this driver had is another's.
        """
        if self._experiment_id is None:
            return
        c = leases.c
        query = select(c.token).where(c.experiment_id == self._experiment_id)
        # Shared with our other transactions, against the one that would take the lease over.
        token = connection.execute(query.with_for_update(read=True)).scalar_one_or_none()
        if token != self._token:
            holder = find_holder(connection, self._experiment_id)
            now = f"now driven by {holder}" if holder else "not driven by anybody any more"
            raise LeaseLost(
                f"{self._what} is {now}: it was taken over while this process was silent; this one "
                "has written nothing since, and ends"
            )

    def give_back(self) -> None:
        """Stop driving; nothing where the lease is lost or was never taken.

        A database that is away keeps the row: it lapses.
        """
        if self._experiment_id is None:
            return
        self._stop.set()
        if self._renewal is not None:
            # Not for ever: it may hang in a call to a server that has vanished.
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
            # A database that stays away is for the driver's own calls to report, and a lease that
            # is lost is found out by the next write.
            with suppress(SQLAlchemyError):
                self._transact(renew)

    def _mine(self) -> ColumnElement[bool]:
        return (leases.c.experiment_id == self._experiment_id) & (leases.c.token == self._token)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.begin() as connection:
            return work(connection)


def find_holder(connection: Connection, experiment_id: int) -> Holder | None:
    """Who drives the experiment, dead or alive; ``None`` for nobody."""
    if not inspect(connection).has_table(leases.name):
        return None  # a store of an older schema, which its readers leave as it is
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
    settled: tuple[str, float] | None,
) -> _Refusal | None:
    """Take the lease, or say who has it; ``settled`` is a renewal that no other will follow."""
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
        # Of two that find none, the second waits here for the first, and then finds its row.
        upsert(connection, leases, [mine], key=("experiment_id",), replace=("experiment_id",))
        row = connection.execute(query).one()
    if row.token == token:
        return None
    holder, renewal = _holder(row, now), (row.token, row.renewed_at)
    own = all(getattr(row, name) == mine[name] for name in ("host", "process", "incarnation"))
    if own or holder.gone or (holder.lapsed and renewal == settled):
        connection.execute(update(leases).where(this).values(mine))
        return None
    return _Refusal(holder, renewal, row.seconds)


def _holder(row: Row[Any], now: float) -> Holder:
    # Of either sign: where a clock was set back, a lease that nobody renews lies in the future.
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
    """Seconds, by one clock for all drivers: a server's own, or that of SQLite's machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    query = select(func.extract("epoch", func.clock_timestamp()))
    return float(connection.execute(query).scalar_one())
