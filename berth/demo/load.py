"""A steady load of real inference requests, over REST and gRPC. Every single request is accounted for.

Requests start on a fixed schedule, whatever the answers do, and a latency counts from the scheduled instant. So a
server that stalls gets no fewer requests and looks no better (Gil Tene's coordinated omission). Nothing is retried.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import aiohttp
import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from berth.errors import InvalidArgument
from berth.headers import AUTHORIZATION_TEXT, INFERENCE_HEADER_LENGTH_TEXT, REPLICA_TEXT
from berth.oip import rest, rpc
from berth.oip.datatypes import Array
from berth.oip.request import InferRequest

Inputs = Mapping[str, Array]


class VersionedAnswer(NamedTuple):
    """What came back: the tensors, the version that made them, and the replica it ran on."""

    outputs: Mapping[str, Array]
    version: str
    replica: str


class RequestFailed(Exception):
    pass


class LoadTarget(Protocol):
    """Something to send requests to."""

    @property
    def protocol(self) -> str: ...

    async def ask(self, inputs: Inputs) -> VersionedAnswer:
        """Send one request. Raises `RequestFailed` for everything but a good answer."""


@dataclass(frozen=True, slots=True)
class LoadSample:
    """What became of one request. `index` says which inputs were sent; instants are the loop's time."""

    index: int
    protocol: str
    due_at: float
    ended_at: float
    answer: VersionedAnswer | None
    error: str = ""

    @property
    def latency_s(self) -> float:
        return self.ended_at - self.due_at

    @property
    def version(self) -> str:
        return "" if self.answer is None else self.answer.version


class Summary(NamedTuple):
    """Latencies in seconds, of good answers only."""

    requests: int
    failed: int
    p50: float
    p99: float
    replicas: Counter[str]
    versions: Counter[str]
    errors: Counter[str]


@dataclass(slots=True)
class SteadyLoad:
    """Sends `inputs` in turn, to `targets` in turn, `rate` requests a second, until its task is cancelled.

    `samples` grows in the order in which requests end. With more than `most_in_flight` under way new ones wait, and
    their wait is in their latency.
    """

    targets: Sequence[LoadTarget]
    inputs: Sequence[Inputs]
    rate: float
    most_in_flight: int = 256
    samples: list[LoadSample] = field(default_factory=list)
    _ended: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Send until cancelled; requests under way are then finished, not abandoned."""
        slots = asyncio.Semaphore(self.most_in_flight)
        clock = asyncio.get_running_loop().time
        began = clock()
        async with asyncio.TaskGroup() as requests:
            try:
                for number in range(1 << 62):
                    due = began + number / self.rate
                    await asyncio.sleep(due - clock())
                    await slots.acquire()
                    requests.create_task(self._send(number, due, slots))
            except asyncio.CancelledError:
                # Told to stop: the group still waits for what it has sent.
                return

    async def wait_for(self, count: int, timeout_s: float = 60.0) -> None:
        """Return when `count` requests in all have ended. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s), self._ended:
            await self._ended.wait_for(lambda: len(self.samples) >= count)

    async def _send(self, number: int, due: float, slots: asyncio.Semaphore) -> None:
        index = number % len(self.inputs)
        target = self.targets[number % len(self.targets)]
        answer, error = None, ""
        try:
            answer = await target.ask(self.inputs[index])
        except RequestFailed as failure:
            error = str(failure) or type(failure).__name__
        finally:
            slots.release()
        async with self._ended:
            self.samples.append(
                LoadSample(index, target.protocol, due, asyncio.get_running_loop().time(), answer, error)
            )
            self._ended.notify_all()


@asynccontextmanager
async def steady_load(
    targets: Sequence[LoadTarget], inputs: Sequence[Inputs], rate: float, most_in_flight: int = 256
) -> AsyncIterator[SteadyLoad]:
    """A load that runs while the context is open; on leaving it, requests under way are finished."""
    load = SteadyLoad(targets, inputs, rate, most_in_flight)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(load.run(), name="steady load")
        try:
            yield load
        finally:
            task.cancel()


def summarize(samples: Iterable[LoadSample]) -> Summary:
    """Counts and quantiles of `samples`."""
    everything = list(samples)
    good = [sample for sample in everything if sample.answer is not None]
    latencies = sorted(sample.latency_s for sample in good)
    return Summary(
        requests=len(everything),
        failed=len(everything) - len(good),
        p50=quantile(latencies, 0.50),
        p99=quantile(latencies, 0.99),
        replicas=Counter(sample.answer.replica for sample in good if sample.answer),
        versions=Counter(sample.version for sample in good),
        errors=Counter(f"{sample.protocol}: {sample.error}" for sample in everything if sample.error),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of an ascending sequence; 0.0 of an empty one."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class RestTarget:
    """OIP over REST with binary tensors, on kept connections."""

    protocol = "REST"

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, inputs: Inputs) -> VersionedAnswer:
        body = rest.encode_request(InferRequest(inputs, binary_outputs=True), binary=True)
        try:
            async with self._session.post(self._url, data=body.content, headers=body.headers) as reply:
                content = await reply.read()
                if reply.status != 200:
                    raise RequestFailed(f"status {reply.status}: {content[:300].decode(errors='replace')}")
                response = rest.decode_response(content, reply.headers.get(INFERENCE_HEADER_LENGTH_TEXT))
                return VersionedAnswer(response.outputs, response.version, reply.headers.get(REPLICA_TEXT, ""))
        except (aiohttp.ClientError, TimeoutError, InvalidArgument) as error:
            raise RequestFailed(f"{type(error).__name__}: {error}") from None


class GrpcTarget:
    """OIP over gRPC, on one channel."""

    protocol = "gRPC"

    def __init__(self, channel: grpc.aio.Channel, model: str, version: str, key: str, timeout_s: float) -> None:
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._model = model
        self._version = version
        self._metadata = ((AUTHORIZATION_TEXT, f"Bearer {key}"),)
        self._timeout_s = timeout_s

    async def ask(self, inputs: Inputs) -> VersionedAnswer:
        message: service_pb2.ModelInferRequest = rpc.encode_request(self._model, InferRequest(inputs))
        message.model_version = self._version
        try:
            call = self._stub.ModelInfer(message, metadata=self._metadata, timeout=self._timeout_s)
            response = rpc.decode_response(await call)
            metadata = dict(await call.initial_metadata() or ())
        except grpc.aio.AioRpcError as error:
            raise RequestFailed(f"{error.code().name}: {error.details()}") from None
        except InvalidArgument as error:
            raise RequestFailed(error.detail) from None
        return VersionedAnswer(response.outputs, response.version, str(metadata.get(REPLICA_TEXT, "")))


@asynccontextmanager
async def open_targets(
    *,
    model: str,
    key: str,
    rest_urls: Sequence[str] = (),
    grpc_targets: Sequence[str] = (),
    version: str = "",
    timeout_s: float = 10.0,
) -> AsyncIterator[list[LoadTarget]]:
    """One target for each base URL and each `host:port` of a router, open while the context is."""
    of_version = f"/versions/{version}" if version else ""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                headers={AUTHORIZATION_TEXT: f"Bearer {key}"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                connector=aiohttp.TCPConnector(limit=0),
            )
        )
        targets: list[LoadTarget] = [
            RestTarget(session, f"{url.rstrip('/')}/v2/models/{model}{of_version}/infer") for url in rest_urls
        ]
        for address in grpc_targets:
            # A channel of its own, and no proxy from the environment.
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            targets.append(GrpcTarget(channel, model, version, key, timeout_s))
        yield targets
