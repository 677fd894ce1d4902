"""The tables. `migrations/` creates them; `alembic check` in the tests keeps the two the same.

Names compare bytewise (COLLATE "C"), so that pages come in the same order whatever the database's locale.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

HEAD = "0008"
"""The newest revision in `migrations/`: written here so that a start need not import Alembic to find it current."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _name() -> String:
    return String(63, collation="C")


def _now(name: str = "created_at") -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _moment(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True))


tenants = Table(
    "tenants",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("max_models", Integer, nullable=False),
    Column("max_bytes", BigInteger, nullable=False),
    Column("requests_per_second", Float, nullable=False),
    Column("max_concurrent", Integer, nullable=False),
    # Defaults in the database: a controller of the release before adds tenants without them.
    Column("bytes_per_second", Float, nullable=False, server_default=text("0")),
    Column("weight", Float, nullable=False, server_default=text("1")),
    _now(),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64, collation="C"), primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("tenant", _name(), ForeignKey("tenants.name"), index=True),
    Column("role", String(16), nullable=False),
    Column("description", Text, nullable=False),
    _now(),
    _moment("revoked_at"),
    CheckConstraint("(tenant IS NULL) = (role IN ('admin', 'operator'))", name="platform_roles_have_no_tenant"),
)

models = Table(
    "models",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("tenant", _name(), ForeignKey("tenants.name"), nullable=False),
    Column("name", _name(), nullable=False),
    Column("description", Text, nullable=False),
    Column("pinned", BigInteger),
    # A whole answer of OIP, as a router gives it; JSON in ASCII.
    Column("default_answer", Text),
    # Names of the cells that are to have a copy each; none: one cell, whichever has room first.
    Column("cells", JSONB, nullable=False, server_default=text("'[]'")),
    _now(),
    # A deleted model stays until no replica holds any of its versions; its name is free at once.
    _moment("deleted_at"),
    Index("uq_models_tenant_name", "tenant", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
)

# A counter outlives its model, so it has no foreign key. Version numbers are never given out twice under one name: no
# worker, router or cache can take new bytes for old.
version_counters = Table(
    "version_counters",
    metadata,
    Column("tenant", _name(), primary_key=True),
    Column("model", _name(), primary_key=True),
    Column("last", BigInteger, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("sha256", String(64, collation="C"), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    # An upload says so before it stores the object: younger ones are never collected.
    _now("touched_at"),
    # Its object is being deleted: an upload of the same bytes waits.
    _moment("condemned_at"),
)

versions = Table(
    "versions",
    metadata,
    Column("model_id", BigInteger, ForeignKey("models.id"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("sha256", String(64, collation="C"), ForeignKey("artifacts.sha256"), nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("format", String(16), nullable=False),
    Column("signature", JSONB, nullable=False),
    Column("estimated_bytes", BigInteger, nullable=False),
    # The largest that a replica ever measured.
    Column("measured_bytes", BigInteger),
    # When a replica was first seen to have loaded it and to answer.
    _moment("proven_at"),
    # The last state that an event told of; states themselves are derived, never stored.
    Column("announced", String(16), nullable=False, server_default=""),
    _now(),
    _now("changed_at"),
    _moment("deleted_at"),
)

labels = Table(
    "labels",
    metadata,
    Column("model_id", BigInteger, primary_key=True),
    Column("label", _name(), primary_key=True),
    Column("version", BigInteger, nullable=False),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("cell", _name(), ForeignKey("cells.name"), nullable=False),
    Column("runtime", String(16), nullable=False),
    Column("hardware", _name(), nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("memory_per_replica", BigInteger, nullable=False),
    Column("service_class", String(16), nullable=False),
    Column("dedicated_tenant", _name(), ForeignKey("tenants.name")),
    # The sum of its assignments. Placement never exceeds the memory; the check is the net below it.
    Column("reserved_bytes", BigInteger, nullable=False, server_default="0"),
    # The same two by device: `controller.store.amounts` says which is read.
    Column("capacity", JSONB),
    Column("reserved", JSONB),
    # Defaults in the database, here and below: a controller of the release before writes rows without them.
    # The job comes from the pools file, and its scaling too: the API changes neither.
    Column("from_file", Boolean, nullable=False, server_default=text("false")),
    Column("scaling_from_file", Boolean, nullable=False, server_default=text("false")),
    # Why the file's wish for it cannot be done; empty if it is done.
    Column("file_problem", Text, nullable=False, server_default=""),
    # As `Scaling` of the API; absent: its defaults.
    Column("scaling", JSONB),
    # What an operator asked its workload to have, until it has.
    Column("wished_replicas", Integer),
    # The autoscaler's last answer.
    Column("desired_replicas", Integer),
    Column("desired_reason", Text),
    _moment("desired_at"),
    _now(),
    CheckConstraint("reserved_bytes BETWEEN 0 AND memory_per_replica", name="no_over_commit"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("model_id", BigInteger, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    # At most one job of each cell: placement sees to it under the fleet's lock.
    Column("job", _name(), ForeignKey("jobs.name"), primary_key=True, index=True),
    Column("reserved_bytes", BigInteger, nullable=False),
    # The same by device.
    Column("reserved", JSONB),
    _now(),
    _moment("releasing_at"),
    # The first generation that leaves it out: a cell that has acted on it and does not report the version is rid of it.
    Column("releasing_generation", BigInteger),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.version"]),
)

cells = Table(
    "cells",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("generation", BigInteger, nullable=False),
)

# Apart from `cells`: renewing a lease must not wait for placements.
leases = Table(
    "leases",
    metadata,
    Column("cell", _name(), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("kind", String(64), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("tenant", _name()),
    Column("subject", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Index("ix_events_tenant_id", "tenant", "id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("actor", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("status", Integer, nullable=False),
    # As text: JSONB would give the members back in another order.
    Column("body", JSON, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)

# Uploads under way. No foreign key: a controller of the release before knows none, and may delete their tenant.
uploads = Table(
    "uploads",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("tenant", _name(), nullable=False, index=True),
    Column("model", _name(), nullable=False),
    Column("step", String(16), nullable=False),
    # Counts against the tenant's quota.
    Column("reserved_bytes", BigInteger, nullable=False),
    # [{"sha256": ..., "size_bytes": ...}] once they are received.
    Column("blobs", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    # What its inspection found, once there was one.
    Column("found", JSONB),
    # Who asked. The key of its `idempotency` row, if it is to have one, and the fingerprint once it is known.
    Column("actor", String(64), nullable=False),
    Column("asked_by", JSONB, nullable=False),
    Column("idempotency_key", String(255)),
    Column("fingerprint", LargeBinary(32)),
    # Who drives it, empty if its last holder gave it back; the fence grows with each holder.
    Column("holder", Text, nullable=False),
    Column("fence", BigInteger, nullable=False, server_default=text("1")),
    Column("losses", Integer, nullable=False, server_default=text("0")),
    Column("lease_until", DateTime(timezone=True), nullable=False, index=True),
    _now(),
    _now("changed_at"),
)

# Observations: unlogged, because their owner repeats them within a second and they change all the time.
_UNLOGGED = ["UNLOGGED"]

observed_cells = Table(
    "observed_cells",
    metadata,
    Column("cell", _name(), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("desired_generation", BigInteger, nullable=False),
    Column("routers", JSONB, nullable=False),
    # Jobs with versions that requests wait for and no replica has loaded.
    Column("wanted", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    _now("reported_at"),
    prefixes=_UNLOGGED,
)

observed_replicas = Table(
    "observed_replicas",
    metadata,
    Column("cell", _name(), primary_key=True),
    Column("replica", Text, primary_key=True),
    Column("job", Text, nullable=False, index=True),
    Column("connected", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("memory_limit", BigInteger, nullable=False),
    Column("memory_used", BigInteger, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("seen_at", Float, nullable=False),
    # Load, cumulative within an incarnation of the replica.
    Column("incarnation", Text, nullable=False, server_default=""),
    Column("completed", BigInteger, nullable=False, server_default=text("0")),
    Column("busy_s", Float, nullable=False, server_default=text("0")),
    Column("queued_s", Float, nullable=False, server_default=text("0")),
    # Routers send it requests.
    Column("serving", Boolean, nullable=False, server_default=text("false")),
    # The same by version, as [answers, seconds]: a report names those with requests since the one before, and they are
    # merged here.
    Column("loads", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # Of its servables: a report that repeats the last one writes none of them.
    Column("fingerprint", LargeBinary(32), nullable=False),
    prefixes=_UNLOGGED,
)

observed_pools = Table(
    "observed_pools",
    metadata,
    Column("cell", _name(), primary_key=True),
    Column("job", Text, primary_key=True),
    Column("workload", Text, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("ready", Integer, nullable=False),
    prefixes=_UNLOGGED,
)

observed_servables = Table(
    "observed_servables",
    metadata,
    Column("cell", _name(), primary_key=True),
    Column("replica", Text, primary_key=True),
    Column("tenant", _name(), primary_key=True),
    Column("model", _name(), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("measured_bytes", BigInteger, nullable=False),
    Column("routed", Boolean, nullable=False),
    Index("ix_observed_servables_version", "tenant", "model", "version"),
    prefixes=_UNLOGGED,
)
