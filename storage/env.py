"""Alembic's entry point. `hpsearch.store.schema` passes the connection."""

from alembic import context

from hpsearch.store.tables import PREFIX, VERSION_TABLE, metadata


def is_ours(name, type_, _parent_names):
    """Whether a table is ours; the database also contains Optuna's tables."""
    return type_ != "table" or (name is not None and name.startswith(PREFIX))


if context.is_offline_mode():
    raise SystemExit("migrations need a database: there is no offline mode")

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=is_ours,
    # SQLite cannot alter a table in place. In batch mode one migration works on both databases.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
