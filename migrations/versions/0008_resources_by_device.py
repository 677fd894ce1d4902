"""resources by device: memory of jobs, and what is reserved of it, is no longer the host's alone"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Beside the columns in bytes and nullable: controllers of the release before go on writing those alone. What is
    # of the host is read from those for as long as they are written (`controller.store.amounts` says why).
    op.add_column("jobs", sa.Column("capacity", JSONB()))
    op.add_column("jobs", sa.Column("reserved", JSONB()))
    op.add_column("assignments", sa.Column("reserved", JSONB()))
    op.execute(
        "UPDATE jobs SET capacity = jsonb_build_object('host', memory_per_replica),"
        " reserved = jsonb_build_object('host', reserved_bytes)"
    )
    op.execute("UPDATE assignments SET reserved = jsonb_build_object('host', reserved_bytes)")


def downgrade() -> None:
    """What is reserved on other devices than the host is forgotten."""
    op.drop_column("assignments", "reserved")
    op.drop_column("jobs", "reserved")
    op.drop_column("jobs", "capacity")
