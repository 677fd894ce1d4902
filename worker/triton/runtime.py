"""Drives a Triton server of its own: loads, runs, and puts right what breaks.

Three things break. A load can hang: after a while its process is killed, and if that does not help, Triton. A model's
process can die, which Triton does not notice: it is unloaded and loaded again. Triton can die: it is started again and
given what it held. Meanwhile the servables concerned refuse requests with `NotHeld`, so that these go elsewhere. When
Triton cannot be started again, the worker is asked to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import service_pb2

from berth.artifacts.intake import settle
from berth.auth.peer import PeerCredential
from berth.errors import BerthError, Internal, InvalidArgument
from berth.model import VersionSpec
from berth.oip import rpc
from berth.oip.request import InferRequest, InferResponse
from berth.reconcile import Backoff, Done, Outcome, Reconciler, Retry
from berth.settings import SettingsError, environment
from worker.runtime import Loaded, LoadFailed, NotHeld
from worker.triton import canary
from worker.triton.faults import load_failure, run_failure
from worker.triton.installation import Installation, locate
from worker.triton.onnx_signature import read_signature
from worker.triton.process import TritonServer, TritonStartFailed
from worker.triton.repository import Repository
from worker.triton.servable import TritonServable
from worker.triton.shared_memory import remove_region
from worker.triton.stubs import Stub, Watch, end, find_stubs, own_bytes

log = structlog.get_logger(__name__)

# Below the keeper's patience, so that a hanging load is ended here, where its process can be killed.
LOAD_TIMEOUT_S = 120.0
# What Triton needs to give a load up once its process is dead: measured, 1 s.
GIVE_UP_S = 6.0
_UNLOAD_S = 10.0
_KILL_S = 2.0
# Until when the process of a model has surely started: measured, 0.1 to 0.3 s.
_START_S = 2.0
# Starts in a row that may fail before the worker is given up.
_RESTARTS = 5
# A broken connection shows at most this much earlier than the end of the process.
_ABORT_S = 0.3


def end_worker() -> None:
    """Ask this process to drain and stop: whoever runs it starts it again, with a Triton or not at all."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.asynccontextmanager
async def open_triton(
    home: Path, work_dir: Path, *, instance: str, credential: PeerCredential | None = None, threads: int = 1
) -> AsyncIterator[TritonRuntime]:
    """A running Triton while the context is open. Raises `SettingsError` if the one at `home` is not fit for use."""
    runtime = await TritonRuntime.start(home, work_dir, instance=instance, credential=credential, threads=threads)
    try:
        yield runtime
    finally:
        await runtime.close()


