"""default answers of models"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nullable: no row is rewritten, and controllers of the release before go on adding models without one.
    op.add_column("models", sa.Column("default_answer", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("models", "default_answer")
