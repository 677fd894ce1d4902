"""proven versions: that a version was loaded and answered once is a fact of its own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nullable: controllers of the release before go on adding versions without it, and prove them by measuring.
    op.add_column("versions", sa.Column("proven_at", sa.DateTime(timezone=True)))
    # Until now what was measured was what had been loaded. When that was nobody has written down.
    op.execute("UPDATE versions SET proven_at = changed_at WHERE measured_bytes IS NOT NULL")


def downgrade() -> None:
    op.drop_column("versions", "proven_at")
