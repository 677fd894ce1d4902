"""A Triton of the worker's own: started, watched, and started again.

Three things break. A load can hang: after a while its process is killed, and if that does not help, Triton. A model's
process can die, which Triton does not notice. Triton can die: it is started again. When it cannot be, the worker is
asked to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import structlog

from berth.auth.peer import PeerCredential
from berth.model import VersionSpec
from berth.reconcile import Backoff
from berth.settings import SettingsError, environment
from berth.settling import settle
from worker.runtimes.protocol import LoadFailed
from worker.runtimes.triton.installation import Installation, locate
from worker.runtimes.triton.link import TritonLink
from worker.runtimes.triton.process import TritonServer, TritonStartFailed
from worker.runtimes.triton.repository import Repository
from worker.runtimes.triton.runtime import LOAD_TIMEOUT_S, NotFit, TritonRuntime, end_worker
from worker.runtimes.triton.servable import TritonServable
from worker.runtimes.triton.shared_memory import remove_region
from worker.runtimes.triton.stubs import ProcessWatch, Stub, end, find_stubs, own_bytes
from worker.settings import TritonBackend

log = structlog.get_logger(__name__)

# What Triton needs to give a load up once its process is dead: measured, 1 s.
GIVE_UP_S = 6.0
_KILL_S = 2.0
# Until when the process of a model has surely started: measured, 0.1 to 0.3 s.
_START_S = 2.0
# Starts in a row that may fail before the worker is given up.
_RESTARTS = 5
# A broken connection shows at most this much earlier than the end of the process.
_ABORT_S = 0.3


@contextlib.asynccontextmanager
async def open_triton(home: Path, work_dir: Path, **options: Any) -> AsyncIterator[ChildTriton]:
    """A running Triton while the context is open. As `ChildTriton.start`."""
    runtime = await ChildTriton.start(home, work_dir, **options)
    try:
        yield runtime
    finally:
        await runtime.close()


class ChildTriton(TritonRuntime):
    """Implements `ModelRuntime`. Make it with `start` or `open_triton`, end it with `close`."""

    def __init__(
        self,
        installation: Installation,
        work_dir: Path,
        *,
        instance: str,
        credential: PeerCredential,
        native_onnx: bool,
        threads: int,
        load_timeout_s: float,
        give_up_s: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._work_dir = work_dir = work_dir.absolute()
        super().__init__(
            Repository(work_dir / "models", native_onnx=native_onnx, threads=threads),
            load_timeout_s=load_timeout_s,
            on_lost=on_lost,
        )
        self._installation = installation
        self._credential = credential
        self._give_up_s = give_up_s
        # Fixed length, closed by an underscore: no instance's prefix begins another's.
        identity = f"{work_dir}\0{instance}".encode()
        self.shm_prefix = f"berth_{hashlib.sha256(identity).hexdigest()[:12]}_"
        # None while there is none: before the start, between two lives, after the end.
        self.server: TritonServer | None = None
        # Set when Triton is launched next; another one then takes its place.
        self._next_life = asyncio.Event()
        self._measuring = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        home: Path,
        work_dir: Path,
        *,
        instance: str,
        credential: PeerCredential | None = None,
        backend: TritonBackend = TritonBackend.AUTO,
        threads: int = 1,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        give_up_s: float = GIVE_UP_S,
        on_lost: Callable[[], None] = end_worker,
    ) -> ChildTriton:
        """Start the Triton installed at `home` and make sure that it computes right.

        `work_dir` is this worker's alone; what an earlier life left there is removed. `threads`: how many each model
        may use for one operator. A load is called off after `load_timeout_s`, and Triton itself is ended if that does
        not help within `give_up_s`. `on_lost` is called when Triton cannot be started again. Raises `SettingsError`.
        """
        installation = locate(home)
        if backend is TritonBackend.ONNXRUNTIME and not installation.native_onnx:
            raise SettingsError(f"BERTH_TRITON_BACKEND is onnxruntime, but the Triton at {home} has only python")
        runtime = cls(
            installation,
            work_dir,
            instance=instance,
            credential=credential or PeerCredential(),
            native_onnx=installation.native_onnx and backend is not TritonBackend.PYTHON,
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
        runtime._care(runtime._keep_running())
        return runtime

    async def close(self) -> None:
        """End Triton. What was loaded is gone afterwards."""
        self._is_down("the worker ends")
        self._held.clear()
        await self._stop_caring()
        server, self.server = self.server, None
        if server is not None:
            await settle(server.end())

    # Starting, and starting again

    def _prepare(self) -> None:
        self._work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.repository.clear()
        log_file = self._work_dir / "triton.log"
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.1"))

    async def _launch(self) -> None:
        """Raises `TritonStartFailed` if it does not start, or computes wrong."""
        server = await TritonServer.start(
            self._installation,
            models=self.repository.path,
            log_file=self._work_dir / "triton.log",
            shm_prefix=self.shm_prefix,
            credential=self._credential,
            environ=environment(),
        )
        self.server = server
        try:
            await self._try_canary(server.link)
        except BaseException as error:
            self.server = None
            await settle(server.end())
            if isinstance(error, NotFit):
                raise TritonStartFailed(str(error)) from None
            raise
        self._is_up(server.link)
        launched, self._next_life = self._next_life, asyncio.Event()
        launched.set()
        log.info("triton started", pid=server.pid, native_onnx=self.repository.native_onnx)

    async def _keep_running(self) -> None:
        """Raises `TritonStartFailed` when it does not start again."""
        while True:
            await self._restart_when_ended()

    async def _restart_when_ended(self) -> None:
        server = self.server
        assert server is not None
        status = await server.wait()
        self.server = None
        log.error("triton ended unasked", status=status, held=len(self._held))
        self._is_down("Triton ended unasked and is being started again")
        await server.end()
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

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        """Without a process of its own (native backend) a model is measured by what Triton's grew."""
        return self._measured_alone() if self.repository.native_onnx else super().turn(spec)

    @contextlib.asynccontextmanager
    async def _measured_alone(self) -> AsyncIterator[None]:
        # Whoever waits for Triton does not do so one after the other.
        await self._wait_until_up()
        async with self._measuring:
            yield

    async def _bring_up(self, servable: TritonServable) -> None:
        """Triton now and then aborts in a load that follows one that was called off; its next life does load it."""
        # It may have ended while the repository was written.
        await self._wait_until_up()
        server, next_life = self.server, self._next_life
        try:
            await self._load_once(servable)
        except LoadFailed as failure:
            if failure.permanent or server is None or not await server.has_ended(within=_ABORT_S):
                raise
            log.warning("triton ended during a load", servable=servable.name)
            try:
                async with asyncio.timeout(self.load_timeout_s):
                    await next_life.wait()
            except TimeoutError:
                raise failure from None
            await self._load_once(servable)

    async def _load_once(self, servable: TritonServable) -> None:
        """Raises `LoadFailed`."""
        server = self.server
        if server is None:
            raise LoadFailed("Triton is being started again", permanent=False)
        if self.repository.native_onnx:
            before = own_bytes(server.pid)
            await self._have_loaded(servable)
            servable.weigh = lambda: own_bytes(server.pid) - before
            return
        await self._have_loaded(servable)
        stubs = await self._stubs(server, servable.name)
        if not stubs:
            raise LoadFailed("the model's process ended as soon as it was loaded", permanent=False)
        servable.stub = stub = stubs[0]
        servable.weigh = lambda: own_bytes(stub.pid)
        servable.watch = ProcessWatch(stub.pid, lambda: servable.lose("the model's process ended unasked"))

    async def _call_off(self, link: TritonLink, servable: TritonServable, call: asyncio.Future[Any]) -> bool:
        """Cancelling the call would only hide the load. False if Triton had to be killed for it.

        Triton waits for ever for a process that dies while it starts; so a load is first given time to get past that
        point, and most are done by then.
        """
        server = self.server
        await asyncio.wait([call], timeout=_START_S)
        if not call.done() and server is not None and server.link is link:
            log.warning("load is called off: killing the model's process", servable=servable.name)
            for stub in await self._stubs(server, servable.name):
                stub.kill()
            await asyncio.wait([call], timeout=self._give_up_s)
            if not call.done():
                log.error("load hangs without a process: killing triton", servable=servable.name)
                server.kill()
                await asyncio.wait([call])
                return False
        await asyncio.wait([call])
        return True

    async def _sweep(self, servable: TritonServable) -> None:
        """End the model's processes: Triton takes a second to; killing them is quicker, and safe once it unloads."""
        found = set() if self.server is None else {*await self._stubs(self.server, servable.name)}
        for stub in found | ({servable.stub} if servable.stub is not None else set()):
            await end(stub, _KILL_S)
            remove_region(self.shm_prefix, stub.region)

    async def _stubs(self, server: TritonServer, name: str) -> list[Stub]:
        return await asyncio.to_thread(find_stubs, server.pid, self.repository.script(name))
