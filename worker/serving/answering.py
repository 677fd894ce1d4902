"""One inference from its bytes to the bytes of its answer, the same for every protocol.

Most requests are for small models, whose run takes less time than a task switch. So a request is first tried where it
stands: read, run by `Loaded.infer_now`, written, with no task and no timer. Only a request that cannot be answered at
once, because of its size or its model, becomes a task.

This is the boundary where a fault of ours becomes a logged `Internal`. Its text tells the client nothing about the
inside. Every outcome is counted once, here.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import structlog

from berth.errors import BerthError, DeadlineExceeded, Internal, InvalidArgument, NotFound, Unavailable
from berth.ids import VersionKey
from berth.model import Signature
from berth.oip.request import InferRequest, InferResponse, check_request
from worker.core.loads import Loads
from worker.runtimes.protocol import Array, NotHeld, Servables
from worker.serving.metrics import CANCELLED, NOT_STARTED, InferenceMetrics

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Reading and writing below this many bytes cost less than handing them to a thread.
_INLINE_BYTES = 256 * 1024
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class NotStarted(Unavailable):
    """The replica does not hold the version: whoever asked may ask another replica without fear of a double run."""


@lru_cache(maxsize=4096)
def servable_key(name: str) -> VersionKey:
    """The version behind a servable's name. Raises `NotFound` for a name that no servable can have."""
    try:
        return VersionKey.from_servable(name)
    except InvalidArgument as error:
        raise NotFound(error.detail) from None


