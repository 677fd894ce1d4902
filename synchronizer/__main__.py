"""`python -m synchronizer`: composes the process."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

import structlog

from berth.process import run
from berth.settings import environment
from synchronizer.settings import SynchronizerSettings

log = structlog.get_logger(__name__)


async def serve(settings: SynchronizerSettings, stop: asyncio.Event) -> None:
    """Run until `stop`; a part that ends unasked ends it with an error."""
    from prometheus_client import CollectorRegistry

    from berth.admin import serve_admin
    from berth.auth.peer import PeerCredential
    from berth.registry import LocalRegistry
    from synchronizer.cell_process import running
    from synchronizer.controllers import GrpcControllers
    from synchronizer.discovery import RegistryDiscovery
    from synchronizer.route_publisher import serve_routes
    from synchronizer.state_dir import StateDir
    from synchronizer.worker_client import GrpcWorkers

    credential = PeerCredential.from_settings(settings)
    registry = CollectorRegistry()
    credential.register(registry)
    async with AsyncExitStack() as stack:
        controllers = GrpcControllers(settings.controller_addresses, credential)
        stack.push_async_callback(controllers.close)
        state = StateDir(settings.state_dir)
        stack.enter_context(state.locked())
        cluster = None
        if "kubernetes" in (settings.discovery, settings.lease):
            from synchronizer.cluster.compose import open_cluster

            cluster = await stack.enter_async_context(open_cluster(settings, controllers, state, registry))
        discovery = cluster.discovery if cluster is not None else None
        if discovery is None:
            assert settings.registry_dir is not None, "the settings see to that"
            discovery = RegistryDiscovery(LocalRegistry(settings.registry_dir), settings.cell)
        cell = await stack.enter_async_context(
            running(
                settings,
                state,
                controllers,
                workers=GrpcWorkers(credential),
                discovery=discovery,
                registry=registry,
                leases=cluster.leases if cluster is not None else None,
                pools=cluster.pools if cluster is not None else None,
            )
        )
        port = await stack.enter_async_context(serve_routes(cell.publisher, settings.route_feed_address, credential))
        admin = await stack.enter_async_context(serve_admin(settings.admin_address, cell.not_ready, registry))
        log.info("listening", route_feed_port=port, admin_port=admin)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(run("synchronizer", SynchronizerSettings, serve, environment(), sys.argv[1:]))
