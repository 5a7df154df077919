"""The residual of each test molecule, for parity plots and paired comparisons."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpsearch_test_errors", sa.Column("residuals", sa.LargeBinary()))


def downgrade() -> None:
    op.drop_column("hpsearch_test_errors", "residuals")
