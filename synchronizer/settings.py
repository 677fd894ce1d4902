"""What the synchronizer reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from berth.settings import ProcessSettings


class SynchronizerSettings(ProcessSettings):
    controllers: str = Field(description="host:port of each controller's desired feed, separated by commas.")
    route_feed_address: str = Field(
        default="127.0.0.1:0", description="host:port where routers get their routes; port 0 picks a free one."
    )
    registry_dir: Path = Field(description="Folder in which the workers of this machine announce themselves.")
    state_dir: Path = Field(
        description="Folder of this synchronizer alone: the last desired state, its epoch, the generations given out."
    )
    lease_ttl_s: float = Field(
        default=3.0, ge=0.5, description="Seconds after which a standby may take over from a leader that went silent."
    )
    settle_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds a new leader waits to hear from every replica before it publishes routes.",
    )
    worker_silence_s: float = Field(
        default=3.0, gt=1, description="Seconds without a sign of life after which a replica is sent no more requests."
    )
    withdraw_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds after which a version is unloaded though a router has not acknowledged.",
    )
    router_grace_s: float = Field(
        default=5.0, gt=0, description="Seconds for which a router that vanished may still be using its last table."
    )

    @field_validator("controllers")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not any(part.strip() for part in value.split(",")):
            raise ValueError("at least one host:port is needed")
        return value

    @property
    def controller_addresses(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.controllers.split(",") if part.strip())
