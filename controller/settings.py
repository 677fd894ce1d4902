"""Settings of the controller."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from berth.settings import ProcessSettings


class DatabaseSettings(ProcessSettings):
    """All that `python -m controller.migrate` needs."""

    database_url: str = Field(
        description="PostgreSQL, as postgresql://user:password@host/name.",
        repr=False,
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str) -> str:
        if not value.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError("a postgresql:// URL is expected")
        return value


class ControllerSettings(DatabaseSettings):
    rest_address: str = Field(default="127.0.0.1:8080", description="host:port of the control API; port 0 picks one.")
    feed_address: str = Field(default="127.0.0.1:8081", description="host:port of the gRPC feed for synchronizers.")
    artifact_store: str = Field(description="Where artifacts are: file:///absolute/folder or s3://bucket/prefix.")
    bootstrap_key_file: Path | None = Field(
        default=None, description="File with an admin API key to accept, so that a new deployment has a first one."
    )
    max_artifact_bytes: int = Field(default=8 << 30, ge=1, description="Largest artifact, in bytes.")
    body_pause_s: float = Field(
        default=30.0, gt=0, description="Longest pause within a request's body, in seconds; then it is given up."
    )
    spool_dir: Path | None = Field(
        default=None,
        description="Folder for uploads under way, which fill as much of it as they are large; absent: the system's.",
    )
    database_connections: int = Field(default=8, ge=2, le=100, description="Pool of connections to PostgreSQL.")
    database_patience_s: float = Field(
        default=5.0,
        gt=0,
        description="How long a request waits for a database that is away, in seconds; then it is answered 503.",
    )
    pools_file: Path | None = Field(
        default=None,
        description="JSON file of worker pools, read again when it changes; jobs are made to match it. The chart "
        "mounts it from a ConfigMap. Absent: jobs are made by the API alone.",
    )
    external_metrics_address: str = Field(
        default="",
        description="host:port of Kubernetes' external metrics API, over TLS, for HPA; empty: it is not served.",
    )
    external_metrics_cert: Path | None = Field(
        default=None, description="PEM certificate of the external metrics API; absent: that of BERTH_TLS_CERT."
    )
    external_metrics_key: Path | None = Field(
        default=None, description="PEM private key of the external metrics API; absent: that of BERTH_TLS_KEY."
    )
    external_metrics_client_ca: Path | None = Field(
        default=None,
        description="PEM authority of the cluster's front proxy (requestheader-client-ca-file): only who has a "
        "certificate of it is answered. All three files may be replaced at any time.",
    )
    external_metrics_client_names: str = Field(
        default="",
        description="Common names, comma-separated, that the front proxy's certificate may have "
        "(requestheader-allowed-names); empty: any certificate of its authority.",
    )
    migrate: bool = Field(default=True, description="Bring the database's schema up to date at start.")
