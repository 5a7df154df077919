"""The version of the tables: migrations in ``storage/`` create them, opening a store checks it."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from hpsearch.errors import InputError, TablesNotReady
from hpsearch.store.address import Address
from hpsearch.store.tables import VERSION_TABLE
from hpsearch.system.installation import folder

READABLE = frozenset({"0001", "0002", "0003", "0004"})
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
        refuse_newer(current(connection), scripts(connection), address.label)
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
    config = Config()
    config.set_main_option("script_location", str(folder("storage")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def scripts(connection: Connection) -> ScriptDirectory:
    """Return the migrations in ``storage/versions``."""
    return ScriptDirectory.from_config(configuration(connection))


def current(connection: Connection) -> str | None:
    """Return the version of our tables; ``None`` if there are none."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def upgrade(connection: Connection, label: str) -> None:
    """Upgrade our tables to the newest version, in the connection's transaction.

    Raises:
        InputError: this code does not know the tables' version.
    """
    if connection.dialect.name == "postgresql":
        # Two launches must not migrate at once. On SQLite the write lock prevents it.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    refuse_newer(current(connection), scripts(connection), label)
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
    known = scripts(connection)
    refuse_newer(found, known, label)
    if found != known.get_current_head() and found not in READABLE:
        raise TablesNotReady(
            f"the store {label} has the older schema {found}; `hpsearch launch` upgrades it to "
            f"{known.get_current_head()}"
        )


def refuse_newer(found: str | None, known: ScriptDirectory, label: str) -> None:
    """Raise an error if none of the ``known`` migrations creates the version ``found``."""
    if found is not None and found not in {step.revision for step in known.walk_revisions()}:
        raise InputError(
            f"the store {label} has the schema {found} of a newer hpsearch; this one knows the "
            f"schemas up to {known.get_current_head()}; upgrade hpsearch"
        )
