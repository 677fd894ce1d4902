"""Puts the controller's parts together and runs them: the one composition root, used by `__main__` and by tests."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import structlog
from prometheus_client import CollectorRegistry

from berth.artifacts.opening import open_store
from berth.artifacts.store import ArtifactStore
from berth.auth.certificates import Certificates, TlsFiles
from berth.auth.contexts import RotatingContext
from berth.auth.peer import PeerCredential
from berth.errors import Unavailable
from berth.settings import SettingsError, environment
from berth.wake import Wake
from berth.wire.v1 import desired_pb2_grpc
from controller import migrate
from controller.api import external_metrics
from controller.api.app import build_app
from controller.api.calls import Services
from controller.api.metrics import ApiMetrics
from controller.api.server import bind, serve
from controller.api.version_views import render_version
from controller.autoscaler import Autoscaler
from controller.desired_hub import DesiredHub
from controller.feed import DesiredFeed
from controller.intake.composition import compose_intake
from controller.intake.inspection import Inspector
from controller.intake.steps import Tools
from controller.leadership import Leadership
from controller.listen import DatabaseListener
from controller.loops import Housekeeping, RolloutLoop
from controller.pools import PoolsFile
from controller.settings import ControllerSettings
from controller.store.transaction import CHANNEL_DESIRED, CHANNEL_EVENTS, Transactions
from controller.usecases import keys

log = structlog.get_logger(__name__)

_FEED_GRACE_S = 1.0
_DATABASE_PATIENCE_S = 30.0
_DATABASE_RETRY_S = 0.25


@dataclass(slots=True)
class Ports:
    """Where the controller listens, once `ready` is set."""

    rest: int = 0
    feed: int = 0
    metrics: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


async def run(settings: ControllerSettings, stop: asyncio.Event, ports: Ports | None = None) -> None:
    """Run until `stop` is set. Raises `SettingsError` for what can only be wrong settings."""
    credential = PeerCredential.from_settings(settings)
    artifacts = _open_artifacts(settings)
    spool = _folder(settings.spool_dir)
    metrics_certificates = _metrics_certificates(settings)
    listener = bind(settings.rest_address)
    registry = CollectorRegistry()
    credential.register(
        registry, **({} if metrics_certificates is None else {"external-metrics": metrics_certificates})
    )
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        if metrics_certificates is not None:
            metrics_listener = bind(settings.external_metrics_address)
            stack.callback(metrics_listener.close)
        await _await_database(settings, stop)
        transactions = Transactions(
            settings.database_url,
            registry,
            pool_size=settings.database_connections,
            patience_s=settings.database_patience_s,
        )
        stack.push_async_callback(transactions.close)
        await _accept_bootstrap(transactions, settings.bootstrap_key_file)

        changes = DatabaseListener(settings.database_url, (CHANNEL_DESIRED, CHANNEL_EVENTS))
        hub = DesiredHub(transactions, changes.wakes[CHANNEL_DESIRED])
        rollouts = RolloutLoop(transactions, registry)
        # A restarted process is another holder: it remembers nothing.
        holder = f"{settings.instance}/{uuid.uuid4().hex[:8]}"
        autoscaler = Autoscaler(transactions, Leadership(transactions, "autoscaler", holder), registry)
        feed = credential.grpc_server()
        servicer = DesiredFeed(transactions, hub, rollouts.add, registry)
        desired_pb2_grpc.add_DesiredFeedServicer_to_server(servicer, feed)
        feed_port = credential.add_port(feed, settings.feed_address)
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
            registry,
        )
        services = Services(
            transactions=transactions,
            receive=receiving.receive,
            changed=rollouts.add,
            events=changes.wakes[CHANNEL_EVENTS],
            closing=stop,
            metrics=ApiMetrics(registry),
            max_artifact_bytes=settings.max_artifact_bytes,
        )

        async def readiness() -> str | None:
            await transactions.ping()
            return "stopping" if stop.is_set() else None

        app = build_app(services, registry, readiness, pause_s=settings.body_pause_s)
        await feed.start()
        stack.push_async_callback(feed.stop, _FEED_GRACE_S)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(work, name=name)
                for name, work in (
                    ("listen", changes.run()),
                    ("desired", hub.run()),
                    ("rollouts", rollouts.run()),
                    ("uploads", resuming.run()),
                    ("closing", _wake_at_end(stop, changes.wakes[CHANNEL_EVENTS])),
                    ("housekeeping", Housekeeping(transactions, artifacts, spool).run()),
                    ("autoscaler", autoscaler.run()),
                )
            ]
            if settings.pools_file is not None:
                leadership = Leadership(transactions, "pools-file", holder)
                pools = PoolsFile(settings.pools_file, transactions, leadership, registry)
                background.append(tasks.create_task(pools.run(), name="pools-file"))
            if metrics_certificates is not None:
                metrics_app = external_metrics.build(transactions)
                tls = _front_proxy_only(metrics_certificates, settings)
                background.append(tasks.create_task(serve(metrics_app, metrics_listener, stop, tls)))
            if ports is not None:
                ports.rest, ports.feed = listener.getsockname()[1], feed_port
                ports.metrics = metrics_listener.getsockname()[1] if metrics_certificates is not None else 0
                ports.ready.set()
            log.info("serving", rest=listener.getsockname()[1], feed=feed_port)
            await serve(app, listener, stop)
            for task in background:
                task.cancel()


def _open_artifacts(settings: ControllerSettings) -> ArtifactStore:
    # Cloud credentials have names of their own that every tool knows.
    aws = {name: value for name, value in environment().items() if name.startswith("AWS_")}
    return open_store(settings.artifact_store, aws)


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


def _front_proxy_only(certificates: Certificates, settings: ControllerSettings) -> RotatingContext:
    names = [name.strip() for name in settings.external_metrics_client_names.split(",") if name.strip()]
    return RotatingContext(certificates, server_side=True, common_names=names)


async def _wake_at_end(stop: asyncio.Event, events: Wake) -> None:
    """Event streams wait for events: let them see that there will be no more."""
    await stop.wait()
    events.up()


async def _await_database(settings: ControllerSettings, stop: asyncio.Event) -> None:
    """Migrate, or check that someone has; wait a while for a database that is only starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DATABASE_PATIENCE_S
    while not stop.is_set():
        try:
            await asyncio.to_thread(_migrate, settings)
        except psycopg.OperationalError as error:
            if loop.time() > deadline:
                # Without the reason: libpq's messages may quote the URL.
                raise SettingsError("BERTH_DATABASE_URL: the database cannot be reached") from None
            log.info("waiting for the database", sqlstate=error.sqlstate)
            await asyncio.sleep(_DATABASE_RETRY_S)
        else:
            return


def _migrate(settings: ControllerSettings) -> None:
    if settings.migrate:
        migrate.ensure_current(settings.database_url)
    else:
        migrate.check_current(settings.database_url)


async def _accept_bootstrap(transactions: Transactions, path: Path | None) -> None:
    if path is None:
        return
    try:
        secret = (await asyncio.to_thread(path.read_text, "ascii")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"BERTH_BOOTSTRAP_KEY_FILE: cannot read {path}: {error}") from None
    if len(secret) < 32:
        raise SettingsError(f"BERTH_BOOTSTRAP_KEY_FILE: the key in {path} is shorter than 32 characters")
    try:
        await transactions.run(lambda tx: keys.accept_bootstrap(tx, secret), fleet=True)
    except Unavailable as error:
        raise SettingsError(f"the database failed during start: {error.detail}") from None


def _folder(path: Path | None) -> Path:
    if path is None:
        return Path(tempfile.gettempdir())
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
