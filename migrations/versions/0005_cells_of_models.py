"""cells of models: a version may have an assignment in each cell"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default: no row is rewritten, and controllers of the release before go on adding models without it.
    op.add_column("models", sa.Column("cells", JSONB(), nullable=False, server_default=sa.text("'[]'")))
    # A wider key is what every row has that satisfied the narrower one.
    op.drop_constraint("pk_assignments", "assignments", type_="primary")
    op.create_primary_key("pk_assignments", "assignments", ["model_id", "version", "job"])


def downgrade() -> None:
    """Refused by the database while a version has copies in several cells: delete those models or their cells first."""
    op.drop_constraint("pk_assignments", "assignments", type_="primary")
    op.create_primary_key("pk_assignments", "assignments", ["model_id", "version"])
    op.drop_column("models", "cells")
