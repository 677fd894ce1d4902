"""The kind of gRPC request that a head begins, and the fields that concern this one request."""

from __future__ import annotations

import math

from berth.errors import InvalidArgument
from berth.headers import GRPC_TIMEOUT, REQUEST_ID
from berth.http.grpc.timeouts import parse_timeout
from berth.http.head import RequestHead
from router.path import fields as of
from router.path.inbound.grpc import GrpcInbound, GrpcPlan
from router.path.inbound.grpc_stream import GrpcStream
from router.path.inbound.inbound import Client, Inbound
from router.path.said import request_id_is_good


def accept(client: Client, stream_id: int, head: RequestHead) -> Inbound:
    """A request whose head has come."""
    terms = client.terms
    base = head.base
    tail = head.fields[len(base.fields) :]
    for name, _ in tail:
        if name not in of.VARIABLE:
            base, tail = head, ()
            break
    plan = base.derived
    if type(plan) is not GrpcPlan:
        plan = base.derived = GrpcPlan(terms, base)
    request_id, timeout, trace = plan.request_id, plan.timeout, plan.trace
    for name, value in tail:
        if name == REQUEST_ID:
            request_id = value
        elif name == GRPC_TIMEOUT:
            timeout = value
        else:
            trace = (*trace, (name, value))
    inbound: GrpcInbound = GrpcStream(plan, client, stream_id) if plan.streams else GrpcInbound(plan, client, stream_id)
    inbound.trace = trace
    inbound.started = now = client.common.loop.time()
    given = request_id is not None and request_id_is_good(request_id)
    inbound.request_id = request_id if given and request_id is not None else terms.ids.new()
    if timeout is None:
        inbound.deadline = math.inf if plan.streams else now + terms.limits.default_timeout_s
    else:
        try:
            inbound.deadline = now + min(parse_timeout(timeout), terms.limits.max_timeout_s)
        except ValueError as error:
            inbound.refused(InvalidArgument(str(error)))
            return inbound
    if plan.error is not None:
        inbound.give(plan.error)
    return inbound
