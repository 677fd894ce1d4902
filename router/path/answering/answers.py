"""Answers that come from no replica: ones kept from before, and the one a model gives when none comes in time.

Both are off unless someone asks for them: the cache by `BERTH_CACHE_BYTES`, the default answer model by model.
"""

from __future__ import annotations

from functools import lru_cache

from berth.headers import CACHE_TEXT, CONTENT_TYPE_TEXT, DEFAULT_ANSWER_TEXT, INFERENCE_HEADER_LENGTH_TEXT, REPLICA_TEXT
from berth.ids import ModelKey, VersionKey
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.core.cache import AnswerCache, CacheKey, digest_of
from router.core.paths import Operation
from router.path.call import Call, Reply, Wire

# Hashing more than this takes longer than others should wait for.
_MOST_HASHED = 1024 * 1024
# Headers that a worker's answer depends on. gRPC's metadata has none: all is in the message.
_RELEVANT = frozenset(
    {"accept", "accept-encoding", "content-encoding", CONTENT_TYPE_TEXT, INFERENCE_HEADER_LENGTH_TEXT}
)
# How long before a client's deadline its default answer leaves: a share of the time left, within bounds in seconds.
_MARGIN_SHARE, _LEAST_MARGIN, _MOST_MARGIN = 0.1, 0.005, 0.05

# HTTP's and gRPC's numbers for "not available now" and "too late", said by a replica.
_CAME_TO_NOTHING = {Wire.REST: frozenset({503, 504}), Wire.GRPC: frozenset({4, 14})}
_GOOD = {Wire.REST: 200, Wire.GRPC: 0}


class AnswersKept:
    """The prediction cache: answers by version and by digest of the request."""

    def __init__(self, capacity: int, ttl: float, board: RouteBoard, metrics: RouterMetrics) -> None:
        self._cache: AnswerCache[Reply] = AnswerCache(capacity, ttl)
        self._board = board
        self._metrics = metrics
        board.watch(lambda _: self._retain())

    def __repr__(self) -> str:
        return f"<AnswersKept {self._cache!r}>"

    def digest_of(self, call: Call) -> bytes | None:
        """What `Call.digest` should be: None for what is not to be kept."""
        if call.operation is not Operation.INFER or not call.idempotent or len(call.body) > _MOST_HASHED:
            return None
        if "no-store" in _cache_control(call):
            return None
        headers = call.headers if call.wire is Wire.REST else ()
        relevant = ((name, value) for name, value in headers if name in _RELEVANT and isinstance(value, str))
        return digest_of(call.wire.value, relevant, call.body)

    def get(self, call: Call, version: VersionKey, now: float) -> Reply | None:
        """The answer kept, marked as such. A client that says `no-cache` gets a new one, which replaces it."""
        if call.digest is None:
            return None
        fresh = "no-cache" in _cache_control(call)
        reply = None if fresh else self._cache.get(CacheKey(version, call.digest), now)
        self._metrics.cache.labels("miss" if reply is None else "hit").inc()
        return reply

    def put(self, call: Call, version: VersionKey, reply: Reply, now: float) -> None:
        """Keep what a replica that holds `version` answered, if it is good."""
        if call.digest is None or reply.status != _GOOD[call.wire]:
            return
        headers = (*(pair for pair in reply.headers if pair[0] != REPLICA_TEXT), (CACHE_TEXT, "hit"))
        trailers = tuple(pair for pair in reply.trailers if pair[0] != REPLICA_TEXT)
        size = len(reply.body) + sum(len(name) + len(value) for name, value in (*headers, *trailers))
        self._cache.put(CacheKey(version, call.digest), reply._replace(headers=headers, trailers=trailers), size, now)
        self._metrics.cache_bytes.set(self._cache.size)

    def _retain(self) -> None:
        """Forget the versions that are in the table no more."""
        models = self._board.table.models

        def still_served(version: VersionKey) -> bool:
            route = models.get(version.model_key)
            return route is not None and any(entry.version == version.version for entry in route.versions)

        self._cache.retain(still_served)
        self._metrics.cache_bytes.set(self._cache.size)


def default_answer(board: RouteBoard, operation: Operation, api_key: bytes | None, model: str) -> bytes:
    """What the model answers when no replica does; empty if it has no such answer, or inference is not asked for."""
    if operation is not Operation.INFER:
        return b""
    table = board.table
    key = table.keys.get(api_key) if api_key is not None else None
    route = table.models.get(ModelKey(key.tenant, model)) if key is not None else None
    return b"" if route is None else route.default_answer


def hurried(deadline: float, now: float) -> float:
    """When to stop waiting for a replica, so that a default answer still arrives before `deadline`."""
    return deadline - min(_MOST_MARGIN, max(_LEAST_MARGIN, _MARGIN_SHARE * (deadline - now)))


def is_no_answer(call: Call, reply: Reply) -> bool:
    """Whether a replica's `reply` says that it could not answer now."""
    return reply.status in _CAME_TO_NOTHING[call.wire]


def default_reply(call: Call, answer: bytes) -> Reply:
    """`answer` to `call`, in the encoding of its wire."""
    mark = (DEFAULT_ANSWER_TEXT, "1")
    if call.wire is Wire.REST:
        return Reply(200, (("content-type", "application/json"), mark), answer)
    return Reply(0, (mark,), _as_message(answer))


@lru_cache(maxsize=256)
def _as_message(answer: bytes) -> bytes:
    """A stored REST answer as a gRPC message. Imports what is heavy: few models have one, fewer are asked so."""
    from berth.oip import rest, rpc

    encoded: bytes = rpc.encode_response(rest.decode_response(answer, None)).SerializeToString()
    return encoded


def _cache_control(call: Call) -> str:
    return ",".join(value.lower() for name, value in call.headers if name == "cache-control" and isinstance(value, str))
