"""Who this replica is, and where its peers reach it."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from berth.errors import InvalidArgument
from berth.ids import check_name
from berth.model import ReplicaAddress
from berth.settings import SettingsError
from worker.settings import WorkerSettings


class OpenPorts(NamedTuple):
    control: int
    grpc: int
    http: int


def own_address(settings: WorkerSettings, ports: OpenPorts) -> ReplicaAddress:
    """The address of this life of the replica. Raises `SettingsError` if it cannot be said where it is."""
    return ReplicaAddress(
        replica=settings.instance,
        job=settings.job,
        cell=settings.cell,
        incarnation=secrets.token_hex(8),
        control=_reachable(settings, settings.control_address, ports.control),
        grpc=_reachable(settings, settings.grpc_address, ports.grpc),
        http=_reachable(settings, settings.http_address, ports.http),
        zone=settings.zone,
    )


def check_instance(instance: str) -> None:
    """The name becomes a file in the registry and a header in answers. Raises `SettingsError`."""
    try:
        check_name("instance", instance)
    except InvalidArgument as error:
        raise SettingsError(f"BERTH_INSTANCE: {error.detail}") from None


def _reachable(settings: WorkerSettings, address: str, port: int) -> str:
    """Where peers reach the listener on `address`. Raises `SettingsError` if that only says "everywhere"."""
    host = (settings.advertise_host or address.rpartition(":")[0]).strip("[]")
    if host in ("", "0.0.0.0", "::"):
        raise SettingsError(f"BERTH_ADVERTISE_HOST: needed, since {address} is no address to be reached at")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
