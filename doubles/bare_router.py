"""A router's data path without a socket, a route feed or a replica: for tests of what clients' connections cost."""

from __future__ import annotations

import asyncio
import random

from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.model import RouteTable
from router.connection.common import Common
from router.connection.dialer import Dialer
from router.connection.ledger import Ledger
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.wishes import Wishes
from router.core.admission import Admission
from router.core.attempts import Rules
from router.core.budget import Budgets
from router.core.hedging import Hedging
from router.core.latency import Latencies
from router.core.selection import Selection
from router.core.tallies import Tallies
from router.path.gate import Gate
from router.path.inbound.service import Limits, Service
from router.path.race.forward import Forwarder
from router.path.upstream.pools import Upstreams
from router.path.watchers.record import Recorder
from router.settings import RouterSettings
from router.tfserving.answering import TfServing


def make_service() -> Service:
    """On the running loop."""
    settings = RouterSettings(route_feeds="localhost:1", keepalive_s=1000.0, idle_timeout_s=90.0)
    loop, registry = asyncio.get_running_loop(), CollectorRegistry()
    dialer = Dialer(Common(loop, Ledger(2**20)), PeerCredential.from_token("t" * 43))
    board, selection, metrics = RouteBoard(), Selection(), RouterMetrics(registry)
    board.swap(RouteTable())
    forwarder = Forwarder(
        board=board,
        upstreams=Upstreams({}),
        selection=selection,
        gate=Gate(board, Admission(10), Wishes(), metrics),
        budgets=Budgets(),
        latencies=Latencies(0.015),
        hedging=Hedging(selection),
        rules=Rules(),
        metrics=metrics,
        tallies=Tallies(0, 0, ()),
        dice=random.Random(),
    )
    recorder = Recorder(registry, 0.0, random.Random())
    return Service(dialer, forwarder, TfServing(forwarder, 2**20), recorder, Limits.of(settings), registry)
