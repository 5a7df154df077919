"""Several calls of Optuna's storage as one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.storages import RDBStorage


@contextmanager
def joined(storage: RDBStorage) -> Iterator[None]:
    """Have all that this thread has ``storage`` write inside stand or fall together.

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
