"""The decisions of early stopping, and the order of everything that they follow from."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpsearch_experiments", sa.Column("last_sequence", sa.BigInteger()))
    op.add_column("hpsearch_epochs", sa.Column("sequence", sa.BigInteger()))
    op.create_table(
        "hpsearch_decisions",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Double()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", "sequence", name="pk_hpsearch_decisions"),
        sa.UniqueConstraint(
            "run_id", "kind", "rung", name="uq_hpsearch_decisions_run_id_kind_rung"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["hpsearch_experiments.id"],
            name="fk_hpsearch_decisions_experiment_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["hpsearch_runs.id"],
            name="fk_hpsearch_decisions_run_id",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("hpsearch_decisions")
    op.drop_column("hpsearch_epochs", "sequence")
    op.drop_column("hpsearch_experiments", "last_sequence")
