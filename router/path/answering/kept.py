"""Answers kept from before: the prediction cache. Off unless someone asks for it (`BERTH_CACHE_BYTES`)."""

from __future__ import annotations

from berth.headers import CACHE_TEXT, INFERENCE_HEADER_LENGTH, REPLICA_TEXT
from berth.ids import VersionKey
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.core.cache import AnswerCache, CacheKey, digest_of
from router.core.paths import Operation
from router.path.answer import Reply
from router.path.request import Request, Wire

# Hashing more than this takes longer than others should wait for.
_MOST_HASHED = 1024 * 1024
# Headers that a worker's answer depends on. gRPC's metadata has none: all is in the message.
_RELEVANT = frozenset({b"accept", b"accept-encoding", b"content-encoding", b"content-type", INFERENCE_HEADER_LENGTH})
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

    def digest_of(self, request: Request) -> bytes | None:
        """The value for `Request.digest`: None if the answer is not to be kept."""
        if request.operation is not Operation.INFER or not request.idempotent or len(request.body) > _MOST_HASHED:
            return None
        if "no-store" in _cache_control(request):
            return None
        fields = request.envelope.fields if request.wire is Wire.REST else ()
        relevant = ((name.decode(), value.decode("latin-1")) for name, value in fields if name in _RELEVANT)
        return digest_of(request.wire.value, relevant, request.message())

    def get(self, request: Request, version: VersionKey, now: float) -> Reply | None:
        """The answer kept, marked as such. A client that says `no-cache` gets a new one, which replaces it."""
        if request.digest is None:
            return None
        fresh = "no-cache" in _cache_control(request)
        reply = None if fresh else self._cache.get(CacheKey(version, request.digest), now)
        self._metrics.cache.labels("miss" if reply is None else "hit").inc()
        return reply

    def keep(self, request: Request, version: VersionKey, reply: Reply, now: float) -> None:
        """Keep what a replica that holds `version` answered, if it is good."""
        if request.digest is None or reply.status != _GOOD[request.wire]:
            return
        headers = (*(pair for pair in reply.headers if pair[0] != REPLICA_TEXT), (CACHE_TEXT, "hit"))
        trailers = tuple(pair for pair in reply.trailers if pair[0] != REPLICA_TEXT)
        size = len(reply.body) + sum(len(name) + len(value) for name, value in (*headers, *trailers))
        self._cache.keep(
            CacheKey(version, request.digest), reply._replace(headers=headers, trailers=trailers), size, now
        )
        self._metrics.cache_bytes.set(self._cache.size)

    def _retain(self) -> None:
        """Forget the versions that are no longer in the table."""
        models = self._board.table.models

        def still_served(version: VersionKey) -> bool:
            route = models.get(version.model_key)
            return route is not None and any(entry.version == version.version for entry in route.versions)

        self._cache.retain(still_served)
        self._metrics.cache_bytes.set(self._cache.size)


def _cache_control(request: Request) -> str:
    fields = request.envelope.fields
    return ",".join(value.decode("latin-1").lower() for name, value in fields if name == b"cache-control")
