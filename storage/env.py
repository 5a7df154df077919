"""Alembic's entry point; opened by path, on the connection that hpsearch.store hands over."""

from alembic import context

from hpsearch.store.tables import PREFIX, VERSION_TABLE, metadata


def is_ours(name, type_, _parent_names):
    """Whether a table found in the database is ours: Optuna's stand in the same one."""
    return type_ != "table" or (name is not None and name.startswith(PREFIX))


if context.is_offline_mode():
    raise SystemExit("migrations need a database: there is no offline mode")

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=is_ours,
    # SQLite alters a table by making it anew; later steps are then written once for both stores.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
