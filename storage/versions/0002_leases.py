"""The leases: one row for each experiment that has a driver."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpsearch_leases",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("process", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.Column("renewed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", name="pk_hpsearch_leases"),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["hpsearch_experiments.id"],
            name="fk_hpsearch_leases_experiment_id",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("hpsearch_leases")
