"""pools, wishes for replicas, and what the autoscaler sees and decides"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _job_columns() -> list[sa.Column[Any]]:
    # Constant defaults or none: no row is rewritten, and controllers of the release before go on writing without them.
    return [
        sa.Column("from_file", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("scaling_from_file", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("file_problem", sa.Text(), server_default="", nullable=False),
        sa.Column("scaling", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("wished_replicas", sa.Integer(), nullable=True),
        sa.Column("desired_replicas", sa.Integer(), nullable=True),
        sa.Column("desired_reason", sa.Text(), nullable=True),
        sa.Column("desired_at", sa.DateTime(timezone=True), nullable=True),
    ]


def _replica_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("incarnation", sa.Text(), server_default="", nullable=False),
        sa.Column("completed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("busy_s", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("queued_s", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("serving", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "loads", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
    ]


def upgrade() -> None:
    for column in _job_columns():
        op.add_column("jobs", column)
    for column in _replica_columns():
        op.add_column("observed_replicas", column)
    op.add_column(
        "observed_cells",
        sa.Column(
            "wanted", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
    )
    op.create_table(
        "observed_pools",
        sa.Column("cell", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("ready", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("cell", "job", name=op.f("pk_observed_pools")),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    op.drop_table("observed_pools")
    op.drop_column("observed_cells", "wanted")
    for column in reversed(_replica_columns()):
        op.drop_column("observed_replicas", column.name)
    for column in reversed(_job_columns()):
        op.drop_column("jobs", column.name)
