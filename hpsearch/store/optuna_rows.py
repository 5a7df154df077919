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
    """Make Optuna's tables where they are missing."""
    for attempt in range(1, _TRIES + 1):
        try:
            optuna_storage(address, locks=True, create=True).engine.dispose()
            return
        except (IntegrityError, OperationalError, ProgrammingError, StorageInternalError) as error:
            # Optuna looks for its tables, makes them and stamps their version in separate
            # transactions, so two first launches trip each other up; the next look finds all there.
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
    """Optuna's storage in this database.

    Args:
        address: of the store.
        fence: called in every transaction of a storage that locks.
        locks: whether SQLite's transactions take the write lock when they begin.
        writes: whether the database accepts what the storage writes.
        create: whether missing tables are made.

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


def kept_storage(
    database: Database, *, fence: Fence = no_fence, locks: bool = False, writes: bool = True
) -> RDBStorage:
    """Open :func:`optuna_storage`, waiting for the database; it is closed with ``database``."""
    storage = database.wait(
        lambda: optuna_storage(database.address, fence=fence, locks=locks, writes=writes)
    )

    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    database.at_close(close)
    return storage


@contextmanager
def joined(storage: RDBStorage) -> Iterator[None]:
    """Make one transaction of all that this thread writes through ``storage`` in the block.

    Optuna commits every call in a session of its own: a trial's parameters would be sixteen
    transactions, each with its wait for the disk, and a death between two would leave half of
    them. Inside, those sessions join one transaction and commit savepoints of it. Optuna's own
    memory (a ``Trial``, the cache of a study) is not rolled back with it. Not to be nested.

    Raises:
        SQLAlchemyError: the transaction could not begin or commit; nothing has been written, or
            for a commit whose answer was lost, all of it.
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
    """Optuna's key of the study; ``None`` if it has none of that name."""
    query = select(_studies.c.study_id).where(_studies.c.study_name == study)
    return connection.execute(query).scalar_one_or_none()


def trial_states(connection: Connection, study: str) -> list[TrialState] | None:
    """Rows of the study, by number; ``None`` if Optuna has no study of that name."""
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
    """How many of Optuna's rows are in each state, over all studies."""
    state = _trials.c.state
    query = select(state, func.count()).group_by(state).order_by(state)
    return [(name, count) for name, count in connection.execute(query)]


def count_refused(connection: Connection, study: str) -> int:
    """Rows of the study that were drawn beyond its budget."""
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
    """Numbers of the complete trials of the study with the ``count`` lowest values."""
    studies, trials, values = _studies.c, _trials.c, _values.c
    # PostgreSQL has a type of its own for states, which no text equals.
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
    """Remove a trial's intermediate values beyond a step, which Optuna has no call for."""
    c = _reported.c
    these = (c.trial_id == trial_id) & (c.step > after)
    connection.execute(delete(_reported).where(these))


def read_trials(connection: Connection, study_id: int) -> tuple[LedgerTrial, ...]:
    """A study's trials by number, with what the ledger holds of them."""
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
