"""Composes the router: feed, board, core, upstreams, ingresses; and takes them down in order."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from berth.process import run
from berth.settings import SettingsError, environment
from router.settings import RouterSettings

log = structlog.get_logger(__name__)

# A live feed brings the table within milliseconds; only when none is there does the one on disk count.
_FEED_GRACE = 1.0


class Ports(NamedTuple):
    rest: int
    grpc: int
    admin: int


async def serve(
    settings: RouterSettings, stop: asyncio.Event, on_listening: Callable[[Ports], None] = lambda _: None
) -> None:
    """Route requests until `stop` is set, then drain. `on_listening` is told the ports once clients may come."""
    from berth.admin import serve_admin
    from berth.auth.peer import PeerCredential
    from router.board import RouteBoard
    from router.call import Wire
    from router.core.admission import Admission
    from router.core.attempts import Rules
    from router.core.budget import Budget
    from router.core.selection import Selection
    from router.forward import Forwarder
    from router.grpc_upstream import open_grpc
    from router.ingress_grpc import GrpcIngress, GrpcLimits, serve_grpc
    from router.ingress_rest import RestIngress, RestLimits, serve_rest
    from router.metrics import RouterMetrics
    from router.record import Recorder
    from router.rest_upstream import open_rest
    from router.route_feed import RouteFeed
    from router.table_file import keep_table, load_table
    from router.upstreams import Upstreams

    credential = PeerCredential.from_settings(settings)
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    dice = random.Random()
    board = RouteBoard()
    selection = Selection()
    upstreams = Upstreams({Wire.REST: open_rest(credential), Wire.GRPC: open_grpc(credential)})
    board.watch(selection.retain)
    board.watch(upstreams.retain)
    forwarder = Forwarder(
        board=board,
        upstreams=upstreams,
        selection=selection,
        admission=Admission(settings.max_in_flight),
        budget=Budget(share=settings.extra_load, now=asyncio.get_running_loop().time()),
        rules=Rules(hedge_after=settings.hedge_delay_ms / 1000.0, patience=settings.patience_s),
        metrics=metrics,
        dice=dice,
    )
    recorder = Recorder(metrics, settings.access_log_sample, dice)
    rest = RestIngress(
        forwarder,
        recorder,
        RestLimits(
            max_body_bytes=settings.max_body_bytes,
            body_timeout_s=settings.body_timeout_s,
            default_timeout_s=settings.default_timeout_s,
            max_timeout_s=settings.max_timeout_s,
        ),
    )
    grpc_limits = GrpcLimits(settings.max_body_bytes, settings.default_timeout_s, settings.max_timeout_s)
    grpc = GrpcIngress(forwarder, recorder, grpc_limits)
    feed = RouteFeed(settings.feeds, board, credential, name=settings.instance, metrics=metrics)

    def readiness() -> str | None:
        if stop.is_set():
            return "stopping"
        return None if board.ready else "no route table yet"

    refused: SettingsError | None = None
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(feed.run(), name="feed")]
        closer = tasks.create_task(upstreams.run(), name="upstreams")
        try:
            async with AsyncExitStack() as stack:
                admin_port = await stack.enter_async_context(serve_admin(settings.admin_address, readiness, registry))
                if settings.state_dir is not None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_FEED_GRACE):
                            await board.next_change.wait()
                    if not board.ready and (saved := load_table(settings.state_dir)) is not None:
                        log.warning("no route feed answers: serving from the table on disk", models=len(saved.models))
                        board.swap(saved)
                    background.append(tasks.create_task(keep_table(board, settings.state_dir), name="table file"))
                rest_port, runner = await stack.enter_async_context(
                    serve_rest(rest, settings.http_address, drain_s=settings.drain_s)
                )
                grpc_port, server = await stack.enter_async_context(
                    serve_grpc(grpc, settings.grpc_address, grpc_limits)
                )
                log.info("listening", rest_port=rest_port, grpc_port=grpc_port, admin_port=admin_port)
                on_listening(Ports(rest_port, grpc_port, admin_port))
                await stop.wait()
                rest.drain()
                grpc.drain()
                # Both at once; the feed and the upstreams live until the last request has ended.
                async with asyncio.TaskGroup() as drains:
                    drains.create_task(runner.cleanup())
                    drains.create_task(server.stop(settings.drain_s))
        except SettingsError as error:
            # Raised below, bare: the group would wrap it.
            refused = error
        finally:
            for task in (*background, closer):
                task.cancel()
    if refused is not None:
        raise refused


def main() -> None:
    sys.exit(run("router", RouterSettings, serve, environment(), sys.argv[1:]))


if __name__ == "__main__":
    main()
