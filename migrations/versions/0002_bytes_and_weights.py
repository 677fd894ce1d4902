"""limits of bytes, and weights, of tenants"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Constant defaults: no row is rewritten, and controllers of the release before go on adding tenants without them.
    op.add_column("tenants", sa.Column("bytes_per_second", sa.Float(), server_default=sa.text("0"), nullable=False))
    op.add_column("tenants", sa.Column("weight", sa.Float(), server_default=sa.text("1"), nullable=False))


def downgrade() -> None:
    op.drop_column("tenants", "weight")
    op.drop_column("tenants", "bytes_per_second")
