"""An open loop of gRPC requests: they start on a fixed schedule, whatever the answers do.

A latency counts from the instant at which the request was due, so that a proxy that stalls is not sent fewer requests
to look good with (Gil Tene's coordinated omission). Written on bare frames, so that the generator takes a small part of
its core and what it measures is not itself.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hpack import Decoder

from bench import framing, payload
from bench.compare import quantile

_CONNECTIONS = 16
_DEADLINE_S = 3
# Small enough that even requests piled up behind a frozen replica fit HTTP/2's first windows: none are tracked here.
_REQUEST_BYTES = 64


class Sample(NamedTuple):
    """Seconds from when it was due to its end, and whether the answer was good."""

    latency: float
    good: bool


class Outcome(NamedTuple):
    """What became of the requests. Latencies are of all of them, in seconds: a failed one is no fast one.

    `goodput`: the share answered well within a second. `extra`: copies that replicas saw beyond one per request, as a
    share of the requests.
    """

    requests: int
    p50: float
    p95: float
    p99: float
    p999: float
    goodput: float
    extra: float


def summarize(samples: list[Sample], arrived: int) -> Outcome:
    """`arrived`: requests that the replicas have seen. At least one sample is needed."""
    ordered = sorted(sample.latency if sample.good else max(sample.latency, _DEADLINE_S) for sample in samples)
    good = sum(1 for sample in samples if sample.good and sample.latency <= 1.0)
    count = len(samples)
    p50, p95, p99, p999 = (quantile(ordered, share) for share in (0.5, 0.95, 0.99, 0.999))
    return Outcome(count, p50, p95, p99, p999, good / count, arrived / count - 1.0)


def median(rounds: Sequence[Outcome]) -> Outcome:
    """Of each figure the median round; of the requests, all."""
    middle = [statistics.median(figures) for figures in zip(*rounds, strict=True)]
    return Outcome(sum(outcome.requests for outcome in rounds), *middle[1:])


class _Connection(asyncio.Protocol):
    def __init__(self, report: Callable[[Sample], None]) -> None:
        self._report = report
        self._reader = framing.Reader()
        self._decoder = Decoder()
        self._clock = asyncio.get_running_loop().time
        self._next = 1
        self._due: dict[int, float] = {}
        fields = {
            ":method": "POST", ":scheme": "http", ":path": payload.GRPC_PATH, ":authority": "bench",
            "content-type": "application/grpc", "te": "trailers", "grpc-timeout": f"{_DEADLINE_S}S",
            "authorization": f"Bearer {payload.KEY}",
        }  # fmt: skip
        self._head = framing.header_block((name.encode(), value.encode()) for name, value in fields.items())
        self._body = payload.grpc_request(_REQUEST_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(framing.PREFACE + framing.opening())

    def send(self, due: float) -> None:
        stream, self._next = self._next, self._next + 2
        self._due[stream] = due
        self.transport.write(
            framing.frame(framing.HEADERS, framing.END_HEADERS, stream, self._head)
            + framing.frame(framing.DATA, framing.END_STREAM, stream, self._body)
        )

    def data_received(self, data: bytes) -> None:
        out = b""
        for kind, flags, stream, content in self._reader.frames(data):
            if kind == framing.HEADERS:
                # Every block has to be read, for the dynamic table's sake.
                fields = dict(self._decoder.decode(content, raw=True))
                if flags & framing.END_STREAM:
                    self._end(stream, fields.get(b"grpc-status") == b"0")
            elif kind == framing.RST_STREAM:
                self._end(stream, good=False)
            elif kind == framing.DATA and content:
                out += framing.window_update(0, len(content))
            elif kind == framing.SETTINGS and not flags & framing.ACK:
                out += framing.frame(framing.SETTINGS, framing.ACK, 0)
            elif kind == framing.PING and not flags & framing.ACK:
                out += framing.frame(framing.PING, framing.ACK, 0, content)
        if out:
            self.transport.write(out)

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in list(self._due):
            self._end(stream, good=False)

    def _end(self, stream: int, good: bool) -> None:
        due = self._due.pop(stream, None)
        if due is not None:
            self._report(Sample(self._clock() - due, good))


async def drive(port: int, rate: float, seconds: float) -> list[Sample]:
    """Send `rate` requests a second for so long, and wait for the last answer or its deadline."""
    loop = asyncio.get_running_loop()
    samples: list[Sample] = []
    total = int(rate * seconds)
    all_ended = asyncio.Event()

    def report(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) == total:
            all_ended.set()

    connections = []
    for _ in range(_CONNECTIONS):
        _, connection = await loop.create_connection(lambda: _Connection(report), "127.0.0.1", port)
        connections.append(connection)
    gc.disable()
    try:
        began = loop.time() + 0.05
        for number in range(total):
            due = began + number / rate
            if (ahead := due - loop.time()) > 0:
                await asyncio.sleep(ahead)
            connections[number % _CONNECTIONS].send(due)
        try:
            async with asyncio.timeout(_DEADLINE_S + 0.5):
                await all_ended.wait()
        except TimeoutError:
            # What has no answer is reported as failed when its connection goes.
            pass
    finally:
        gc.enable()
        for connection in connections:
            connection.transport.abort()
    async with asyncio.timeout(5):
        await all_ended.wait()
    return samples
