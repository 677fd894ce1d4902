"""The router's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from berth.settings import ProcessSettings


class RouterSettings(ProcessSettings):
    http_address: str = Field(default="127.0.0.1:8000", description="host:port for clients over REST.")
    grpc_address: str = Field(default="127.0.0.1:8001", description="host:port for clients over gRPC.")
    route_feeds: str = Field(description="Route feeds of the cell's synchronizers: host:port, comma-separated.")
    state_dir: Path | None = Field(
        default=None,
        description="Folder that keeps the last route table, so that a router that restarts while the control plane "
        "is down can serve. Holds hashes of keys, never keys. Unset: nothing is kept.",
    )
    hedge_delay_ms: float = Field(
        default=0.0,
        ge=0,
        description="A second copy goes to another replica when the first has not answered after this many "
        "milliseconds; 0: never. Set it near the slowest latency that is still normal.",
    )
    extra_load: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of requests that hedges and retries together may add; more would feed an overload.",
    )
    default_timeout_s: float = Field(default=30.0, gt=0, description="Deadline, s, of requests that bring none.")
    max_timeout_s: float = Field(default=600.0, gt=0, description="Longest deadline, s, that a request may ask for.")
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Time, s, in which a REST body must have arrived; slow senders hold memory."
    )
    max_body_bytes: int = Field(default=64 * 2**20, gt=0, description="Largest request body or gRPC message, bytes.")
    max_in_flight: int = Field(
        default=1024, gt=0, description="Requests under way at once in this process; more are refused with 503."
    )
    patience_s: float = Field(
        default=1.0,
        ge=0,
        description="How long, s, a request waits for a replica when connections to all of them fail: a restart "
        "shorter than this goes unnoticed.",
    )
    drain_s: float = Field(default=10.0, ge=0, description="How long, s, requests under way may take at shutdown.")
    access_log_sample: float = Field(default=0.0, ge=0, le=1, description="Share of requests that are logged.")

    @field_validator("route_feeds")
    @classmethod
    def _has_feeds(cls, value: str) -> str:
        feeds = _split(value)
        if not feeds or any(":" not in feed for feed in feeds):
            raise ValueError("at least one host:port is expected")
        return value

    @property
    def feeds(self) -> tuple[str, ...]:
        return _split(self.route_feeds)


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())
