"""Follows a collection: list, watch from there, and list again whenever in doubt.

One generator reads and applies, so there is one writer and no queue. What arrives while its reader is busy waits in the
socket, and everything that comes out of one read becomes one set. A watch is asked to end after a minute. If it is
silent for longer, nobody answers on its connection any more, however open it looks.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import structlog

from berth.reconcile import Backoff
from synchronizer.cluster.api import ApiFailure, KubernetesApi, Read
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.core.mirror import Gap, Json, Mirror

T = TypeVar("T")

log = structlog.get_logger(__name__)

_RETRY = Backoff(first=0.1, most=10.0)
_LONGEST_LINE = 8 << 20  # bytes; an object has 1.5 MiB at most
_SHORT_S = 1.0  # a watch that ends sooner and brings nothing counts as failed


class Reflector(Generic[T]):
    """The objects of `path` that `selector` matches, each as `read` reads it. Times are in seconds.

    `page` objects are listed at a time. A watch is asked to last for `lasts`, spread by a fifth so that watches do not
    march in step. The server has `grace` more to end it.
    """

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        selector: str,
        read: Callable[[Json], T],
        metrics: ClusterMetrics,
        *,
        page: int = 500,
        lasts: float = 60.0,
        grace: float = 5.0,
        backoff: Backoff = _RETRY,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self._collection = path.rsplit("/", 1)[-1]
        self._selector = selector
        self._mirror = Mirror(read)
        self._metrics = metrics
        self._page = page
        self._lasts = lasts
        self._grace = grace
        self._backoff = backoff
        self._rng = rng or random.Random()
        self._heard_at = 0.0

    def __repr__(self) -> str:
        return f"<Reflector {self._collection} {self._mirror!r}>"

    async def watch(self) -> AsyncIterator[Mapping[str, T]]:
        """The complete set by name: once it is known, and after each change. Goes on for ever."""
        clock = asyncio.get_running_loop().time
        self._heard_at = clock()
        self._metrics.age.labels(self._collection).set_function(lambda: clock() - self._heard_at)
        failures, in_doubt = 0, True
        while True:
            began, lived = clock(), False
            try:
                if in_doubt:
                    if await self._list():
                        yield self._mirror.items
                    in_doubt = False
                async with aclosing(self._follow()) as batches:
                    async for changed in batches:
                        lived, failures = True, 0
                        if changed:
                            yield self._mirror.items
            except (ApiFailure, Gap, TimeoutError) as error:
                in_doubt = True
                self._note(error)
            if not in_doubt and (lived or clock() - began >= _SHORT_S):
                failures = 0
                continue
            failures += 1
            await asyncio.sleep(self._backoff.delay(failures, self._rng))

    async def _list(self) -> bool:
        """Read everything, page by page. True if it differs from what was known."""
        query = {"labelSelector": self._selector, "limit": str(self._page)}
        objects: list[Json] = []
        while True:
            answer = await self._api.call("GET", self._path, query=query, timeout=30.0)
            self._hear()
            objects += answer.get("items") or ()
            metadata = answer.get("metadata") or {}
            if not metadata.get("continue"):
                break
            query["continue"] = str(metadata["continue"])
        self._metrics.relists.labels(self._collection).inc()
        changed = self._mirror.read_list(objects, str(metadata.get("resourceVersion") or ""))
        self._metrics.objects.labels(self._collection).set(len(self._mirror))
        return changed

    async def _follow(self) -> AsyncGenerator[bool, None]:
        """Watch from the version known until the server ends it; for each read, whether it changed anything."""
        lasts = self._lasts * (0.9 + 0.2 * self._rng.random())
        query = {
            "watch": "1",
            "labelSelector": self._selector,
            "resourceVersion": self._mirror.version or "",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(lasts))),
        }
        deadline = asyncio.get_running_loop().time() + lasts + self._grace
        async with self._api.stream(self._path, query) as read:
            # An answer is a sign of life: where nothing happens, some servers send nothing more before they end it.
            self._hear()
            rest = b""
            while chunk := await _read(read, deadline):
                self._hear()
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise Gap("malformed", "a line without end")
                changes = [self._mirror.read_event(_event(line)) for line in lines if line]
                if changes:
                    self._metrics.objects.labels(self._collection).set(len(self._mirror))
                    yield any(changes)

    def _hear(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _note(self, error: ApiFailure | Gap | TimeoutError) -> None:
        reason = "silent" if isinstance(error, TimeoutError) else error.reason
        self._metrics.watch_errors.labels(self._collection, reason).inc()
        log.warning(
            "watch broke", collection=self._collection, reason=reason, error=str(error), known=len(self._mirror)
        )


async def _read(read: Read, deadline: float) -> bytes:
    # A limit around the whole watch would also be open while the reader of the sets waits for something else.
    async with asyncio.timeout_at(deadline):
        return await read()


def _event(line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        raise Gap("malformed", "an event that is not JSON") from None
    if not isinstance(event, dict):
        raise Gap("malformed", "an event that is no object")
    return event
