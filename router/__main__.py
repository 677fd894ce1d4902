"""Composes the router: feed, board, core, upstreams, ingresses; and takes them down in order."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from berth.process import run
from berth.settings import SettingsError, environment, variable_name
from router import memory
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
    from berth.tracing import open_tracing
    from router.connection.common import Common
    from router.connection.dialer import Dialer
    from router.connection.ledger import Ledger
    from router.connection.strangers import Strangers
    from router.control.board import RouteBoard
    from router.control.core_metrics import CoreMetrics
    from router.control.debug import Debug
    from router.control.metrics import RouterMetrics
    from router.control.model_metrics import SECONDS, ModelMetrics
    from router.control.route_feed import RouteFeed
    from router.control.table_file import keep_table, load_table
    from router.control.wishes import Wishes
    from router.core.accounts import Bounds
    from router.core.admission import Admission
    from router.core.attempts import Rules
    from router.core.budget import Budgets, Scale
    from router.core.hedging import ADAPTIVE, Hedging
    from router.core.latency import Latencies
    from router.core.selection import Selection
    from router.core.tallies import Tallies
    from router.listening.listener import client_certificates, client_tls, listen, share
    from router.path.answering.answers import AnswersKept
    from router.path.call import Wire
    from router.path.gate import Gate
    from router.path.inbound.service import Limits, Service
    from router.path.race.forward import Forwarder
    from router.path.upstream.grpc import open_grpc
    from router.path.upstream.pools import Upstreams
    from router.path.upstream.rest import open_rest
    from router.path.watchers.record import Recorder
    from router.path.watchers.trace import Traces
    from router.tfserving.answering import TfServing

    credential = PeerCredential.from_settings(settings)
    tracing = open_tracing(settings, "router")
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    dice = random.Random()
    board = RouteBoard(settings.others)
    selection = Selection(settings.zone)
    latencies = Latencies(settings.hedge_share)
    hedging = Hedging(
        selection, ADAPTIVE if settings.hedge_delay_ms == "auto" else float(settings.hedge_delay_ms) / 1000.0
    )
    budgets = Budgets(
        Scale(share=settings.extra_load, hedge_share=settings.hedge_share), now=asyncio.get_running_loop().time()
    )
    CoreMetrics(registry, hedging, selection, budgets)
    tallies = Tallies(settings.metrics_models, settings.metrics_series, SECONDS)
    ModelMetrics(registry, tallies)
    debug = Debug(board, selection, latencies, hedging, budgets)
    dialer = Dialer(Common(asyncio.get_running_loop(), Ledger(settings.max_buffered_bytes)), credential)
    beyond = Dialer(dialer.common, Strangers(settings.other_cells_tls), settings.cell)
    upstreams = Upstreams({Wire.REST: open_rest(dialer, beyond), Wire.GRPC: open_grpc(dialer, beyond)})
    board.watch(selection.retain)
    board.watch(upstreams.retain)
    wishes = Wishes()
    admission = Admission(
        settings.max_in_flight,
        queue=Bounds(settings.queue_requests, settings.queue_bytes, settings.queue_wait_s),
        hold=Bounds(settings.cold_hold_requests, settings.cold_hold_bytes, settings.cold_hold_s),
    )
    metrics.in_flight.set_function(lambda: admission.under_way)
    gate = Gate(board, admission, wishes, metrics)
    forwarder = Forwarder(
        board=board,
        upstreams=upstreams,
        selection=selection,
        gate=gate,
        budgets=budgets,
        latencies=latencies,
        hedging=hedging,
        rules=Rules(patience=settings.patience_s),
        metrics=metrics,
        tallies=tallies,
        dice=dice,
        kept=AnswersKept(settings.cache_bytes, settings.cache_ttl_s, board, metrics) if settings.cache_bytes else None,
        traces=None if tracing is None else Traces(tracing),
        tied=settings.hedge_tied,
    )
    tfserving = TfServing(forwarder, min(settings.tfserving_body_bytes, settings.max_body_bytes))
    service = Service(
        dialer,
        forwarder,
        tfserving,
        Recorder(registry, settings.access_log_sample, dice),
        Limits.of(settings),
        registry,
    )
    shown = client_certificates(settings.client_tls_cert, settings.client_tls_key)
    tls = None if shown is None else client_tls(shown)
    credential.register(registry, **({} if shown is None else {"clients": shown}))
    feed = RouteFeed(settings.feeds, board, credential, name=settings.instance, metrics=metrics, wishes=wishes)

    def readiness() -> str | None:
        if stop.is_set():
            return "stopping"
        return None if board.ready else "no route table yet"

    refused: SettingsError | None = None
    async with asyncio.TaskGroup() as tasks:
        dialer.tasks = beyond.tasks = service.tasks = tasks
        background = [tasks.create_task(feed.run(), name="feed")]
        closer = tasks.create_task(upstreams.run(), name="upstreams")
        try:
            async with AsyncExitStack() as stack:
                if tracing is not None:
                    stack.push_async_callback(tracing.close)
                stack.callback(forwarder.close)
                stack.callback(gate.close)
                stack.callback(tfserving.close)
                admin_port = await stack.enter_async_context(
                    serve_admin(
                        settings.admin_address,
                        readiness,
                        registry,
                        documents={"/debug/routes": debug.routes, "/debug/hedging": debug.hedges},
                        credential=credential,
                    )
                )
                if settings.state_dir is not None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_FEED_GRACE):
                            await board.next_change.wait()
                    if not board.ready and (saved := load_table(settings.state_dir)) is not None:
                        log.warning("no route feed answers: serving from the table on disk", models=len(saved.models))
                        board.swap(saved)
                    background.append(tasks.create_task(keep_table(board, settings.state_dir), name="table file"))
                stack.callback(service.close)
                inherited = settings.inherited
                listening = await stack.enter_async_context(
                    listen(service, settings.http_address, settings.grpc_address, tls=tls)
                    if inherited is None
                    else share(service, inherited, lambda: readiness() is None, tls=tls)
                )
                service.start()
                log.info("listening", rest_port=listening.rest, grpc_port=listening.grpc, admin_port=admin_port)
                on_listening(Ports(listening.rest, listening.grpc, admin_port))
                await stop.wait()
                # First no new connections, so that clients who are told to go connect elsewhere.
                listening.close()
                await service.drain(settings.drain_s)
        except SettingsError as error:
            # Raised below, bare: the group would wrap it.
            refused = error
        finally:
            for task in (*background, closer):
                task.cancel()
    if refused is not None:
        raise refused


def main() -> None:
    environ, arguments = dict(environment()), sys.argv[1:]
    if arguments[:1] == ["--processes"]:
        # The one setting that is given by hand often enough.
        environ[variable_name("processes")] = "".join(arguments[1:2])
        arguments = arguments[2:]

    async def serve_or_supervise(settings: RouterSettings, stop: asyncio.Event) -> None:
        if settings.processes > 1:
            from router.processes import supervise

            await supervise(environ, settings, stop)
        else:
            await serve(settings, stop, _on_listening(settings))

    sys.exit(run("router", RouterSettings, serve_or_supervise, environ, arguments, _loop_factory()))


def _on_listening(settings: RouterSettings) -> Callable[[Ports], None]:
    def act(ports: Ports) -> None:
        memory.keep_freed()
        memory.settle()
        if settings.shared_ports:
            # The parent is waiting for this line.
            print(json.dumps(ports._asdict()), flush=True)

    return act


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