def request_id(given: bytes | None) -> bytes:
    """`given` if it can go into a header and a log line as it is, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    # To be told apart, not to be a secret.
    return b"%032x" % random.getrandbits(128)


class Question(NamedTuple, Generic[T]):
    """A complete request. `read` makes sense of its bytes, about `size` of them, and may raise `BerthError`; `write`
    makes the bytes of the answer. Both may be called in a thread. `timeout` is in seconds from now."""

    protocol: str
    request_id: bytes
    size: int
    timeout: float | None
    read: Callable[[], tuple[VersionKey, InferRequest]]
    write: Callable[[InferResponse, InferRequest], T]


Done = Callable[[T | BerthError], None]


class Run:
    """A request that is being answered by a task."""

    __slots__ = ("_on_begin", "_task", "asked_at", "begun_at", "key", "started")

    def __init__(self, on_begin: Callable[[], None] | None) -> None:
        self._task: asyncio.Task[None] | None = None
        self._on_begin = on_begin
        # Whether the runtime has begun to compute: until then, giving up costs nothing.
        self.started = False
        # Once a version has been found for it: which, when the runtime was asked, and when it began.
        self.key: VersionKey | None = None
        self.asked_at = 0.0
        self.begun_at = 0.0

    def cancel(self) -> None:
        """Nobody wants the answer any more; `done` will not be called."""
        if self._task is not None:
            self._task.cancel()

    def own(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def begin(self) -> None:
        """Called by the runtime, in whichever thread."""
        self.begun_at = time.perf_counter()
        self.started = True
        if self._on_begin is not None:
            self._on_begin()

    def queued(self, now: float) -> float:
        """Seconds that it waited, or has waited, for its turn in the runtime."""
        if not self.asked_at:
            return 0.0
        return (self.begun_at if self.started else now) - self.asked_at

    def __repr__(self) -> str:
        return f"<Run {'started' if self.started else 'waiting'}>"


class Answering:
    """Borrows servables and runs them, and adds what that took to `loads`. `replica` is the name that answers carry.

    Whoever makes one closes it.
    """

    def __init__(self, servables: Servables, replica: str, metrics: InferenceMetrics, loads: Loads) -> None:
        self.replica = replica
        self._loads = loads
        self._servables = servables
        self._metrics = metrics
        # Not a TaskGroup: it would wrap what its body raises, and the body is everything that the worker does.
        self._tasks: set[asyncio.Task[None]] = set()
        # The only home of the count; the gauge and the worker's report read it.
        self.in_flight = 0
        metrics.in_flight.set_function(lambda: self.in_flight)

    def __repr__(self) -> str:
        return f"<Answering {self.replica} in_flight={self.in_flight}>"

    def holds(self, key: VersionKey) -> bool:
        return key in self._servables.held()

    def signature(self, key: VersionKey) -> Signature:
        """Raises `NotStarted` if the version is not held."""
        try:
            with self._servables.acquire(key) as loaded:
                return loaded.signature
        except NotHeld:
            raise _not_loaded(key) from None

    def start(self, question: Question[T], done: Done[T], on_begin: Callable[[], None] | None = None) -> Run | None:
        """Answer `question`: `done` gets the answer or an error, once, perhaps before this returns. `on_begin` is
        called, in any thread, when the run's turn has come; never if it could run at once.

        None: it has been called. Otherwise a run that may be cancelled; then `done` is not called.
        """
        began = time.perf_counter()
        if question.timeout is not None and question.timeout <= 0:
            done(self._failed(question, DeadlineExceeded("the deadline passed before the request was complete")))
            return None
        half: _Half | None = None
        if question.size <= _INLINE_BYTES:
            outcome: T | BerthError | _Half
            self.in_flight += 1
            tokens = structlog.contextvars.bind_contextvars(request_id=question.request_id.decode())
            try:
                outcome = self._try(question, began)
            except Exception as error:
                outcome = self._failed(question, error)
            finally:
                self.in_flight -= 1
                structlog.contextvars.reset_contextvars(**tokens)
            if not isinstance(outcome, _Half):
                done(outcome)
                return None
            half = outcome
        run = Run(on_begin)
        task = asyncio.create_task(self._answer(question, half, began, run, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        run.own(task)
        return run

    async def close(self) -> None:
        """Give up what is still under way, and wait until it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _try(self, question: Question[T], began: float) -> T | _Half:
        """Read the request, and answer it if that can be done without waiting."""
        key, request = question.read()
        try:
            with self._servables.acquire(key) as loaded:
                check_request(loaded.signature, request.inputs, request.output_names)
                outputs = loaded.infer_now(request.inputs, request.output_names)
        except NotHeld:
            raise _not_loaded(key) from None
        except Exception:
            self._loads.add(key, time.perf_counter() - began)
            raise
        if outputs is None or _size(outputs) > _INLINE_BYTES:
            return _Half(key, request, outputs)
        answer = question.write(InferResponse(key.model, str(key.version), outputs, request.id), request)
        seconds = time.perf_counter() - began
        self._metrics.succeeded(question.protocol, seconds)
        self._loads.add(key, seconds)
        return answer

    async def _answer(self, question: Question[T], half: _Half | None, began: float, run: Run, done: Done[T]) -> None:
        outcome: T | BerthError
        completed = 1
        self.in_flight += 1
        try:
            with structlog.contextvars.bound_contextvars(request_id=question.request_id.decode()):
                async with asyncio.timeout(question.timeout):
                    outcome = await self._run(question, half, run)
        except asyncio.CancelledError:
            completed = 0
            self._metrics.ended(question.protocol, CANCELLED)
            if run.started:
                self._metrics.wasted.inc()
            raise
        except TimeoutError:
            # A runtime's own TimeoutError would land here too, and means the same to a client.
            outcome = self._failed(question, DeadlineExceeded("the deadline passed before the model answered"))
            if run.started:
                self._metrics.wasted.inc()
        except Exception as error:
            outcome = self._failed(question, error)
        else:
            self._metrics.succeeded(question.protocol, time.perf_counter() - began)
        finally:
            self.in_flight -= 1
            if run.key is not None:
                now = time.perf_counter()
                self._loads.add(run.key, now - began, run.queued(now), completed)
        done(outcome)

    async def _run(self, question: Question[T], half: _Half | None, run: Run) -> T:
        if half is None:
            key, request = await asyncio.to_thread(question.read)
            outputs = None
        else:
            key, request, outputs = half.key, half.request, half.outputs
            run.key = key if outputs is not None else None
        if outputs is None:
            try:
                # Since `_try` the version may have gone. The run has not begun, and the refusal says so.
                with self._servables.acquire(key) as loaded:
                    run.key = key
                    if half is None:
                        check_request(loaded.signature, request.inputs, request.output_names)
                    run.asked_at = time.perf_counter()
                    outputs = await loaded.infer(request.inputs, request.output_names, run.begin)
            except NotHeld:
                run.key = None
                raise _not_loaded(key) from None
        response = InferResponse(key.model, str(key.version), outputs, request.id)
        if _size(outputs) > _INLINE_BYTES:
            return await asyncio.to_thread(question.write, response, request)
        return question.write(response, request)

    def _failed(self, question: Question[T], error: Exception) -> BerthError:
        """Count it, and make it one that may be told."""
        if not isinstance(error, BerthError):
            log.error("inference failed", request_id=question.request_id.decode(), exc_info=error)
            error = Internal("the replica failed to answer; its log says why, under this request's id")
        self._metrics.ended(question.protocol, NOT_STARTED if isinstance(error, NotStarted) else error)
        return error


@dataclass(frozen=True, slots=True)
class _Half:
    """A request that was read and could not be answered at once; `outputs` if only writing them is left."""

    key: VersionKey
    request: InferRequest
    outputs: dict[str, Array] | None


def _not_loaded(key: VersionKey) -> NotStarted:
    return NotStarted(f"model {key.model!r} version {key.version} is not loaded here", retry_after=1.0)


def _size(outputs: dict[str, Array]) -> int:
    return sum([array.nbytes for array in outputs.values()])
