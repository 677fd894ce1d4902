"""The router's settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from berth.errors import InvalidArgument
from berth.ids import check_name
from berth.model import ReplicaAddress
from berth.settings import ProcessSettings
from router.core.routes import router_of


class Inherited(NamedTuple):
    """A parent with several processes gives each of them descriptors of its two listening sockets and of the memory
    with the seats (`router.listening.seats`), and the number of a seat."""

    rest: int
    grpc: int
    seats: int
    seat: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class RouterSettings(ProcessSettings):
    http_address: str = Field(default="127.0.0.1:8000", description="host:port for clients over REST.")
    grpc_address: str = Field(default="127.0.0.1:8001", description="host:port for clients over gRPC.")
    route_feeds: str = Field(description="Route feeds of the cell's synchronizers: host:port, comma-separated.")
    other_cells: str = Field(
        default="",
        description="Routers of other cells, which answer what this cell cannot: CELL=HOST:PORT/HOST:PORT, their ports "
        "for clients over REST and gRPC, comma-separated, the preferred one first. They are sent the client's own key.",
    )
    other_cells_tls: str = Field(
        default="",
        description="How the routers of other cells are reached. Empty: in cleartext. system: over TLS, their "
        "certificates verified with the machine's authorities. Else a PEM file of authorities that they are verified "
        "with. Certificates must carry the names in other_cells.",
    )
    state_dir: Path | None = Field(
        default=None,
        description="Folder that keeps the last route table, so that a router that restarts while the control plane "
        "is down can serve. Holds hashes of keys, never keys. Unset: nothing is kept.",
    )
    hedge_delay_ms: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="A second copy goes to another replica when the first has not answered after this many "
        "milliseconds; 0: never. auto: after what only hedge_share of the requests of that version and size take.",
    )
    hedge_share: float = Field(
        default=0.015,
        gt=0,
        le=0.5,
        description="Share of requests that may get such a second copy; part of extra_load.",
    )
    hedge_tied: bool = Field(
        default=False,
        description="Tie the two copies: the replica that comes to compute one first says so, and the other is "
        "withdrawn if it still waits. Saves work where replicas queue; costs a message for each hedgeable request.",
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
    tfserving_body_bytes: int = Field(
        default=8 * 2**20,
        gt=0,
        description="Largest body, bytes, of TensorFlow Serving's REST surface: its JSON is translated here, which "
        "takes several times the body in memory.",
    )
    cache_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory, bytes, for answers that are given again to the same request of the same tenant for the "
        "same version; 0: none are kept. Only for deployments whose models always answer alike.",
    )
    cache_ttl_s: float = Field(default=300.0, gt=0, description="How long, s, an answer is kept.")
    max_in_flight: int = Field(
        default=1024, gt=0, description="Requests under way at once in this process; more wait for their turn."
    )
    queue_requests: int = Field(
        default=1024,
        ge=0,
        description="Requests that may wait for their turn, of all tenants; one tenant alone can have half. 0: none "
        "waits.",
    )
    queue_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Bytes of the bodies of the requests that wait for their turn."
    )
    queue_wait_s: float = Field(
        default=1.0,
        ge=0,
        description="Longest wait, s, for a turn; then 503. A queue absorbs bursts; a longer one only adds delay.",
    )
    cold_hold_s: float = Field(
        default=5.0,
        ge=0,
        description="How long, s, a request for a version that is assigned but not loaded waits for it; then 503. "
        "0: it is refused at once.",
    )
    cold_hold_requests: int = Field(
        default=256,
        ge=0,
        description="Requests that may wait for versions to be loaded, of all tenants; one tenant alone can have half.",
    )
    cold_hold_bytes: int = Field(
        default=128 * 2**20, ge=0, description="Bytes of the bodies of the requests that wait for versions."
    )
    patience_s: float = Field(
        default=1.0,
        ge=0,
        description="How long, s, a request waits for a replica when connections to all of them fail: a restart "
        "shorter than this goes unnoticed.",
    )
    metrics_models: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Models that get latency histograms of their own, by version, replica and outcome: the first ones "
        "that are asked for; the others count as 'other'. 0: no metric names a tenant or a model.",
    )
    metrics_series: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Pairs of a version and a replica that get histograms of their own; for what has no room, both "
        "labels are 'other'. A pair that is not used for ten minutes gives its place to another.",
    )
    drain_s: float = Field(default=10.0, ge=0, description="How long, s, requests under way may take at shutdown.")
    max_connections: int = Field(
        default=10_000, gt=0, description="Clients connected at once to this process; more are turned away."
    )
    max_buffered_bytes: int = Field(
        default=512 * 2**20,
        gt=0,
        description="Bytes of bodies that this process keeps: requests, and answers that wait for slow readers. Above "
        "it, requests whose bodies are still on their way are refused with 503.",
    )
    head_timeout_s: float = Field(
        default=10.0, gt=0, description="Time, s, in which the head of a request must arrive once it has begun."
    )
    idle_timeout_s: float = Field(
        default=90.0,
        gt=0,
        description="A connection without a request for so long, s, is closed (HTTP/2: told to go). Clients keep idle "
        "connections about a minute; closing later than they do loses no request.",
    )
    keepalive_s: float = Field(
        default=30.0, gt=0, description="After so much silence, s, an HTTP/2 client is asked whether it is still there."
    )
    client_tls_cert: Path | None = Field(
        default=None, description="PEM certificate for clients; with client_tls_key, both ports speak TLS."
    )
    client_tls_key: Path | None = Field(default=None, description="PEM private key of client_tls_cert.")
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Router processes that share the clients' ports; a connection goes to the one that has the fewest. "
        "Each one has the limits of this page for itself.",
    )
    shared_ports: str = Field(
        default="",
        pattern=r"^(\d+,\d+,\d+,\d+)?$",
        description="Open files that a process shares with its siblings, and its number among them; `processes` sets "
        "it.",
    )
    access_log_sample: float = Field(default=0.0, ge=0, le=1, description="Share of requests that are logged.")

    @field_validator("route_feeds")
    @classmethod
    def _has_feeds(cls, value: str) -> str:
        feeds = _split(value)
        if not feeds or any(":" not in feed for feed in feeds):
            raise ValueError("at least one host:port is expected")
        return value

    @model_validator(mode="after")
    def _knows_other_cells(self) -> Self:
        if self.cell in self.others:
            raise ValueError(f"BERTH_OTHER_CELLS: {self.cell} is the router's own cell")
        return self

    @property
    def others(self) -> dict[str, ReplicaAddress]:
        """The routers of other cells, in order of preference."""
        found: dict[str, ReplicaAddress] = {}
        for entry in _split(self.other_cells):
            cell, _, ports = entry.partition("=")
            rest, _, grpc = ports.partition("/")
            if not (_is_address(rest) and _is_address(grpc)):
                raise ValueError(f"BERTH_OTHER_CELLS: CELL=HOST:PORT/HOST:PORT is expected, not {entry[:200]!a}")
            try:
                check_name("cell", cell)
            except InvalidArgument as error:
                raise ValueError(f"BERTH_OTHER_CELLS: {error.detail}") from None
            if cell in found:
                raise ValueError(f"BERTH_OTHER_CELLS: {cell} is there twice")
            found[cell] = router_of(cell, rest, grpc)
        return found

    @property
    def feeds(self) -> tuple[str, ...]:
        return _split(self.route_feeds)

    @property
    def inherited(self) -> Inherited | None:
        return Inherited(*map(int, _split(self.shared_ports))) if self.shared_ports else None


def _is_address(value: str) -> bool:
    """Whether it is host:port; an IPv6 address is in brackets."""
    host, _, port = value.rpartition(":")
    plain = re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host) is not None
    return plain and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())
