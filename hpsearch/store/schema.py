"""The tables' version: the steps in ``storage/`` make and upgrade it, opening checks it."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from hpsearch.errors import InputError, TablesNotReady
from hpsearch.store.address import Address
from hpsearch.store.optuna_rows import make_optuna_tables
from hpsearch.store.tables import VERSION_TABLE
from hpsearch.system.installation import folder

READABLE = frozenset({"0001", "0002"})
"""Older versions that hold every table and column that readers use; `Store.create` upgrades them.

A step that adds only what the driver writes, or what a reader can do without, leaves the versions
before it here; one that changes what readers read takes them out.
"""

_UPGRADE_LOCK = 4_811_274_306
"""Any number that no other program takes as an advisory lock in the same database."""


def make_tables(address: Address, engine: Engine) -> None:
    """Make Optuna's tables and ours, or upgrade ours."""
    with engine.connect() as connection:
        refuse_newer(current(connection), scripts(connection), address.label)
    make_optuna_tables(address)
    # Ours come last: where their version stands, the store is whole.
    with engine.begin() as connection:
        upgrade(connection, address.label)


def check_tables(address: Address, engine: Engine) -> None:
    """Raise unless our tables have the version that this code knows."""
    with engine.connect() as connection:
        check(connection, address.label)


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for ``storage/env.py``, on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(folder("storage")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def scripts(connection: Connection) -> ScriptDirectory:
    """The steps in ``storage/versions``."""
    return ScriptDirectory.from_config(configuration(connection))


def current(connection: Connection) -> str | None:
    """The version that the database's own tables have; ``None`` if there are none."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def upgrade(connection: Connection, label: str) -> None:
    """Bring our tables to the newest version, within the connection's transaction.

    Raises:
        InputError: the tables are of a version that this code does not know.
    """
    if connection.dialect.name == "postgresql":
        # SQLite's transaction holds the only write lock; here two launches would both migrate.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    refuse_newer(current(connection), scripts(connection), label)
    command.upgrade(configuration(connection), "head")


def check(connection: Connection, label: str) -> None:
    """Accept tables that readers can read: of the newest version, or one in :data:`READABLE`.

    Raises:
        TablesNotReady: there are none, or they are of an older version.
        InputError: they are of a newer version.
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
    """Raise if ``found`` is a version that none of the ``known`` steps makes."""
    if found is not None and found not in {step.revision for step in known.walk_revisions()}:
        raise InputError(
            f"the store {label} has the schema {found}, made by a newer hpsearch than this one, "
            f"which knows {known.get_current_head()}; upgrade hpsearch"
        )
