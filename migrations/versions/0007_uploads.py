"""uploads: the durable steps of an upload"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Controllers of the release before ignore it: their uploads are not resumed, and reserve nothing.
    op.create_table(
        "uploads",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("tenant", sa.String(63, collation="C"), nullable=False),
        sa.Column("model", sa.String(63, collation="C"), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("blobs", JSONB(), nullable=False, server_default=sa.text("'[]'::jsonb")),
        sa.Column("found", JSONB(), nullable=True),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("asked_by", JSONB(), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=True),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("losses", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_tenant", "uploads", ["tenant"])
    op.create_index("ix_uploads_lease_until", "uploads", ["lease_until"])


def downgrade() -> None:
    """Uploads under way are lost, as they were with their controllers before; their bytes are collected."""
    op.drop_table("uploads")
