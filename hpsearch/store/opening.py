"""Making and opening a store, and what is said when that fails."""

from __future__ import annotations

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from hpsearch.errors import InputError
from hpsearch.store import schema
from hpsearch.store.address import Address
from hpsearch.store.engine import Fence, engine_options, set_beginning
from hpsearch.store.patience import driver_error, is_transient
from hpsearch.system.file_system import network_type

_TRIES = 10
_SQLITE_NOT_A_DATABASE = 26


def make_folder(address: Address) -> None:
    """Make the folder of a SQLite file.

    Raises:
        InputError: it cannot be made, or lies on a network file system: there SQLite's write-ahead
            log, which is memory that processes share, loses or damages what is written.
    """
    if address.path is None:
        return
    if kind := network_type(address.path):
        raise InputError(
            f"the store {address.label} lies on a network folder ({kind}), where SQLite is not "
            "safe; name a local folder with --storage sqlite:////FOLDER/hpsearch.db, or a server: "
            "postgresql://user@host/database"
        )
    try:
        address.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder of the store {address.label} cannot be made: {error.strerror}"
        ) from None


def require_file(address: Address) -> None:
    """Raise unless the SQLite file exists: connecting would make an empty one."""
    if address.path is not None and not address.path.is_file():
        raise InputError(f"no study store at {address.label}; `hpsearch launch` makes one")


def make_tables(address: Address, engine: Engine) -> None:
    """Make Optuna's tables and ours, or upgrade ours."""
    with engine.connect() as connection:
        schema.refuse_newer(schema.current(connection), schema.scripts(connection), address.label)
    make_optuna_tables(address)
    # Ours come last: where their version stands, the store is whole.
    with engine.begin() as connection:
        schema.upgrade(connection, address.label)


def check_tables(address: Address, engine: Engine) -> None:
    """Raise unless our tables have the version that this code knows."""
    with engine.connect() as connection:
        schema.check(connection, address.label)


def make_optuna_tables(address: Address) -> None:
    """Make Optuna's tables where they are missing."""
    for attempt in range(1, _TRIES + 1):
        try:
            optuna_storage(address, create=True).engine.dispose()
            return
        except (IntegrityError, OperationalError, ProgrammingError, StorageInternalError) as error:
            # Optuna looks for its tables, makes them and stamps their version in separate
            # transactions, so two first launches trip each other up; the next look finds all there.
            if attempt == _TRIES or is_transient(error):
                raise


def optuna_storage(
    address: Address, *, fence: Fence | None = None, writes: bool = True, create: bool = False
) -> RDBStorage:
    """Optuna's storage in this database.

    Args:
        address: of the store.
        fence: called in every transaction of a storage that writes.
        writes: whether SQLite's transactions take the write lock when they begin.
        create: whether missing tables are made.

    Raises:
        InputError: Optuna's tables belong to another version of Optuna.
    """
    try:
        storage = RDBStorage(
            address.bare_url,
            engine_kwargs=engine_options(address, create=False),
            skip_table_creation=not create,
        )
    except RuntimeError as error:
        raise InputError(f"the store {address.label}: {address.one_line(error)}") from None
    set_beginning(storage.engine, fence or _no_fence, always_writes=writes)
    return storage


def _no_fence(connection: Connection) -> None:
    """No lease is needed."""


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
