"""the first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(length=64, collation="C"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("condemned_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "cells",
        sa.Column("name", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cells")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=63, collation="C"), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_tenant_id", "events", ["tenant", "id"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("actor", "key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"], unique=False)
    op.create_table(
        "leases",
        sa.Column("cell", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cell", name=op.f("pk_leases")),
    )
    op.create_table(
        "observed_cells",
        sa.Column("cell", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("desired_generation", sa.BigInteger(), nullable=False),
        sa.Column("routers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("cell", name=op.f("pk_observed_cells")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "observed_replicas",
        sa.Column("cell", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("replica", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("memory_limit", sa.BigInteger(), nullable=False),
        sa.Column("memory_used", sa.BigInteger(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("cell", "replica", name=op.f("pk_observed_replicas")),
        prefixes=["UNLOGGED"],
    )
    op.create_index(op.f("ix_observed_replicas_job"), "observed_replicas", ["job"], unique=False)
    op.create_table(
        "observed_servables",
        sa.Column("cell", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("replica", sa.Text(), nullable=False),
        sa.Column("tenant", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("model", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("measured_bytes", sa.BigInteger(), nullable=False),
        sa.Column("routed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("cell", "replica", "tenant", "model", "version", name=op.f("pk_observed_servables")),
        prefixes=["UNLOGGED"],
    )
    op.create_index("ix_observed_servables_version", "observed_servables", ["tenant", "model", "version"], unique=False)
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("max_models", sa.Integer(), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=False),
        sa.Column("requests_per_second", sa.Float(), nullable=False),
        sa.Column("max_concurrent", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )
    op.create_table(
        "version_counters",
        sa.Column("tenant", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("model", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", name=op.f("pk_version_counters")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=64, collation="C"), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63, collation="C"), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(tenant IS NULL) = (role IN ('admin', 'operator'))", name=op.f("ck_api_keys_platform_roles_have_no_tenant")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_api_keys_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
    )
    op.create_index(op.f("ix_api_keys_tenant"), "api_keys", ["tenant"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("name", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("cell", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("hardware", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("memory_per_replica", sa.BigInteger(), nullable=False),
        sa.Column("service_class", sa.String(length=16), nullable=False),
        sa.Column("dedicated_tenant", sa.String(length=63, collation="C"), nullable=True),
        sa.Column("reserved_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("reserved_bytes BETWEEN 0 AND memory_per_replica", name=op.f("ck_jobs_no_over_commit")),
        sa.ForeignKeyConstraint(["cell"], ["cells.name"], name=op.f("fk_jobs_cell_cells")),
        sa.ForeignKeyConstraint(["dedicated_tenant"], ["tenants.name"], name=op.f("fk_jobs_dedicated_tenant_tenants")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_jobs")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("name", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("pinned", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_models_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(
        "uq_models_tenant_name",
        "models",
        ["tenant", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "versions",
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64, collation="C"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("signature", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("estimated_bytes", sa.BigInteger(), nullable=False),
        sa.Column("measured_bytes", sa.BigInteger(), nullable=True),
        sa.Column("announced", sa.String(length=16), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_versions_model_id_models")),
        sa.ForeignKeyConstraint(["sha256"], ["artifacts.sha256"], name=op.f("fk_versions_sha256_artifacts")),
        sa.PrimaryKeyConstraint("model_id", "version", name=op.f("pk_versions")),
    )
    op.create_index(op.f("ix_versions_sha256"), "versions", ["sha256"], unique=False)
    op.create_table(
        "assignments",
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("job", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("releasing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("releasing_generation", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.name"], name=op.f("fk_assignments_job_jobs")),
        sa.ForeignKeyConstraint(
            ["model_id", "version"],
            ["versions.model_id", "versions.version"],
            name=op.f("fk_assignments_model_id_version_versions"),
        ),
        sa.PrimaryKeyConstraint("model_id", "version", name=op.f("pk_assignments")),
    )
    op.create_index(op.f("ix_assignments_job"), "assignments", ["job"], unique=False)
    op.create_table(
        "labels",
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.String(length=63, collation="C"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "version"],
            ["versions.model_id", "versions.version"],
            name=op.f("fk_labels_model_id_version_versions"),
        ),
        sa.PrimaryKeyConstraint("model_id", "label", name=op.f("pk_labels")),
    )


def downgrade() -> None:
    op.drop_table("labels")
    op.drop_index(op.f("ix_assignments_job"), table_name="assignments")
    op.drop_table("assignments")
    op.drop_index(op.f("ix_versions_sha256"), table_name="versions")
    op.drop_table("versions")
    op.drop_index("uq_models_tenant_name", table_name="models", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("models")
    op.drop_table("jobs")
    op.drop_index(op.f("ix_api_keys_tenant"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("version_counters")
    op.drop_table("tenants")
    op.drop_index("ix_observed_servables_version", table_name="observed_servables")
    op.drop_table("observed_servables")
    op.drop_index(op.f("ix_observed_replicas_job"), table_name="observed_replicas")
    op.drop_table("observed_replicas")
    op.drop_table("observed_cells")
    op.drop_table("leases")
    op.drop_index(op.f("ix_idempotency_created_at"), table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_index("ix_events_tenant_id", table_name="events")
    op.drop_table("events")
    op.drop_table("cells")
    op.drop_table("artifacts")
