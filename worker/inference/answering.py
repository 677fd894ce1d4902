"""One inference from decoded request to encoded answer, the same for both protocols.

This is the boundary where a fault of ours becomes a logged `Internal` with a text that tells the client nothing
about the inside, and where every outcome is counted once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog

from berth.errors import BerthError, DeadlineExceeded, Internal, InvalidArgument, NotFound, Unavailable
from berth.ids import VersionKey
from berth.model import Signature
from berth.oip.request import InferRequest, InferResponse, check_request
from worker.inference.metrics import CANCELLED, NOT_STARTED, InferenceMetrics
from worker.runtime import NotHeld, Servables

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Decoding and encoding below this many bytes cost less than handing them to a thread.
_INLINE_BYTES = 256 * 1024
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class NotStarted(Unavailable):
    """The replica does not hold the version: whoever asked may ask another replica without fear of a double run."""


def servable_key(name: str) -> VersionKey:
    """The version behind a servable's name. Raises `NotFound` for a name that no servable can have."""
    try:
        return VersionKey.from_servable(name)
    except InvalidArgument as error:
        raise NotFound(error.detail) from None


def request_id(given: str | None) -> str:
    """`given` if it can go into a header and a log line as it is, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class Answering:
    """Borrows servables and runs them. `replica` is the name that answers carry."""

    def __init__(self, servables: Servables, replica: str, metrics: InferenceMetrics) -> None:
        self.replica = replica
        self._servables = servables
        self._metrics = metrics
        # The only home of the count; the gauge and the worker's report read it.
        self.in_flight = 0
        metrics.in_flight.set_function(lambda: self.in_flight)

    def __repr__(self) -> str:
        return f"<Answering {self.replica} in_flight={self.in_flight}>"

    def holds(self, key: VersionKey) -> bool:
        return key in self._servables.held()

    def signature(self, key: VersionKey) -> Signature:
        """Raises `NotStarted` if the version is not held."""
        with _not_held_is_not_started(key), self._servables.acquire(key) as loaded:
            return loaded.signature

    async def answer(
        self,
        key: VersionKey,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], T],
        *,
        protocol: str,
        size: int,
        timeout: float | None,
    ) -> T:
        """Decode, run and encode one request of `size` bytes within `timeout` seconds; raises only `BerthError`.

        Cancelling it gives the run up. The version is borrowed from before the request is decoded until it is
        encoded, so that a request which was taken is never refused half way.
        """
        started = time.perf_counter()
        self.in_flight += 1
        try:
            async with asyncio.timeout(timeout):
                answer = await self._run(key, size, decode, encode)
        except asyncio.CancelledError:
            self._metrics.ended(protocol, CANCELLED)
            raise
        except TimeoutError:
            # A runtime's own TimeoutError would land here too, and means the same to a client.
            late = DeadlineExceeded("the deadline passed before the model answered")
            self._metrics.ended(protocol, late)
            raise late from None
        except BerthError as error:
            self._metrics.ended(protocol, NOT_STARTED if isinstance(error, NotStarted) else error)
            raise
        except Exception:
            log.exception("inference failed", servable=key.servable)
            fault = Internal("the replica failed to answer; its log says why, under this request's id")
            self._metrics.ended(protocol, fault)
            raise fault from None
        finally:
            self.in_flight -= 1
        self._metrics.succeeded(protocol, time.perf_counter() - started)
        return answer

    async def _run(
        self,
        key: VersionKey,
        size: int,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], T],
    ) -> T:
        with _not_held_is_not_started(key), self._servables.acquire(key) as loaded:
            request = decode() if size <= _INLINE_BYTES else await asyncio.to_thread(decode)
            check_request(loaded.signature, request.inputs, request.output_names)
            outputs = await loaded.infer(request.inputs, request.output_names)
            response = InferResponse(key.model, str(key.version), outputs, request.id)
            large = sum(array.nbytes for array in outputs.values()) > _INLINE_BYTES
            return await asyncio.to_thread(encode, response, request) if large else encode(response, request)


@contextlib.contextmanager
def _not_held_is_not_started(key: VersionKey) -> Iterator[None]:
    try:
        yield
    except NotHeld:
        raise NotStarted(f"model {key.model!r} version {key.version} is not loaded here", retry_after=1.0) from None
