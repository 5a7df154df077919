"""Our tables. The migrations in ``storage/versions`` create them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

PREFIX = "hpsearch_"
VERSION_TABLE = "hpsearch_alembic_version"
"""Not Alembic's default name: Optuna uses that one in the same database."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

experiments = Table(
    f"{PREFIX}experiments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("name", String(200), nullable=False),
    Column("identity", String(32), nullable=False),
    Column("provenance", Text, nullable=False),
    # Digests are explained in hpsearch/runs/record.py. NULL in rows from before them.
    Column("digest", String(64)),
    Column("created_at", DateTime, nullable=False),
    Column("launched_at", DateTime, nullable=False),
    # The number of the last epoch or decision that was written. NULL before the first.
    Column("last_sequence", BigInteger),
    UniqueConstraint("kind", "name"),
)

runs = Table(
    f"{PREFIX}runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("key", String(200), nullable=False),
    Column("configuration", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("directory", Text, nullable=False),
    Column("weights", BigInteger),
    Column("host", Text),
    Column("device", Text),
    Column("data_hash", String(200)),
    Column("split_hash", String(200)),
    Column("zero_output_loss", Double),
    Column("digest", String(64)),
    Column("created_at", DateTime, nullable=False),
    Column("started_at", DateTime),
    UniqueConstraint("experiment_id", "key"),
)

epochs = Table(
    f"{PREFIX}epochs",
    metadata,
    Column("run_id", ForeignKey(runs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("learning_rate", Double),
    Column("seconds", Double),
    Column("training_loss", Double),
    Column("validation_loss", Double),
    Column("digest", String(64)),
    Column("created_at", DateTime, nullable=False),
    Column("sequence", BigInteger),
)

target_errors = Table(
    f"{PREFIX}target_errors",
    metadata,
    Column("run_id", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("target", String(200), primary_key=True),
    Column("loss", Double),
    Column("mae", Double),
    ForeignKeyConstraint(
        ["run_id", "epoch"], [epochs.c.run_id, epochs.c.epoch], ondelete="CASCADE"
    ),
)

decisions = Table(
    f"{PREFIX}decisions",
    metadata,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    # Increases with every epoch and decision of the experiment; no clock can change the order.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", ForeignKey(runs.c.id, ondelete="CASCADE"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("rung", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("loss", Double),
    Column("created_at", DateTime, nullable=False),
    UniqueConstraint("run_id", "kind", "rung"),
)

results = Table(
    f"{PREFIX}results",
    metadata,
    Column("run_id", ForeignKey(runs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("epochs", Integer),
    Column("best_epoch", Integer),
    Column("best_validation_loss", Double),
    Column("test_loss", Double),
    Column("failure_kind", String(20)),
    Column("failure_message", Text),
    Column("failure_traceback", Text),
    Column("failure_epoch", Integer),
    Column("failure_step", BigInteger),
    Column("digest", String(64)),
    Column("finished_at", DateTime, nullable=False),
)

test_errors = Table(
    f"{PREFIX}test_errors",
    metadata,
    Column("run_id", ForeignKey(results.c.run_id, ondelete="CASCADE"), primary_key=True),
    Column("target", String(200), primary_key=True),
    Column("mae", Double),
    # Little-endian float32, one value per test molecule in the split's order.
    Column("residuals", LargeBinary),
)

leases = Table(
    f"{PREFIX}leases",
    metadata,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    Column("token", String(32), nullable=False),
    Column("host", Text, nullable=False),
    Column("process", BigInteger, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("taken_at", Double, nullable=False),
    Column("renewed_at", Double, nullable=False),
)
