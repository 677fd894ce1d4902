"""The answer that a model gives when none comes in time, if it has one."""

from __future__ import annotations

from functools import lru_cache

from berth.headers import DEFAULT_ANSWER_TEXT
from berth.ids import ModelKey
from router.control.board import RouteBoard
from router.core.paths import Operation
from router.path.answer import Reply
from router.path.request import Wire

# How long before a client's deadline its default answer leaves: a share of the time left, within bounds in seconds.
_MARGIN_SHARE, _LEAST_MARGIN, _MOST_MARGIN = 0.1, 0.005, 0.05

# HTTP's and gRPC's numbers for "not available now" and "too late", said by a replica.
_CAME_TO_NOTHING = {Wire.REST: frozenset({503, 504}), Wire.GRPC: frozenset({4, 14})}


def default_answer(board: RouteBoard, operation: Operation, api_key: bytes | None, model: str) -> bytes:
    """The model's default answer; empty if it has none, or if the request is not for inference."""
    if operation is not Operation.INFER:
        return b""
    table = board.table
    key = table.keys.get(api_key) if api_key is not None else None
    route = table.models.get(ModelKey(key.tenant, model)) if key is not None else None
    return b"" if route is None else route.default_answer


def hurried(deadline: float, now: float) -> float:
    """When to stop waiting for a replica, so that a default answer still arrives before `deadline`."""
    return deadline - min(_MOST_MARGIN, max(_LEAST_MARGIN, _MARGIN_SHARE * (deadline - now)))


def came_to_nothing(wire: Wire, status: int) -> bool:
    """Whether a replica that answered so says that it could not answer now."""
    return status in _CAME_TO_NOTHING[wire]


def default_reply(wire: Wire, answer: bytes) -> Reply:
    """`answer`, in the encoding of `wire`."""
    mark = (DEFAULT_ANSWER_TEXT, "1")
    if wire is Wire.REST:
        return Reply(200, (("content-type", "application/json"), mark), answer)
    return Reply(0, (mark,), _as_message(answer))


@lru_cache(maxsize=256)
def _as_message(answer: bytes) -> bytes:
    """A stored REST answer as a gRPC message. Imports what is heavy: few models have one, fewer are asked so."""
    from berth.oip import rest, rpc

    encoded: bytes = rpc.encode_response(rest.decode_response(answer, None)).SerializeToString()
    return encoded
