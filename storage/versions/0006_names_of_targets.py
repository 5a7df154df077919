"""Longer names of targets: a user's own targets may have names of 64 characters and more."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("hpsearch_target_errors", "hpsearch_test_errors")


def upgrade() -> None:
    _resize(20, 200)


def downgrade() -> None:
    _resize(200, 20)


def _resize(before: int, after: int) -> None:
    for table in TABLES:
        # SQLite makes the table again; no other table refers to it.
        with op.batch_alter_table(table) as batch:
            batch.alter_column(
                "target",
                existing_type=sa.String(before),
                type_=sa.String(after),
                existing_nullable=False,
            )
