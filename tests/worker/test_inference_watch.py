"""What a worker says beside the answer: that a tied request has begun, and a span for a traced one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import pytest
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.http.events import DataReceived, Event, InformationalReceived, ResponseReceived, TrailersReceived
from berth.http.http1 import encoding
from berth.http.http1.client import Http1Client
from berth.http.http2 import header_codec
from berth.http.http2.client import Http2Client
from berth.ids import VersionKey
from berth.model import Signature, TensorSpec
from berth.tracing import Tracing
from doubles.otlp_collector import OtlpCollector
from worker.runtimes.protocol import Array, LentVersion, nobody
from worker.serving.server import InferenceServer, serve_inference

TOKEN = "t" * 40
KEY = VersionKey("acme", "digits", 3)
BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}'
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TWIN = (b"berth-twin", b"id-2")
TRACED = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())


class Queued:
    """A version whose runs wait until `turn` is set, and then for `go`; they begin in a thread of the runtime's.

    `given_up` says that one was cancelled before its turn.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.signature = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("x", "FP32", (-1,)),))
        self.at_once = at_once
        self.asked, self.turn, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.given_up = asyncio.Event()

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array] | None:
        return dict(inputs) if self.at_once else None

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        self.asked.set()
        try:
            await self.turn.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        thread = threading.Thread(target=started)
        thread.start()
        thread.join()
        await self.go.wait()
        return dict(inputs)

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Never."""

    async def unload(self) -> None:
        raise AssertionError("only the keeper unloads")


class Shelf:
    def __init__(self, loaded: Queued) -> None:
        self.loaded = loaded

    def held(self) -> frozenset[VersionKey]:
        return frozenset({KEY})

    def acquire(self, key: VersionKey) -> AbstractContextManager[LentVersion]:
        @contextlib.contextmanager
        def borrow() -> Iterator[LentVersion]:
            yield self.loaded

        return borrow()


@contextlib.asynccontextmanager
async def serving(loaded: Queued, tracing: Tracing | None = None) -> AsyncIterator[InferenceServer]:
    async with (
        asyncio.timeout(20),
        serve_inference(
            Shelf(loaded),
            credential=PeerCredential.from_token(TOKEN),
            grpc_address="127.0.0.1:0",
            http_address="127.0.0.1:0",
            replica="w-1",
            registry=CollectorRegistry(),
            tracing=tracing,
        ) as server,
    ):
        yield server


class Asking:
    """One request, as a router sends it; `next` is what comes back, event by event."""

    def __init__(self, wire: str, port: int, *fields: tuple[bytes, bytes]) -> None:
        self._port = port
        self._events: list[Event] = []
        mine = ((b"berth-credential", TOKEN.encode()), (b"x-request-id", b"id"), *fields)
        self._http: Http1Client | Http2Client
        if wire == "rest":
            self._http = Http1Client()
            path = b"/v2/models/%b/infer" % KEY.servable.encode()
            block = encoding.encode_request(b"POST", b"worker", path, mine)
            self._stream = self._http.open(block, length=len(BODY))
            self._http.send_data(self._stream, BODY, True)
        else:
            self._http = Http2Client()
            message = service_pb2.ModelInferRequest(model_name=KEY.servable)
            message.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
            raw = message.SerializeToString()
            given = ((b"te", b"trailers"), (b"content-type", b"application/grpc"), *mine)
            path = b"/inference.GRPCInferenceService/ModelInfer"
            self._stream = self._http.open(header_codec.encode_request(b"POST", b"http", b"worker", path, given))
            self._http.send_data(self._stream, b"\0" + len(raw).to_bytes(4, "big") + raw, True)

    async def __aenter__(self) -> Asking:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._http.output())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def next(self) -> Event:
        kinds = InformationalReceived | ResponseReceived | DataReceived | TrailersReceived
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, kinds):
                    return event
            data = await self._reader.read(65536)
            assert data, "the connection was closed"
            self._events = self._http.receive(data)
            self._writer.write(self._http.output())


def port_of(server: InferenceServer, wire: str) -> int:
    return server.http_port if wire == "rest" else server.grpc_port


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_tied_request_says_when_it_begins(wire: str) -> None:
    loaded = Queued()
    async with serving(loaded) as server, Asking(wire, port_of(server, wire), TWIN) as asking:
        await loaded.asked.wait()
        coming = asyncio.create_task(asking.next())
        # Another request goes all the way meanwhile: nothing is said while the first one waits.
        other = Queued(at_once=True)
        async with serving(other) as beside, Asking(wire, port_of(beside, wire)) as quick:
            assert isinstance(await quick.next(), ResponseReceived)
        assert not coming.done()
        loaded.turn.set()
        begun = await coming
        assert isinstance(begun, InformationalReceived)
        assert (begun.head.status, begun.head.get(b"berth-started")) == (102, b"1")
        loaded.go.set()
        answer = await asking.next()
        assert isinstance(answer, ResponseReceived)
        assert answer.head.status == 200
        assert answer.head.get(b"berth-started") is None
        assert isinstance(await asking.next(), DataReceived)


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize(("at_once", "fields"), [(False, ()), (True, (TWIN,))], ids=["not tied", "answered at once"])
async def test_nothing_is_said_to_who_does_not_need_it(
    wire: str, fields: tuple[tuple[bytes, bytes], ...], *, at_once: bool
) -> None:
    loaded = Queued(at_once=at_once)
    loaded.turn.set()
    loaded.go.set()
    async with serving(loaded) as server, Asking(wire, port_of(server, wire), *fields) as asking:
        assert isinstance(await asking.next(), ResponseReceived)


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_traced_request_has_spans_here(wire: str) -> None:
    loaded = Queued()
    loaded.turn.set()
    loaded.go.set()
    async with OtlpCollector().serve() as collector:
        tracing = Tracing(collector.endpoint, 0.0, {"service.name": "berth-worker"})
        async with serving(loaded, tracing) as server:
            for fields in ((TRACED,), (), ((b"traceparent", TRACED[1][:-1] + b"0"),)):
                async with Asking(wire, port_of(server, wire), *fields) as asking:
                    assert isinstance(await asking.next(), ResponseReceived)
        await tracing.close()
    [inference] = collector.named("inference")
    [run] = collector.named("run")
    assert (inference.kind, inference.trace_id, inference.parent_id) == ("server", TRACE, SPAN)
    assert (run.trace_id, run.parent_id) == (TRACE, inference.span_id)
    assert inference.start <= run.start <= run.end <= inference.end
    assert inference.attributes == {"berth.replica": "w-1", "berth.cancelled": False}


@pytest.mark.parametrize("wire", ["rest", "grpc"])
async def test_a_traced_request_that_is_given_up_ends_its_span(wire: str) -> None:
    loaded = Queued()
    async with OtlpCollector().serve() as collector:
        tracing = Tracing(collector.endpoint, 0.0, {"service.name": "berth-worker"})
        async with serving(loaded, tracing) as server:
            async with Asking(wire, port_of(server, wire), TRACED, TWIN):
                await loaded.asked.wait()
            await loaded.given_up.wait()
            # Begins, if it ever does, when nobody listens any more.
            loaded.turn.set()
        await tracing.close()
    [inference] = collector.named("inference")
    assert inference.attributes["berth.cancelled"] is True
    assert not collector.named("run")
