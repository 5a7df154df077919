"""Optuna's storage in the same database, and direct queries of its tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, String, cast, column, delete, func, select, table
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from hpsearch.errors import InputError
from hpsearch.store.address import Address
from hpsearch.store.engine import (
    Database,
    Fence,
    engine_options,
    is_transient,
    no_fence,
    set_beginning,
)
from hpsearch.store.records import LedgerTrial, TrialState

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
        storage = RDBStorage(
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


# --- Rows -----------------------------------------------------------------------------------------

_studies = table("studies", column("study_id"), column("study_name"))
_trials = table("trials", column("trial_id"), column("number"), column("study_id"), column("state"))
_values = table("trial_values", column("trial_id"), column("objective"), column("value"))
_reported = table(
    "trial_intermediate_values",
    column("trial_id"),
    column("step"),
    column("intermediate_value"),
)
_attributes = table(
    "trial_user_attributes", column("trial_id"), column("key"), column("value_json")
)


def study_id_of(connection: Connection, study: str) -> int | None:
    """Return Optuna's key of the study; ``None`` if Optuna has no study of that name."""
    query = select(_studies.c.study_id).where(_studies.c.study_name == study)
    return connection.execute(query).scalar_one_or_none()


def trial_states(connection: Connection, study: str) -> list[TrialState] | None:
    """Return the study's rows by number; ``None`` if Optuna has no study of that name."""
    trials, study_id = _trials.c, study_id_of(connection, study)
    if study_id is None:
        return None
    query = (
        select(trials.number, trials.trial_id, trials.state)
        .where(trials.study_id == study_id)
        .order_by(trials.number, trials.trial_id)
    )
    return [TrialState(*row) for row in connection.execute(query)]


def count_trials(connection: Connection) -> list[tuple[str, int]]:
    """Return the number of Optuna's rows in each state, over all studies."""
    state = _trials.c.state
    query = select(state, func.count()).group_by(state).order_by(state)
    return [(name, count) for name, count in connection.execute(query)]


def count_refused(connection: Connection, study: str) -> int:
    """Return the number of the study's trials that exceeded its budget."""
    studies, trials, attributes = _studies.c, _trials.c, _attributes.c
    query = (
        select(func.count())
        .select_from(_attributes)
        .join(_trials, trials.trial_id == attributes.trial_id)
        .join(_studies, studies.study_id == trials.study_id)
        .where(studies.study_name == study)
        .where(attributes.key == "failure", attributes.value_json == json.dumps("refused"))
    )
    return int(connection.execute(query).scalar_one())


def best_trials(connection: Connection, study: str, count: int) -> set[int]:
    """Return the numbers of the ``count`` complete trials with the lowest values."""
    studies, trials, values = _studies.c, _trials.c, _values.c
    # On PostgreSQL the column has an enum type, which cannot be compared with a text.
    complete = cast(trials.state, String) == "COMPLETE"
    query = (
        select(trials.number)
        .join(_studies, studies.study_id == trials.study_id)
        .join(_values, values.trial_id == trials.trial_id)
        .where(studies.study_name == study, complete, values.value.is_not(None))
        .order_by(values.value, trials.number)
        .limit(count)
    )
    return set(connection.execute(query).scalars())


def forget_values(connection: Connection, trial_id: int, after: int) -> None:
    """Delete a trial's intermediate values after a step; Optuna has no function for it."""
    c = _reported.c
    these = (c.trial_id == trial_id) & (c.step > after)
    connection.execute(delete(_reported).where(these))


def read_trials(connection: Connection, study_id: int) -> tuple[LedgerTrial, ...]:
    """Return a study's trials by number."""
    t = _trials.c
    rows = connection.execute(
        select(t.trial_id, t.number, t.state)
        .where(t.study_id == study_id)
        .order_by(t.number, t.trial_id)
    ).all()
    these = t.study_id == study_id
    v = _values.c
    values = {
        row.trial_id: row.value
        for row in connection.execute(
            select(v.trial_id, v.value)
            .join_from(_values, _trials, v.trial_id == t.trial_id)
            .where(these, v.objective == 0)
        )
    }
    r = _reported.c
    reported: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, step, value in connection.execute(
        select(r.trial_id, r.step, r.intermediate_value)
        .join_from(_reported, _trials, r.trial_id == t.trial_id)
        .where(these, r.intermediate_value.is_not(None))
    ):
        reported[trial_id][step] = value
    a = _attributes.c
    reasons = {
        trial_id: json.loads(text)
        for trial_id, text in connection.execute(
            select(a.trial_id, a.value_json)
            .join_from(_attributes, _trials, a.trial_id == t.trial_id)
            .where(these, a.key == "failure_reason")
        )
    }
    return tuple(
        LedgerTrial(
            row.number,
            row.state,
            values.get(row.trial_id),
            reported.get(row.trial_id, {}),
            reasons.get(row.trial_id),
        )
        for row in rows
    )
