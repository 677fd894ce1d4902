"""A Triton that somebody else runs beside this worker: on Kubernetes, NVIDIA's image in the same pod.

Nothing of its process can be seen from here. It is asked every second what it has. A model that is missing is lost. If
it does not answer, or has nothing of ours any more, all models are lost. Whenever it comes (back), it begins empty:
what it had for somebody else, or for this worker's earlier life, is unloaded. And the trial model must compute right.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import service_pb2

from berth.errors import BerthError
from berth.settings import SettingsError
from berth.settling import settle
from worker.runtimes.protocol import NotHeld
from worker.runtimes.triton.link import CHANNEL_OPTIONS, TritonLink, failure_of
from worker.runtimes.triton.repository import Repository
from worker.runtimes.triton.runtime import LOAD_TIMEOUT_S, UNLOAD_S, NotFit, TritonRuntime, end_worker
from worker.runtimes.triton.servable import TritonServable
from worker.settings import TritonBackend

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
# One look. If Triton is gone, a look fails at once. If it is busy loading, it may answer late: it is lost only after so
# many late looks in a row.
_LOOK_S = 5.0
_LATE_LOOKS = 6
_EMPTY_S = 30.0
# How gRPC says that no request was ever sent.
_NO_CONNECTION = ("failed to connect", "connection refused")
_RECONNECT = (("grpc.max_reconnect_backoff_ms", 500),)


class SidecarTriton(TritonRuntime):
    """Implements `ModelRuntime`. Make it with `attach`, end it with `close`.

    Its models take memory of Triton's container. Neither that nor its GPU can be measured here, so each version counts
    as large as its reservation.
    """

    in_container = False

    def __init__(
        self,
        link: TritonLink,
        repository: Repository,
        backend: TritonBackend,
        *,
        load_timeout_s: float,
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(repository, load_timeout_s=load_timeout_s, on_lost=on_lost)
        self.trouble = f"the Triton at {link.address} has not answered yet"
        self._there = link
        self._backend = backend
        self._look_now = asyncio.Event()

    @classmethod
    async def attach(
        cls,
        address: str,
        repository: Path,
        *,
        backend: TritonBackend = TritonBackend.AUTO,
        threads: int = 1,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        on_lost: Callable[[], None] = end_worker,
    ) -> SidecarTriton:
        """Use the Triton at `address`, whose model repository `repository` is. Does not wait for it: loads do.

        `on_lost` is called when nobody watches it any more; that it does not answer is no reason. Raises
        `SettingsError` for an address that is not loopback, or a folder that cannot be written to.
        """
        _require_loopback(address)
        files = Repository(repository, native_onnx=True, threads=threads, linked=False)
        try:
            await asyncio.to_thread(files.clear)
        except OSError as error:
            raise SettingsError(f"BERTH_TRITON_REPOSITORY: {error.filename}: {error.strerror}") from None
        channel = grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *_RECONNECT))
        runtime = cls(TritonLink(address, channel), files, backend, load_timeout_s=load_timeout_s, on_lost=on_lost)
        runtime._care(runtime._watch())
        return runtime

    async def close(self) -> None:
        """Leave Triton empty, if it answers."""
        await self._stop_caring()
        held = tuple(self._held.values())
        await asyncio.gather(*(settle(self._let_go(servable)) for servable in held))
        self._is_down("the worker ends")
        await self._there.close()

    # Whether it is there, and what it has

    async def _watch(self) -> None:
        late = 0
        while True:
            try:
                ready = await self._ready_models()
            except grpc.aio.AioRpcError as error:
                late = late + 1 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else _LATE_LOOKS
                if late >= _LATE_LOOKS:
                    self._say_down(f"Triton does not answer ({error.code().name})")
            else:
                late = 0
                await self._compare(ready)
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._look_now.wait()
            except TimeoutError:
                continue
            self._look_now.clear()
            # Whoever asked for a look does so for each request that fails.
            await asyncio.sleep(_LOOK_EVERY_S / 10)

    async def _compare(self, ready: frozenset[str]) -> None:
        missing = [servable for name, servable in self._held.items() if name not in ready]
        if missing and len(missing) == len(self._held):
            self._say_down("Triton was started again, or emptied")
        if self._up.is_set():
            for servable in missing:
                log.error("triton no longer has a model", servable=servable.name)
                servable.lose("Triton no longer has it")
            return
        try:
            await self._welcome()
        except NotFit as error:
            log.error("triton is not fit for use", reason=str(error))
            self.trouble = f"Triton is not fit for use: {error}"
        except grpc.aio.AioRpcError as error:
            self._say_down(f"Triton does not answer ({error.code().name})")

    async def _welcome(self) -> None:
        """Empty it, and see whether it computes right. Raises `NotFit` and `AioRpcError`."""
        await self._empty()
        try:
            await asyncio.to_thread(self.repository.clear)
        except OSError as error:
            # Something is wrong with the volume that both have mounted. It may pass, and is looked at again.
            raise NotFit(f"its repository cannot be emptied: {error.strerror}") from None
        tries = {TritonBackend.ONNXRUNTIME: [True], TritonBackend.PYTHON: [False]}.get(self._backend, [True, False])
        for native in tries:
            self.repository.native_onnx = native
            try:
                await self._try_canary(self._there)
                break
            except NotFit:
                if native is tries[-1]:
                    raise
        self._is_up(self._there)
        log.info("triton is here", address=self._there.address, native_onnx=self.repository.native_onnx)

    async def _empty(self) -> None:
        """Raises `NotFit` if it keeps something."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _EMPTY_S
        while names := await self._ready_models():
            if loop.time() >= deadline:
                raise NotFit(f"it does not let go of {min(names)}; it must be in explicit model control")
            log.info("unloading what triton has", models=len(names))
            for name in names:
                request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
                error = await failure_of(self._there.call("RepositoryModelUnload", request, UNLOAD_S))
                if error is not None:
                    raise NotFit(f"it does not let go of {name}: {error.details()}")
            await asyncio.sleep(_LOOK_EVERY_S / 10)

    async def _ready_models(self) -> frozenset[str]:
        request = service_pb2.RepositoryIndexRequest(ready=True)
        answer = await self._there.call("RepositoryIndex", request, _LOOK_S)
        return frozenset(model.name for model in answer.models)

    def _say_down(self, reason: str) -> None:
        if self.trouble is None:
            log.error("triton is lost", reason=reason, held=len(self._held))
        self._is_down(reason)

    # One servable

    async def _bring_up(self, servable: TritonServable) -> None:
        await self._have_loaded(servable)

    async def _call_off(self, link: TritonLink, servable: TritonServable, call: asyncio.Future[Any]) -> bool:
        """Triton cannot be told to stop; it may finish, and is then told to unload."""
        log.warning("load is given up; triton may go on with it", servable=servable.name)
        call.cancel()
        await asyncio.wait([call])
        return True

    async def _sweep(self, servable: TritonServable) -> None:
        """Nothing of its process can be reached from here."""

    def _explain(self, servable: TritonServable, error: grpc.aio.AioRpcError) -> BerthError | NotHeld:
        details = (error.details() or "").lower()
        unsent = any(words in details for words in _NO_CONNECTION)
        if unsent or "unknown model" in details:
            self._look_now.set()
            return NotHeld(servable.name)
        if "stub process" in details:
            # Its Python backend goes on without the process, and would fail every request.
            servable.lose("the model's process ended unasked")
        elif error.code() is grpc.StatusCode.UNAVAILABLE:
            self._look_now.set()
        return super()._explain(servable, error)


def _require_loopback(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        here = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        here = False
    if not here or not port.isdigit():
        raise SettingsError(
            f"BERTH_TRITON_ADDRESS: {address} is no host:port on loopback: Triton asks nobody who it is"
        )
