"""Puts the synchronizer's parts together and runs them: the one composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from berth.composition import Composition, composing
from berth.registry import LocalRegistry
from synchronizer.cell.running import running
from synchronizer.controllers.client import GrpcControllers
from synchronizer.replay.recording import Write, history_file
from synchronizer.routers.feed import serve_routes
from synchronizer.settings import SynchronizerSettings
from synchronizer.state_dir import StateDir
from synchronizer.surroundings.ports import Surroundings
from synchronizer.surroundings.registry import RegistryDiscovery
from synchronizer.workers.streams import GrpcWorkers

log = structlog.get_logger(__name__)


async def run(settings: SynchronizerSettings, stop: asyncio.Event) -> None:
    """Run until `stop`; a part that ends unasked ends it with an error. Raises `SettingsError`."""
    async with composing(settings, stop) as process:
        process.credential.register(process.registry)
        controllers = GrpcControllers(settings.controller_addresses, process.credential)
        process.at_end(controllers.close)
        state = StateDir(settings.state_dir)
        process.hold(state.locked())
        around = await process.open(_surroundings(settings, controllers, state, process))
        workers = GrpcWorkers(process.credential)
        record = _open_history(process, settings)
        cell = await process.open(
            running(
                settings,
                state,
                controllers,
                workers=workers,
                around=around,
                registry=process.registry,
                record=record,
            )
        )
        port = await process.open(serve_routes(cell.publisher, settings.route_feed_address, process.credential))
        admin = await process.serve_admin(cell.not_ready)
        log.info("listening", route_feed_port=port, admin_port=admin)
        await stop.wait()


def _open_history(process: Composition, settings: SynchronizerSettings) -> Write | None:
    """What takes the lines of the cell's history, if it is to be recorded."""
    if settings.history_dir is None:
        return None
    return process.hold(history_file(settings.history_dir, settings.instance, settings.history_bytes))


@asynccontextmanager
async def _surroundings(
    settings: SynchronizerSettings, controllers: GrpcControllers, state: StateDir, process: Composition
) -> AsyncIterator[Surroundings]:
    """Those that the settings ask for."""

    def by_registry() -> RegistryDiscovery:
        assert settings.registry_dir is not None, "the settings see to that"
        return RegistryDiscovery(LocalRegistry(settings.registry_dir), settings.cell)

    if "kubernetes" not in (settings.discovery, settings.lease):
        yield Surroundings(by_registry())
        return
    # An extra: only who uses a cluster needs its client.
    from synchronizer.cluster.compose import open_cluster

    async with open_cluster(settings, controllers, state, process.registry, otherwise=by_registry) as cluster:
        yield cluster
