"""Digests of experiments, runs, epochs and results, with which `verify` finds changed rows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = ("hpsearch_experiments", "hpsearch_runs", "hpsearch_epochs", "hpsearch_results")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("digest", sa.String(64)))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "digest")
