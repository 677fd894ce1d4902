"""What the synchronizer reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from berth.settings import ProcessSettings


class SynchronizerSettings(ProcessSettings):
    controllers: str = Field(description="host:port of each controller's desired feed, separated by commas.")
    route_feed_address: str = Field(
        default="127.0.0.1:0", description="host:port where routers get their routes; port 0 picks a free one."
    )
    discovery: Literal["registry", "kubernetes"] = Field(
        default="registry",
        description="Where replicas are found: in a folder of this machine, or by the pods of a namespace.",
    )
    registry_dir: Path | None = Field(
        default=None,
        description="Folder in which the workers of this machine announce themselves. Needed for discovery registry.",
    )
    kubernetes_namespace: str = Field(
        default="",
        description="Namespace of the workers. Empty: that of the service account, or of the kubeconfig's context.",
    )
    kubernetes_config: Path | None = Field(
        default=None, description="kubeconfig of the cluster. Empty: the service account of this process's pod."
    )
    kubernetes_scale: bool = Field(
        default=True,
        description="Whether to scale the workloads of jobs when the controller asks for it. Used with discovery "
        "kubernetes.",
    )
    lease: Literal["controller", "kubernetes"] = Field(
        default="controller",
        description="Who decides which synchronizer leads: the controllers, or, for a cell far from them, a Lease in "
        "the cluster. The same for all synchronizers of a cell; stop all of them to change it.",
    )
    state_dir: Path = Field(
        description="Folder of this synchronizer alone: the last desired state, its epoch, the generations given out."
    )
    history_dir: Path | None = Field(
        default=None,
        description="Folder for the cell's history: each event and what was answered, to be played again by "
        "`python -m synchronizer.replay`. For finding faults: it has names of tenants and hashes of their keys. Empty: "
        "nothing is recorded.",
    )
    history_bytes: int = Field(
        default=1 << 30, gt=0, description="Size of a history in bytes after which nothing more is recorded."
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

    @model_validator(mode="after")
    def _can_discover(self) -> Self:
        if self.discovery == "registry" and self.registry_dir is None:
            raise ValueError("BERTH_REGISTRY_DIR: needed while BERTH_DISCOVERY is registry")
        return self

    @property
    def controller_addresses(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.controllers.split(",") if part.strip())