class TritonRuntime:
    """Implements `worker.runtime.Runtime`. Make it with `start` or `open_triton`, end it with `close`."""

    def __init__(
        self,
        installation: Installation,
        work_dir: Path,
        *,
        instance: str,
        credential: PeerCredential,
        threads: int,
        load_timeout_s: float,
        give_up_s: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._installation = installation
        self._work_dir = work_dir = work_dir.absolute()
        self._credential = credential
        self._load_timeout_s = load_timeout_s
        self._give_up_s = give_up_s
        self._on_lost = on_lost
        # Fixed length, closed by an underscore: no instance's prefix begins another's.
        identity = f"{work_dir}\0{instance}".encode()
        self._shm_prefix = f"berth_{hashlib.sha256(identity).hexdigest()[:12]}_"
        self._repository = Repository(work_dir / "models", native_onnx=installation.native_onnx, threads=threads)
        # None while there is none: before the start, between two lives, after the end.
        self._server: TritonServer | None = None
        # Set when Triton is launched next; another one then takes its place.
        self._next_life = asyncio.Event()
        self._held: dict[str, TritonServable] = {}
        self._repairs = Reconciler("triton-repair", self._repair, concurrency=2)
        self._keeping: asyncio.Task[None] | None = None
        # Without processes of their own (native backend) loads are measured one after the other.
        self._measuring = asyncio.Lock()

    def __repr__(self) -> str:
        away = sum(not servable.available.is_set() for servable in self._held.values())
        return f"<TritonRuntime {self._server} held={len(self._held)} away={away}>"

    @classmethod
    async def start(
        cls,
        home: Path,
        work_dir: Path,
        *,
        instance: str,
        credential: PeerCredential | None = None,
        threads: int = 1,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        give_up_s: float = GIVE_UP_S,
        on_lost: Callable[[], None] = end_worker,
    ) -> TritonRuntime:
        """Start the Triton installed at `home` and make sure that it computes right.

        `work_dir` is this worker's alone; what an earlier life left there is removed. `threads` is what each model may
        use for one operator. A load is called off after `load_timeout_s`, and Triton itself is ended if that does not
        help within `give_up_s`. `on_lost` is called when Triton cannot be started again. Raises `SettingsError`.
        """
        runtime = cls(
            locate(home),
            work_dir,
            instance=instance,
            credential=credential or PeerCredential(),
            threads=threads,
            load_timeout_s=load_timeout_s,
            give_up_s=give_up_s,
            on_lost=on_lost,
        )
        await asyncio.to_thread(runtime._prepare)
        try:
            await runtime._launch()
        except TritonStartFailed as error:
            raise SettingsError(f"the Triton at {home} does not work: {error}") from None
        runtime._keeping = asyncio.create_task(runtime._keep(), name="triton")
        return runtime

    async def load(self, spec: VersionSpec, path: Path) -> Loaded:
        """Load the artifact at `path`, which must stay there until `unload`. Raises `LoadFailed`."""
        name = spec.key.servable
        signature = await asyncio.to_thread(read_signature, path)
        servable = TritonServable(
            name,
            signature,
            ask=self._ask,
            let_go=self._let_go,
            bfloat16_as_bits=not self._installation.native_onnx,
        )
        async with servable.lock:
            try:
                await settle(asyncio.to_thread(self._repository.write, name, signature, path))
                await self._bring_up_twice(servable)
            except BaseException:
                await settle(self._discard(name, servable.stub))
                raise
            self._held[name] = servable
        return servable

    async def close(self) -> None:
        """End Triton. What was loaded is gone afterwards."""
        for servable in self._held.values():
            self._mark_away(servable)
        self._held.clear()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        server, self._server = self._server, None
        if server is not None:
            await settle(server.end())

    # Starting, and starting again

    def _prepare(self) -> None:
        self._work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._repository.clear()
        log_file = self._work_dir / "triton.log"
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.1"))
        canary.write_model(self._work_dir / "canary.onnx")

    async def _launch(self) -> None:
        """Raises `TritonStartFailed` if it does not start, or computes wrong."""
        server = await TritonServer.start(
            self._installation,
            models=self._repository.path,
            log_file=self._work_dir / "triton.log",
            shm_prefix=self._shm_prefix,
            credential=self._credential,
            environ=environment(),
        )
        self._server = server
        try:
            await self._try_canary()
        except BaseException:
            self._server = None
            await settle(server.end())
            raise
        launched, self._next_life = self._next_life, asyncio.Event()
        launched.set()
        log.info("triton started", pid=server.pid, native_onnx=self._installation.native_onnx)

    async def _try_canary(self) -> None:
        self._repository.write(canary.NAME, canary.SIGNATURE, self._work_dir / "canary.onnx")
        bird = TritonServable(canary.NAME, canary.SIGNATURE, ask=self._ask, let_go=self._let_go)
        try:
            await self._bring_up(bird)
            outputs = await bird.infer(canary.inputs(), ())
        except LoadFailed as error:
            raise TritonStartFailed(error.reason) from None
        except BerthError as error:
            raise TritonStartFailed(f"the trial model does not run: {error.detail}") from None
        finally:
            self._mark_away(bird)
            await settle(self._discard(canary.NAME, bird.stub))
        if not canary.is_sound(outputs):
            raise TritonStartFailed("it computes wrong values; its venv must have the numpy of the lock file")

    async def _keep(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._repairs.run())
                tasks.create_task(self._keep_running())
        except Exception:
            # Where Triton's life ends for good, whatever ended it: a worker without its runtime must not go on.
            log.exception("triton is lost")
            self._on_lost()

    async def _keep_running(self) -> None:
        while True:
            server = self._server
            assert server is not None
            status = await server.wait()
            self._server = None
            for servable in self._held.values():
                self._mark_away(servable)
            log.error("triton ended unasked", status=status, held=len(self._held))
            await server.end()
            await self._launch_again()
            for name in self._held:
                self._repairs.add(name)

    async def _launch_again(self) -> None:
        backoff, rng = Backoff(first=0.2, most=5.0), random.Random()
        for failures in range(1, _RESTARTS + 1):
            try:
                await self._launch()
            except TritonStartFailed as error:
                if failures == _RESTARTS:
                    raise
                log.warning("triton did not start again", reason=str(error), failures=failures)
                await asyncio.sleep(backoff.delay(failures, rng))
            else:
                return

    # One servable

    async def _bring_up_twice(self, servable: TritonServable) -> None:
        """Triton now and then aborts in a load that follows one that was called off; its next life does load it."""
        server, next_life = self._server, self._next_life
        try:
            await self._bring_up(servable)
        except LoadFailed as failure:
            if failure.permanent or server is None or not await server.has_ended(within=_ABORT_S):
                raise
            log.warning("triton ended during a load", servable=servable.name)
            try:
                async with asyncio.timeout(self._load_timeout_s):
                    await next_life.wait()
            except TimeoutError:
                raise failure from None
            await self._bring_up(servable)

    async def _bring_up(self, servable: TritonServable) -> None:
        """Have Triton load it, then find its process. Raises `LoadFailed`."""
        server = self._running()
        if self._installation.native_onnx:
            async with self._measuring:
                before = own_bytes(server.pid)
                await self._have_loaded(server, servable.name)
                servable.measured_bytes = max(1, own_bytes(server.pid) - before)
                servable.available.set()
            return
        await self._have_loaded(server, servable.name)
        stubs = await self._stubs(server, servable.name)
        if not stubs:
            raise LoadFailed("the model's process ended as soon as it was loaded", permanent=False)
        servable.stub = stubs[0]
        servable.measured_bytes = max(1, own_bytes(stubs[0].pid))
        servable.available.set()
        servable.watch = Watch(stubs[0].pid, lambda: self._stub_ended(servable))

    async def _have_loaded(self, server: TritonServer, name: str) -> None:
        """Raises `LoadFailed`. Whether it ends, fails or is cancelled: no load is under way afterwards."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        call = asyncio.ensure_future(_finish(server.call("RepositoryModelLoad", request)))
        try:
            await asyncio.wait([call], timeout=self._load_timeout_s)
        except asyncio.CancelledError:
            await settle(self._call_off(server, name, call))
            raise
        if call.done():
            error = call.result()
            if error is not None:
                raise load_failure(error)
            return
        reason = f"loading took longer than {self._load_timeout_s:g} s"
        if await settle(self._call_off(server, name, call)):
            raise LoadFailed(reason, permanent=False)
        # Tried again it would cost the others their Triton again.
        raise LoadFailed(f"{reason}, and could not be stopped", permanent=True)

    async def _call_off(self, server: TritonServer, name: str, call: asyncio.Future[Any]) -> bool:
        """End a load: cancelling the call would only hide it. False if Triton had to be killed for it.

        Triton waits for ever for a process that dies while it starts; so a load is first given time to get past that,
        and most are done by then.
        """
        await asyncio.wait([call], timeout=_START_S)
        if not call.done():
            log.warning("load is called off: killing the model's process", servable=name)
            for stub in await self._stubs(server, name):
                stub.kill()
            await asyncio.wait([call], timeout=self._give_up_s)
        if call.done():
            return True
        log.error("load hangs without a process: killing triton", servable=name)
        server.kill()
        await asyncio.wait([call])
        return False

    def _stub_ended(self, servable: TritonServable) -> None:
        self._mark_away(servable)
        if self._held.get(servable.name) is servable:
            log.error("a model's process ended unasked", servable=servable.name)
            self._repairs.add(servable.name)

    async def _repair(self, name: str) -> Outcome:
        servable = self._held.get(name)
        if servable is None:
            return Done()
        async with servable.lock:
            if servable.available.is_set() or self._held.get(name) is not servable:
                return Done()
            try:
                # Triton believes that it is loaded; only after an unload does a load do anything.
                await self._have_unloaded(name, servable.stub)
                await self._bring_up(servable)
            except LoadFailed as error:
                return Retry(error.reason)
        log.info("repaired", servable=name)
        return Done()

    async def _let_go(self, name: str) -> None:
        servable = self._held.pop(name, None)
        self._repairs.forget(name)
        if servable is None:
            return
        self._mark_away(servable)
        async with servable.lock:
            await settle(self._discard(name, servable.stub))

    async def _discard(self, name: str, stub: Stub | None) -> None:
        """Leave nothing of a servable: in Triton, in memory, on disk. Bounded in time; never raises."""
        await self._have_unloaded(name, stub)
        await asyncio.to_thread(self._repository.remove, name)

    async def _have_unloaded(self, name: str, stub: Stub | None) -> None:
        """Triton answers at once and takes a second to end the model's process; killing it then is quicker and safe."""
        server = self._server
        if server is None:
            return
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        error = await _finish(server.call("RepositoryModelUnload", request, _UNLOAD_S))
        if error is not None:
            log.warning("unload failed", servable=name, reason=error.details())
        for each in {*await self._stubs(server, name), *([stub] if stub is not None else [])}:
            await end(each, _KILL_S)
            remove_region(self._shm_prefix, each.region)

    async def _ask(self, name: str, request: InferRequest) -> InferResponse:
        server = self._server
        if server is None:
            raise NotHeld(name)
        try:
            return rpc.decode_response(await server.call("ModelInfer", rpc.encode_request(name, request)))
        except grpc.aio.AioRpcError as error:
            fault = run_failure(error)
            if not isinstance(fault, InvalidArgument):
                log.warning("run failed", servable=name, code=error.code().name, details=error.details())
            raise fault from None
        except InvalidArgument as error:
            raise Internal(f"Triton's answer cannot be read: {error.detail}") from None

    def _running(self) -> TritonServer:
        if self._server is None:
            raise LoadFailed("Triton is being started again", permanent=False)
        return self._server

    async def _stubs(self, server: TritonServer, name: str) -> list[Stub]:
        return await asyncio.to_thread(find_stubs, server.pid, self._repository.script(name))

    @staticmethod
    def _mark_away(servable: TritonServable) -> None:
        servable.available.clear()
        if servable.watch is not None:
            servable.watch.close()
            servable.watch = None


async def _finish(call: Awaitable[object]) -> grpc.aio.AioRpcError | None:
    """Await a call of which only the failure is of interest, and return that."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None
