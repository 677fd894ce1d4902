"""A router's data path without a socket, a route feed or a replica: for tests of what clients' connections cost."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.model import RouteTable
from router.compose import compose
from router.path.inbound.clients import Clients
from router.settings import RouterSettings


def make_clients() -> Clients:
    """On the running loop."""
    settings = RouterSettings(route_feeds="localhost:1", keepalive_s=1000.0, idle_timeout_s=90.0)
    router = compose(settings, CollectorRegistry(), PeerCredential.from_token("t" * 43), None)
    router.board.swap(RouteTable())
    return router.clients
