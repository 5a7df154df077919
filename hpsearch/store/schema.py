"""The version of the tables: migrations in ``storage/`` create them, opening a store checks it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, String, column, inspect, select, table, text

from hpsearch.store.address import Address
from hpsearch.store.tables import VERSION_TABLE
from hpsearch.system.errors import InputError, TablesNotReady
from hpsearch.system.installation import folder

if TYPE_CHECKING:  # only a launch migrates tables, and Alembic takes long to load
    from alembic.config import Config

READABLE = frozenset({"0001", "0002", "0003", "0004", "0005"})
"""Older versions that readers can still read; `Store.create` upgrades them.

Keep a version here if later migrations add only what readers do not need. Remove it if a migration
changes what readers read.
"""

_UPGRADE_LOCK = 4_811_274_306
"""An arbitrary number for the advisory lock; no other program should use it in this database."""


def make_tables(address: Address, engine: Engine) -> None:
    """Create Optuna's tables and ours, or upgrade ours."""
    # Imported here, because a reader needs no Optuna.
    from hpsearch.store.optuna_storage import make_optuna_tables

    with engine.connect() as connection:
        refuse_newer(current(connection), address.label)
    make_optuna_tables(address)
    # Ours come last: if they have a version, all tables exist.
    with engine.begin() as connection:
        upgrade(connection, address.label)


def check_tables(address: Address, engine: Engine) -> None:
    """Raise an error unless this code can read our tables."""
    with engine.connect() as connection:
        check(connection, address.label)


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for ``storage/env.py``, on an open connection."""
    from alembic.config import Config

    # Otherwise Alembic keeps the output that there was when it was imported.
    config = Config(stdout=sys.stdout)
    config.set_main_option("script_location", str(folder("storage")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def versions() -> list[str]:
    """Return the versions that the migrations in ``storage/versions`` create, the newest last.

    The names of their files begin with them.
    """
    files = (folder("storage") / "versions").glob("[0-9]*_*.py")
    return sorted(file.name.partition("_")[0] for file in files)


def current(connection: Connection) -> str | None:
    """Return the version of our tables; ``None`` if there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = column("version_num", String)
    query = select(version).select_from(table(VERSION_TABLE))
    return connection.execute(query).scalar_one_or_none()


def upgrade(connection: Connection, label: str) -> None:
    """Upgrade our tables to the newest version, in the connection's transaction.

    Raises:
        InputError: this code does not know the tables' version.
    """
    from alembic import command

    if connection.dialect.name == "postgresql":
        # Two launches must not migrate at once. On SQLite the write lock prevents it.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    refuse_newer(current(connection), label)
    command.upgrade(configuration(connection), "head")


def check(connection: Connection, label: str) -> None:
    """Raise an error unless the tables have the newest version or one in :data:`READABLE`.

    Raises:
        TablesNotReady: there are no tables, or their version is too old.
        InputError: their version is newer than this code.
    """
    found = current(connection)
    if found is None:
        raise TablesNotReady(f"{label} is not a study store; `hpsearch launch` makes one")
    refuse_newer(found, label)
    newest = versions()[-1]
    if found != newest and found not in READABLE:
        raise TablesNotReady(
            f"the store {label} has the older schema {found}; `hpsearch launch` upgrades it to "
            f"{newest}"
        )


def refuse_newer(found: str | None, label: str) -> None:
    """Raise an error if none of our migrations creates the version ``found``."""
    known = versions()
    if found is not None and found not in known:
        raise InputError(
            f"the store {label} has the schema {found} of a newer hpsearch; this one knows the "
            f"schemas up to {known[-1]}; upgrade hpsearch"
        )
