"""A table of 100,000 models: how fast it answers, how soon a change in it is seen, what a model weighs."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from dataclasses import replace
from random import Random, random

from bench.results import Row
from bench.rig import Router
from berth.auth.keys import digest
from berth.ids import ModelKey
from berth.model import ApiKey, ModelRoute, Order, ReplicaAddress, RouteDelta, RouteTable, Serving, VersionRoute
from berth.route_delta import apply_delta, snapshot
from berth.states import Role
from berth.wire.convert import delta_from_wire, delta_to_wire
from berth.wire.v1 import routes_pb2
from router.core.routes import Routes

_JOBS, _REPLICAS, _TENANTS = 100, 2, 1000


def table_of_many(models: int, order: Order) -> RouteTable:
    """So many models of a thousand tenants, each on two replicas of one of a hundred jobs."""
    replicas = {}
    for job in range(_JOBS):
        for number in range(_REPLICAS):
            name = f"job-{job}-{number}"
            address = f"127.0.0.1:{10_000 + 2 * job + number}"
            replicas[name] = ReplicaAddress(name, f"job-{job}", "local", f"{name}-1", address, address, address)
    names = list(replicas)
    routes = {}
    for number in range(models):
        key = ModelKey(f"tenant-{number % _TENANTS}", f"model-{number}")
        at = number % _JOBS * _REPLICAS
        routes[key] = ModelRoute(
            key, Serving.only(1, {"stable": 1}), (VersionRoute(1, tuple(names[at : at + _REPLICAS])),)
        )
    keys = [ApiKey(digest(f"key-{number}"), f"tenant-{number}", Role.DEVELOPER) for number in range(_TENANTS)]
    return RouteTable(order, routes, replicas, {key.sha256: key for key in keys})


def measure_lookups(models: int) -> list[Row]:
    """In this process: rate of `resolve`, and bytes per model of a table that came over the wire."""
    wire = delta_to_wire(snapshot(table_of_many(models, Order(1, 1)))).SerializeToString()
    gc.collect()
    tracemalloc.start()
    delta = delta_from_wire(routes_pb2.RouteDelta.FromString(wire))
    table = apply_delta(RouteTable(), delta)
    del delta
    gc.collect()
    weight, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    hashes = [digest(f"key-{number}") for number in range(_TENANTS)]
    asked = [(hashes[number % _TENANTS], f"model-{number}", "") for number in range(models)]
    Random(1).shuffle(asked)
    routes = Routes(table, dice=random)
    first = _rate(routes, asked)
    again = statistics.median(_rate(routes, asked) for _ in range(5))
    size = f"{models:,} models"
    return [
        Row(f"{size}: lookups", again / 1e6, "M/s", 1.0, "higher", {"first after a change": first / 1e6}),
        Row(f"{size}: memory per model", weight / models, "bytes", 1024, "lower"),
    ]


async def measure_updates(router: Router, models: int, rounds: int) -> list[Row]:
    """In the router's process, through the feed: from sending the change of one model to its acknowledgement."""
    order = Order(1, 1000)
    table = table_of_many(models, order)
    began = time.perf_counter()
    await router.route(table)
    whole = time.perf_counter() - began
    took = []
    for number in range(max(rounds, 5)):
        key = ModelKey(f"tenant-{number}", f"model-{number}")
        changed = replace(table.models[key], serving=Serving.only(1, {"stable": 1, "canary": 1}))
        following = Order(1, order.generation + 1)
        began = time.perf_counter()
        await router.send(RouteDelta(base=order.generation, order=following, models=(changed,)))
        took.append(time.perf_counter() - began)
        order = following
    size = f"{models:,} models"
    return [
        Row(f"{size}: change of one model seen by the router", statistics.median(took) * 1000.0, "ms", 50.0),
        Row(f"{size}: whole table seen by the router", whole * 1000.0, "ms"),
    ]


def _rate(routes: Routes, asked: list[tuple[bytes, str, str]]) -> float:
    resolve = routes.resolve
    began = time.perf_counter()
    for key, model, version in asked:
        resolve(key, model, version)
    return len(asked) / (time.perf_counter() - began)
