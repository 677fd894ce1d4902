"""Settings: frozen values, read once from a mapping of environment variables, with unit, default and reason each.

A component declares a subclass of `ProcessSettings`; field `lease_ttl_s` is read from `BERTH_LEASE_TTL_S`.
`environment()` is the only place in the tree that touches the process's environment.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "BERTH_"


class SettingsError(Exception):
    """A setting is missing or wrong. Its text names the variable, what it was and what is allowed."""


def environment() -> Mapping[str, str]:
    """A copy of the process's environment."""
    return dict(os.environ)


class Variable(NamedTuple):
    """One documented environment variable."""

    name: str
    default: str
    description: str


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read every field from its `BERTH_` variable. Raises `SettingsError` naming each variable that is wrong."""
        values: dict[str, Any] = {}
        for name in cls.model_fields:
            raw = environ.get(variable_name(name))
            if raw is not None and raw != "":
                values[name] = raw
        try:
            return cls(**values)
        except ValidationError as error:
            problems = [
                f"{variable_name(str(item['loc'][0]))}: {item['msg']}" if item["loc"] else item["msg"]
                for item in error.errors(include_url=False)
            ]
            raise SettingsError("; ".join(problems)) from None

    @classmethod
    def variables(cls) -> Iterator[Variable]:
        """The documented variables, in declaration order; `--help` is made from them."""
        for name, info in cls.model_fields.items():
            default = "required" if info.is_required() else str(info.get_default(call_default_factory=True))
            yield Variable(variable_name(name), default, info.description or "")


class ProcessSettings(Settings):
    """What every Berth process reads."""

    instance: str = Field(
        default_factory=lambda: f"{socket.gethostname().lower()}-{os.getpid()}",
        description="Name of this process in logs and observations, unique within its component.",
    )
    cell: str = Field(default="local", description="Cell this process belongs to.")
    zone: str = Field(
        default="",
        description="What this process fails together with: a rack, an availability zone. Routers prefer replicas of "
        "their own zone and hedge into another one. Empty: not known.",
    )
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="Least level logged.")
    log_format: str = Field(
        default="json", pattern="^(json|console)$", description="json for collectors, console for people."
    )
    admin_address: str = Field(
        default="127.0.0.1:0", description="host:port of /healthz, /readyz and /metrics; port 0 picks a free one."
    )
    credential_file: Path | None = Field(
        default=None,
        description="File with the deployment's loopback token. Needed unless the three TLS files are given.",
    )
    tls_cert: Path | None = Field(default=None, description="PEM certificate of this process, for mutual TLS inside.")
    tls_key: Path | None = Field(default=None, description="PEM private key of this process.")
    tls_ca: Path | None = Field(default=None, description="PEM authority that every peer's certificate must chain to.")
    tls_peer_name: str = Field(
        default="",
        description="DNS name that every certificate of the deployment carries: peers are known by it, at whatever "
        "address. Empty: a peer's certificate must carry the address at which it is reached. The three files may be "
        "replaced at any time; connections made from then on use the new ones.",
    )
    otlp_endpoint: str = Field(
        default="",
        description="OpenTelemetry collector that takes OTLP over HTTP, such as http://127.0.0.1:4318, for traces of "
        "requests (router and worker; needs the extra `otel`). Empty: nothing is traced.",
    )
    trace_sample: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of requests that are traced, of those that bring no trace of their own; of the others, "
        "those whose traceparent says so.",
    )
    parent_pid: int = Field(
        default=0,
        ge=0,
        description="Stop when this process is gone (Linux), so that a killed supervisor leaves no orphans; 0: never.",
    )


def variable_name(field: str) -> str:
    return PREFIX + field.upper()
