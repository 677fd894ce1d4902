"""What a Triton of the worker's own and one beside it have in common: loading, running, unloading, and knowing what
is lost.

Nothing is repaired here. If a Triton loses a model, or all of them, they are lost to the keeper too. The keeper says so
to everybody, and loads them again like any other version. Meanwhile requests are refused with `NotHeld`, so that they
go elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import service_pb2

from berth.errors import BerthError, Internal, InvalidArgument
from berth.model import VersionSpec
from berth.oip import rpc
from berth.oip.request import InferRequest, InferResponse
from berth.resources import HOST
from berth.settling import settle
from worker.runtimes.protocol import Loaded, LoadFailed, NotHeld
from worker.runtimes.triton import canary
from worker.runtimes.triton.faults import load_failure, run_failure
from worker.runtimes.triton.link import TritonLink, failure_of
from worker.runtimes.triton.onnx_signature import read_signature
from worker.runtimes.triton.repository import Repository
from worker.runtimes.triton.servable import TritonServable

log = structlog.get_logger(__name__)

# Shorter than the keeper's patience, so that a hanging load is ended here: only here can that be done thoroughly.
LOAD_TIMEOUT_S = 120.0
UNLOAD_S = 10.0


class NotFit(Exception):
    """A Triton that does not start, does not run the trial model, or computes wrong values."""


def end_worker() -> None:
    """Ask this process to drain and stop: whoever runs it starts it again, with a Triton or not at all."""
    os.kill(os.getpid(), signal.SIGTERM)


class TritonRuntime(ABC):
    """Implements `ModelRuntime`, but for what `child` and `sidecar` beside it add."""

    in_container = True
    on_gpu = False

    def __init__(self, repository: Repository, *, load_timeout_s: float, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called when nobody looks after Triton any more, for a reason that is no fault of its own."""
        self.repository = repository
        # Of loads that begin from now on.
        self.load_timeout_s = load_timeout_s
        self._on_lost = on_lost
        self._caring: asyncio.Task[None] | None = None
        self._held: dict[str, TritonServable] = {}
        self.trouble: str | None = "Triton is being started"
        # Set while there is a Triton that has shown itself fit; then `_link` leads there.
        self._up = asyncio.Event()
        self._link: TritonLink | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._link} held={len(self._held)} {self.trouble or 'up'}>"

    @property
    def held(self) -> tuple[TritonServable, ...]:
        """What is loaded now."""
        return tuple(self._held.values())

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        """Nobody's: each load is measured by itself."""
        return contextlib.nullcontext()

    async def load(self, spec: VersionSpec, path: Path) -> Loaded:
        """Load the artifact at `path`, which must stay there until `unload`. Raises `LoadFailed`."""
        signature = await asyncio.to_thread(read_signature, path)
        await self._wait_until_up()
        servable = TritonServable(
            spec.key.servable,
            signature,
            ask=self._ask,
            let_go=self._let_go,
            bfloat16_as_bits=not self.repository.native_onnx,
        )
        servable.weigh = lambda: spec.reserved[HOST]
        try:
            await settle(asyncio.to_thread(self.repository.write, servable.name, signature, path))
            await self._bring_up(servable)
        except BaseException:
            await settle(self._discard(servable))
            raise
        self._held[servable.name] = servable
        return servable

    def _care(self, work: Coroutine[Any, Any, None]) -> None:
        """Look after Triton by `work`, which has no end of its own, until `_stop_caring`."""
        self._caring = asyncio.create_task(self._end_with(work), name="triton")

    async def _stop_caring(self) -> None:
        if self._caring is not None:
            self._caring.cancel()
            await asyncio.wait([self._caring])

    async def _end_with(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # Where Triton's life ends for good, whatever ended it: a worker without its runtime must not go on.
            log.exception("triton is lost")
            self._on_lost()

    @abstractmethod
    async def close(self) -> None:
        """What was loaded is gone afterwards."""

    @abstractmethod
    async def _bring_up(self, servable: TritonServable) -> None:
        """Have Triton load what is in the repository, and say how it is weighed if it can be. Raises `LoadFailed`."""

    @abstractmethod
    async def _call_off(self, link: TritonLink, servable: TritonServable, call: asyncio.Future[Any]) -> bool:
        """End a load, and return when `call` is done. Whether only that load was ended. Never raises."""

    @abstractmethod
    async def _sweep(self, servable: TritonServable) -> None:
        """Remove what an unloaded model leaves behind. Never raises."""

    def _explain(self, servable: TritonServable, error: grpc.aio.AioRpcError) -> BerthError | NotHeld:
        """What a failed run means for whoever asked. May find that the servable is lost."""
        fault = run_failure(error)
        if not isinstance(fault, InvalidArgument):
            log.warning("run failed", servable=servable.name, code=error.code().name, details=error.details())
        return fault

    async def _wait_until_up(self) -> TritonLink:
        """Raises `LoadFailed`, in time for the keeper to say why."""
        try:
            async with asyncio.timeout(self.load_timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise LoadFailed(self.trouble or "Triton is away", permanent=False) from None
        return self._running()

    def _running(self) -> TritonLink:
        if self._link is None:
            raise LoadFailed("Triton is being started again", permanent=False)
        return self._link

    def _is_up(self, link: TritonLink) -> None:
        self._link = link
        self.trouble = None
        self._up.set()

    def _is_down(self, reason: str) -> None:
        """Nothing that was loaded is there any more."""
        self._link = None
        self.trouble = reason
        self._up.clear()
        for servable in tuple(self._held.values()):
            servable.lose(reason)

    async def _try_canary(self, link: TritonLink) -> None:
        """Have the trial model computed by the Triton at `link`. Raises `NotFit`."""
        self._link = link
        bird = TritonServable(canary.NAME, canary.SIGNATURE, ask=self._ask, let_go=self._let_go)
        try:
            await settle(asyncio.to_thread(self._write_canary))
            await self._have_loaded(bird)
            outputs = await bird.infer(canary.inputs(), ())
        except LoadFailed as error:
            raise NotFit(error.reason) from None
        except (BerthError, NotHeld) as error:
            raise NotFit(f"the trial model does not run: {error}") from None
        finally:
            await settle(self._discard(bird))
            self.repository.scratch(f"{canary.NAME}.onnx").unlink(missing_ok=True)
            self._link = None
        if not canary.is_sound(outputs):
            raise NotFit("it computes wrong values; its Python must have the numpy of the lock file")

    def _write_canary(self) -> None:
        file = self.repository.scratch(f"{canary.NAME}.onnx")
        try:
            canary.write_model(file)
            self.repository.write(canary.NAME, canary.SIGNATURE, file)
        except OSError as error:
            raise LoadFailed(f"the repository cannot be written to: {error.strerror}", permanent=False) from None

    async def _have_loaded(self, servable: TritonServable) -> None:
        """Raises `LoadFailed`. Whether it ends, fails or is cancelled: no load is under way afterwards."""
        link = self._running()
        request = service_pb2.RepositoryModelLoadRequest(model_name=servable.name)
        servable.link = link
        call = asyncio.ensure_future(failure_of(link.call("RepositoryModelLoad", request)))
        try:
            await asyncio.wait([call], timeout=self.load_timeout_s)
        except asyncio.CancelledError:
            await settle(self._call_off(link, servable, call))
            raise
        if call.done():
            error = call.result()
            if error is not None:
                raise load_failure(error)
            return
        reason = f"loading took longer than {self.load_timeout_s:g} s"
        if await settle(self._call_off(link, servable, call)):
            raise LoadFailed(reason, permanent=False)
        # Tried again it would cost the others their Triton again.
        raise LoadFailed(f"{reason}, and could not be stopped", permanent=True)

    async def _let_go(self, servable: TritonServable) -> None:
        if self._held.get(servable.name) is servable:
            del self._held[servable.name]
        servable.leave()
        await settle(self._discard(servable))

    async def _discard(self, servable: TritonServable) -> None:
        """Leave nothing of a servable: in Triton, in memory, on disk. Bounded in time; never raises."""
        if servable.link is not None and servable.link is self._link:
            # Triton answers at once and takes a second to end the model's process.
            request = service_pb2.RepositoryModelUnloadRequest(model_name=servable.name)
            error = await failure_of(servable.link.call("RepositoryModelUnload", request, UNLOAD_S))
            if error is not None:
                log.warning("unload failed", servable=servable.name, reason=error.details())
        await self._sweep(servable)
        await asyncio.to_thread(self.repository.remove, servable.name)

    async def _ask(self, servable: TritonServable, request: InferRequest) -> InferResponse:
        if self._link is None:
            raise NotHeld(servable.name)
        try:
            return rpc.decode_response(await self._link.call("ModelInfer", rpc.encode_request(servable.name, request)))
        except grpc.aio.AioRpcError as error:
            raise self._explain(servable, error) from None
        except InvalidArgument as error:
            raise Internal(f"Triton's answer cannot be read: {error.detail}") from None
