"""The parts of a router, made and put together; nothing runs yet."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.tracing import Tracing
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
from router.control.wishes import Wishes
from router.core.accounts import Bounds
from router.core.admission import Admission
from router.core.attempts import Rules
from router.core.budget import Budgets, BudgetScale
from router.core.hedging import ADAPTIVE, Hedging
from router.core.latency import Latencies
from router.core.race import Course
from router.core.selection import Selection
from router.core.tallies import Tallies
from router.path.answering.answering import AnswerChoice
from router.path.answering.kept import AnswersKept
from router.path.gate import Gate
from router.path.inbound.clients import Clients
from router.path.inbound.terms import ClientTerms, InboundLimits
from router.path.race.forward import Forwarder
from router.path.race.means import Means
from router.path.request import Wire
from router.path.upstream.grpc import open_grpc
from router.path.upstream.pools import Upstreams
from router.path.upstream.rest import open_rest
from router.path.watchers.counts import CountsAttempts, CountsModels
from router.path.watchers.record import AnswerRecorder
from router.path.watchers.trace import Traces
from router.path.watchers.watcher import Watcher
from router.settings import RouterSettings
from router.tfserving.answering import TfServing


@dataclass(frozen=True, slots=True)
class Router:
    """What is started, stopped and asked; the rest is held by these."""

    board: RouteBoard
    feed: RouteFeed
    debug: Debug
    upstreams: Upstreams
    forwarder: Forwarder
    tfserving: TfServing
    clients: Clients
    dialers: tuple[Dialer, Dialer]

    def owned_by(self, tasks: asyncio.TaskGroup) -> None:
        """Whatever needs a task of its own makes it there. To be said before the first connection."""
        for dialer in self.dialers:
            dialer.tasks = tasks
        self.clients.terms.tasks = tasks

    def close(self) -> None:
        """Give back threads, timers and connections; nothing is under way."""
        self.tfserving.close()
        self.forwarder.means.gate.close()
        self.forwarder.close()


def compose(
    settings: RouterSettings, registry: CollectorRegistry, credential: PeerCredential, tracing: Tracing | None
) -> Router:
    """Everything but the ports."""
    metrics, dice = RouterMetrics(registry), random.Random()
    board, wishes = RouteBoard(settings.others), Wishes()
    course = _course(settings, registry, dice)
    dialers = _dialers(settings, credential)
    upstreams = Upstreams({Wire.REST: open_rest(*dialers), Wire.GRPC: open_grpc(*dialers)})
    board.watch(course.selection.retain)
    board.watch(upstreams.retain)
    admission = _admission(settings)
    metrics.in_flight.set_function(lambda: admission.under_way)
    gate = Gate(board, admission, wishes, metrics)
    kept = AnswersKept(settings.cache_bytes, settings.cache_ttl_s, board, metrics) if settings.cache_bytes else None
    answering = AnswerChoice(board, metrics, asyncio.get_running_loop().time, kept)
    watchers = _watchers(settings, registry, metrics, tracing)
    forwarder = Forwarder(Means(board, gate, upstreams, course, answering, watchers))
    tfserving = TfServing(forwarder, min(settings.tfserving_body_bytes, settings.max_body_bytes))
    recorder = AnswerRecorder(registry, settings.access_log_sample, dice)
    terms = ClientTerms(forwarder, tfserving, recorder, InboundLimits.of(settings))
    return Router(
        board,
        RouteFeed(settings.feeds, board, credential, name=settings.instance, metrics=metrics, wishes=wishes),
        Debug(board, course.selection, course.latencies, course.hedging, course.budgets),
        upstreams,
        forwarder,
        tfserving,
        Clients(dialers[0].common, terms, registry),
        dialers,
    )


def _course(settings: RouterSettings, registry: CollectorRegistry, dice: random.Random) -> Course:
    """The knowledge of replicas, and the rules of races."""
    selection = Selection(settings.zone)
    delay = ADAPTIVE if settings.hedge_delay_ms == "auto" else float(settings.hedge_delay_ms) / 1000.0
    hedging = Hedging(selection, delay)
    scale = BudgetScale(share=settings.extra_load, hedge_share=settings.hedge_share)
    budgets = Budgets(scale, now=asyncio.get_running_loop().time())
    CoreMetrics(registry, hedging, selection, budgets)
    latencies = Latencies(settings.hedge_share)
    rules = Rules(patience=settings.patience_s)
    return Course(selection, hedging, budgets, latencies, rules, dice, tied=settings.hedge_tied)


def _dialers(settings: RouterSettings, credential: PeerCredential) -> tuple[Dialer, Dialer]:
    """For replicas, and for the routers of other cells."""
    common = Common(asyncio.get_running_loop(), Ledger(settings.max_buffered_bytes))
    return Dialer(common, credential), Dialer(common, Strangers(settings.other_cells_tls), settings.cell)


def _admission(settings: RouterSettings) -> Admission:
    return Admission(
        settings.max_in_flight,
        queue=Bounds(settings.queue_requests, settings.queue_bytes, settings.queue_wait_s),
        hold=Bounds(settings.cold_hold_requests, settings.cold_hold_bytes, settings.cold_hold_s),
    )


def _watchers(
    settings: RouterSettings, registry: CollectorRegistry, metrics: RouterMetrics, tracing: Tracing | None
) -> list[Watcher]:
    tallies = Tallies(settings.metrics_models, settings.metrics_series, SECONDS)
    ModelMetrics(registry, tallies)
    watchers: list[Watcher] = [CountsAttempts(metrics)]
    if tallies.counts:
        watchers.append(CountsModels(tallies))
    if tracing is not None:
        watchers.append(Traces(tracing))
    return watchers
