"""Optuna's storage in the same database."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import final

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from hpsearch.store.address import Address
from hpsearch.store.engine import (
    Database,
    Fence,
    engine_options,
    is_transient,
    no_fence,
    set_beginning,
)
from hpsearch.store.optuna_rows import frozen_trials
from hpsearch.system.errors import InputError

_TRIES = 10


def make_optuna_tables(address: Address) -> None:
    """Create those of Optuna's tables that are missing."""
    for attempt in range(1, _TRIES + 1):
        try:
            optuna_storage(address, locks=True, create=True).engine.dispose()
            return
        except (IntegrityError, OperationalError, ProgrammingError, StorageInternalError) as error:
            # Optuna creates its tables and their version in separate transactions, so two first
            # launches disturb each other. The next attempt sees all tables.
            if attempt == _TRIES or is_transient(error):
                raise


def optuna_storage(
    address: Address,
    *,
    fence: Fence = no_fence,
    locks: bool = False,
    writes: bool = True,
    create: bool = False,
) -> RDBStorage:
    """Return Optuna's storage in this database.

    Args:
        address: of the store.
        fence: called in every transaction, if ``locks`` is set.
        locks: whether SQLite transactions take the write lock when they begin.
        writes: whether the storage may write.
        create: whether missing tables are created.

    Raises:
        InputError: Optuna's tables belong to another version of Optuna.
    """
    try:
        storage = BulkReadingStorage(
            address.bare_url,
            engine_kwargs=engine_options(address, writes=writes),
            skip_table_creation=not create,
        )
    except RuntimeError as error:
        raise InputError(f"the store {address.label}: {address.one_line(error)}") from None
    set_beginning(storage.engine, fence, always_writes=locks)
    return storage


def open_optuna_storage(
    database: Database, *, fence: Fence = no_fence, locks: bool = False, writes: bool = True
) -> RDBStorage:
    """Wait for the database and open :func:`optuna_storage`; ``database.close`` closes it."""
    storage = database.wait(
        lambda: optuna_storage(database.address, fence=fence, locks=locks, writes=writes)
    )

    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    database.at_close(close)
    return storage


@contextmanager
def in_one_transaction(storage: RDBStorage) -> Iterator[None]:
    """Put everything that this thread writes through ``storage`` in the block into one transaction.

    Optuna commits every call separately. A trial's parameters would take sixteen transactions, each
    with a disk sync, and a crash between two of them would store only some parameters. In the
    block, Optuna's sessions join one transaction and commit savepoints.

    A rollback does not reset Optuna's objects (a ``Trial``, the cache of a study). Blocks must not
    be nested.

    Raises:
        SQLAlchemyError: the transaction could not begin or commit. Nothing was written, or
            everything if only the reply to the commit was lost.
    """
    sessions = storage.scoped_session
    sessions.remove()
    try:
        with storage.engine.begin() as connection:
            sessions(bind=connection, join_transaction_mode="create_savepoint")
            yield
    finally:
        sessions.remove()


@final
class BulkReadingStorage(RDBStorage):
    """Optuna's storage, except that it reads many trials in one query per table.

    Optuna makes an object of every row that belongs to a trial, and reads each distribution anew:
    20 s for 10,000 trials of ten epochs. The sampler of a launch and Optuna's dashboard read all.
    """

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return the study's trials in these states, by id: later ones, and those included.

        Raises:
            KeyError: there is no such study.
        """
        names = None if states is None else [s.name for s in TrialState if s in states]
        later = trial_id_greater_than if trial_id_greater_than > -1 else None
        # Optuna's session, so that a transaction that this thread has begun is used.
        with _create_scoped_session(self.scoped_session) as session:
            return frozen_trials(
                session.connection(), study_id, names, included_trial_ids, later_than=later
            )
