"""Optuna's storage in the same database, and direct queries of its tables."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, String, TableClause, cast, column, delete, func, select, table
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


_parameters = table(
    "trial_params",
    column("trial_id"),
    column("param_name"),
    column("param_value"),
    column("distribution_json"),
)
_directions = table(
    "study_directions", column("study_id"), column("direction"), column("objective")
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


def read_directions(connection: Connection, study_id: int) -> tuple[str, ...]:
    """Return the direction of each objective of a study."""
    c = _directions.c
    # On PostgreSQL the column has an enum type.
    query = select(cast(c.direction, String)).where(c.study_id == study_id).order_by(c.objective)
    return tuple(connection.execute(query).scalars())


def read_trials(
    connection: Connection, study_id: int, number: int | None = None
) -> tuple[LedgerTrial, ...]:
    """Return a study's trials by number, or only the trial ``number``."""
    t = _trials.c
    these = t.study_id == study_id
    if number is not None:
        these &= t.number == number
    damage: defaultdict[int, list[str]] = defaultdict(list)

    def of_trials(table: TableClause, *columns: Any) -> Iterator[Any]:
        query = select(table.c.trial_id, *columns)
        joined = query.join_from(table, _trials, table.c.trial_id == t.trial_id).where(these)
        yield from connection.execute(joined)

    values: dict[int, float | None] = {}
    for trial_id, objective, value in of_trials(_values, _values.c.objective, _values.c.value):
        if objective == 0:
            values[trial_id] = number_or(value, damage[trial_id], "its value")
    reported: defaultdict[int, dict[int, float]] = defaultdict(dict)
    r = _reported.c
    for trial_id, step, value in of_trials(_reported, r.step, r.intermediate_value):
        what = f"its intermediate value {step}"
        if (finite := number_or(value, damage[trial_id], what)) is not None:
            reported[trial_id][step] = finite
    attributes: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    a = _attributes.c
    for trial_id, key, text in of_trials(_attributes, a.key, a.value_json):
        attributes[trial_id][key] = json_or(None, text, damage[trial_id], f"its attribute {key}")
    parameters: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    p = _parameters.c
    for trial_id, name, value, text in of_trials(
        _parameters, p.param_name, p.param_value, p.distribution_json
    ):
        try:
            parameters[trial_id][name] = _distribution(text).to_external_repr(value)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            damage[trial_id].append(f"has a parameter {name} that cannot be read")
    rows = connection.execute(
        select(t.trial_id, t.number, cast(t.state, String))
        .where(these)
        .order_by(t.number, t.trial_id)
    )
    return tuple(
        LedgerTrial(
            number,
            state,
            values.get(trial_id),
            reported.get(trial_id, {}),
            attributes.get(trial_id, {}),
            parameters.get(trial_id, {}),
            tuple(damage.get(trial_id, ())),
        )
        for trial_id, number, state in rows
    )


@functools.cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def json_or(default: Any, text: Any, damage: list[str], what: str) -> Any:
    """Return the JSON in ``text``; if it is none, note it in ``damage``, return ``default``."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        damage.append(f"{what} is not JSON")
        return default


def number_or(value: Any, damage: list[str], what: str) -> float | None:
    """Return ``value`` as a number; if it is none, note that in ``damage`` and return ``None``.

    SQLite stores any text in a column of numbers.
    """
    if value is None or isinstance(value, int | float):
        return value
    damage.append(f"{what} is no number")
    return None
