"""Puts the controller's parts together and runs them: the one composition root, used by `__main__` and by tests."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

from berth.artifacts.opening import open_store
from berth.artifacts.store import ArtifactStore
from berth.auth.certificates import Certificates, TlsFiles
from berth.auth.contexts import RotatingContext
from berth.composition import Composition, composing
from berth.settings import SettingsError, environment
from berth.wake import Wake
from berth.wire.v1 import desired_pb2_grpc
from controller.api import external_metrics
from controller.api.app import build_app
from controller.api.calls import Services
from controller.api.metrics import ApiMetrics
from controller.api.server import bind, serve
from controller.api.version_views import render_version
from controller.database import open_database
from controller.desired_hub import DesiredHub
from controller.feed import DesiredFeed
from controller.intake.composition import compose_intake
from controller.intake.inspection import Inspector
from controller.intake.steps import Tools
from controller.leadership import SoleLeadership
from controller.listen import DatabaseListener
from controller.loops.autoscaler import Autoscaler
from controller.loops.housekeeping import Housekeeping
from controller.loops.pools_file import PoolsFile
from controller.loops.rollouts import RolloutLoop
from controller.settings import ControllerSettings
from controller.store.transaction import CHANNEL_DESIRED, CHANNEL_EVENTS, Transactions

log = structlog.get_logger(__name__)

_FEED_GRACE_S = 1.0


@dataclass(slots=True)
class ControllerPorts:
    """Where the controller listens, once `ready` is set."""

    rest: int = 0
    feed: int = 0
    metrics: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


async def run(settings: ControllerSettings, stop: asyncio.Event, ports: ControllerPorts | None = None) -> None:
    """Run until `stop` is set. Raises `SettingsError` for what can only be wrong settings."""
    async with composing(settings, stop) as process:
        artifacts = _open_artifacts(settings)
        spool = _folder(settings.spool_dir)
        external = _bind_external_metrics(process, settings)
        listener = process.hold(bind(settings.rest_address))
        transactions = await open_database(process, settings)
        changes = DatabaseListener(settings.database_url, (CHANNEL_DESIRED, CHANNEL_EVENTS))
        hub = DesiredHub(transactions, changes.wakes[CHANNEL_DESIRED])
        rollouts = RolloutLoop(transactions, process.registry)
        # A restarted process is another holder: it remembers nothing.
        holder = f"{settings.instance}/{uuid.uuid4().hex[:8]}"
        receiving, resuming = compose_intake(
            Tools(
                transactions=transactions,
                artifacts=artifacts,
                inspect=Inspector().inspect,
                render=render_version,
                placed=rollouts.add,
                spool=spool,
                max_artifact_bytes=settings.max_artifact_bytes,
            ),
            holder,
            process.registry,
        )
        services = Services(
            transactions=transactions,
            receive=receiving.receive,
            changed=rollouts.add,
            events=changes.wakes[CHANNEL_EVENTS],
            closing=stop,
            metrics=ApiMetrics(process.registry),
            max_artifact_bytes=settings.max_artifact_bytes,
        )
        app = build_app(services, process.registry, _readiness(transactions, stop), pause_s=settings.body_pause_s)
        servicer = DesiredFeed(transactions, hub, rollouts.add, process.registry)
        feed_port = await _serve_feed(process, settings.feed_address, servicer)
        process.beside("listen", changes.run())
        process.beside("desired", hub.run())
        process.beside("rollouts", rollouts.run())
        process.beside("uploads", resuming.run())
        process.beside("closing", _wake_at_end(stop, services.events))
        process.beside("housekeeping", Housekeeping(transactions, artifacts, spool).run())
        leadership = SoleLeadership(transactions, "autoscaler", holder)
        process.beside("autoscaler", Autoscaler(transactions, leadership, process.registry).run())
        if settings.pools_file is not None:
            leadership = SoleLeadership(transactions, "pools-file", holder)
            pools = PoolsFile(settings.pools_file, transactions, leadership, process.registry)
            process.beside("pools-file", pools.run())
        if external is not None:
            metrics_app = external_metrics.build(transactions)
            process.beside("external metrics", serve(metrics_app, external.listener, stop, external.tls))
        if ports is not None:
            ports.rest, ports.feed = _port_of(listener), feed_port
            ports.metrics = 0 if external is None else _port_of(external.listener)
            ports.ready.set()
        log.info("serving", rest=_port_of(listener), feed=feed_port)
        await serve(app, listener, stop)


class _ExternalMetrics(NamedTuple):
    """Where the external metrics API is served, and to whom."""

    listener: socket.socket
    tls: RotatingContext


def _bind_external_metrics(process: Composition, settings: ControllerSettings) -> _ExternalMetrics | None:
    """None where that API is not asked for. Either way the certificates of this process are watched from now on."""
    certificates = _metrics_certificates(settings)
    if certificates is None:
        process.credential.register(process.registry)
        return None
    process.credential.register(process.registry, **{"external-metrics": certificates})
    names = [name.strip() for name in settings.external_metrics_client_names.split(",") if name.strip()]
    tls = RotatingContext(certificates, server_side=True, common_names=names)
    return _ExternalMetrics(process.hold(bind(settings.external_metrics_address)), tls)


def _metrics_certificates(settings: ControllerSettings) -> Certificates | None:
    """What the external metrics API shows and trusts, where it is served."""
    if not settings.external_metrics_address:
        return None
    cert, key = settings.external_metrics_cert or settings.tls_cert, settings.external_metrics_key or settings.tls_key
    if cert is None or key is None or settings.external_metrics_client_ca is None:
        raise SettingsError(
            "BERTH_EXTERNAL_METRICS_ADDRESS needs BERTH_EXTERNAL_METRICS_CLIENT_CA, and a certificate and key"
        )
    return Certificates(TlsFiles(cert, key, settings.external_metrics_client_ca))


async def _serve_feed(process: Composition, address: str, servicer: DesiredFeed) -> int:
    """Answer synchronizers until the process ends; returns the port."""
    feed = process.credential.grpc_server()
    desired_pb2_grpc.add_DesiredFeedServicer_to_server(servicer, feed)
    port = process.credential.add_port(feed, address)
    await feed.start()
    process.at_end(feed.stop, _FEED_GRACE_S)
    return port


def _readiness(transactions: Transactions, stop: asyncio.Event) -> Callable[[], Awaitable[str | None]]:
    async def readiness() -> str | None:
        await transactions.ping()
        return "stopping" if stop.is_set() else None

    return readiness


async def _wake_at_end(stop: asyncio.Event, events: Wake) -> None:
    """Event streams wait for events: let them see that there will be no more."""
    await stop.wait()
    events.up()


def _open_artifacts(settings: ControllerSettings) -> ArtifactStore:
    # Cloud credentials have names of their own that every tool knows.
    aws = {name: value for name, value in environment().items() if name.startswith("AWS_")}
    return open_store(settings.artifact_store, aws)


def _folder(path: Path | None) -> Path:
    if path is None:
        return Path(tempfile.gettempdir())
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
