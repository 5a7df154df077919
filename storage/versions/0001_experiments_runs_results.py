"""Experiments, runs, their epochs and results.

The columns are written out here, because hpsearch.store.tables changes with later versions.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpsearch_experiments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("identity", sa.String(32), nullable=False),
        sa.Column("provenance", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("launched_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hpsearch_experiments"),
        sa.UniqueConstraint("kind", "name", name="uq_hpsearch_experiments_kind_name"),
    )
    op.create_table(
        "hpsearch_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("configuration", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("weights", sa.BigInteger()),
        sa.Column("host", sa.Text()),
        sa.Column("device", sa.Text()),
        sa.Column("data_hash", sa.String(200)),
        sa.Column("split_hash", sa.String(200)),
        sa.Column("zero_output_loss", sa.Double()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("started_at", sa.DateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_hpsearch_runs"),
        sa.UniqueConstraint("experiment_id", "key", name="uq_hpsearch_runs_experiment_id_key"),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["hpsearch_experiments.id"],
            name="fk_hpsearch_runs_experiment_id",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "hpsearch_epochs",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("learning_rate", sa.Double()),
        sa.Column("seconds", sa.Double()),
        sa.Column("training_loss", sa.Double()),
        sa.Column("validation_loss", sa.Double()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "epoch", name="pk_hpsearch_epochs"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["hpsearch_runs.id"], name="fk_hpsearch_epochs_run_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "hpsearch_target_errors",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(20), nullable=False),
        sa.Column("loss", sa.Double()),
        sa.Column("mae", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "epoch", "target", name="pk_hpsearch_target_errors"),
        sa.ForeignKeyConstraint(
            ["run_id", "epoch"],
            ["hpsearch_epochs.run_id", "hpsearch_epochs.epoch"],
            name="fk_hpsearch_target_errors_run_id_epoch",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "hpsearch_results",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("epochs", sa.Integer()),
        sa.Column("best_epoch", sa.Integer()),
        sa.Column("best_validation_loss", sa.Double()),
        sa.Column("test_loss", sa.Double()),
        sa.Column("failure_kind", sa.String(20)),
        sa.Column("failure_message", sa.Text()),
        sa.Column("failure_traceback", sa.Text()),
        sa.Column("failure_epoch", sa.Integer()),
        sa.Column("failure_step", sa.BigInteger()),
        sa.Column("finished_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_hpsearch_results"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["hpsearch_runs.id"], name="fk_hpsearch_results_run_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "hpsearch_test_errors",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(20), nullable=False),
        sa.Column("mae", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "target", name="pk_hpsearch_test_errors"),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["hpsearch_results.run_id"],
            name="fk_hpsearch_test_errors_run_id",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    for table in ("test_errors", "results", "target_errors", "epochs", "runs", "experiments"):
        op.drop_table(f"hpsearch_{table}")
