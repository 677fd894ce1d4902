"""A client that goes on asking and never reads: what it costs stays bounded, and it is cut off. Seen through the whole
of what the router and the worker put on a connection, on a transport that takes everything and passes on nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.http.http2 import frames, header_codec
from berth.http.limits import Http1Limits, Http2Limits
from berth.http_shell.link import Shared
from berth.http_shell.links import Links, ShellLimits
from berth.http_shell.server import MOST_UNSENT, Accept, ServerLink
from berth.ids import VersionKey
from doubles.bare_router import make_clients
from worker.core.loads import Loads
from worker.runtimes.protocol import Loaded, NotHeld
from worker.serving.answering import Answering
from worker.serving.conversation import Conversation
from worker.serving.exchange import InferenceService
from worker.serving.metrics import InferenceMetrics

HIGH_WATER = 256 * 1024
READ = 32 * 1024
# A read of the smallest requests there are, each answered with a page: more than this is growth without bound.
ONE_READ_COSTS = 2 * 1024 * 1024


class Stuffed(asyncio.Transport):
    """The peer's window is shut: what is written stays here."""

    def __init__(self) -> None:
        super().__init__()
        self.link: ServerLink
        self.waiting = 0
        self.reading = True
        self.ended = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Its own."""

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: Any) -> None:
        was_full, self.waiting = self.waiting > HIGH_WATER, self.waiting + len(data)
        if self.waiting > HIGH_WATER and not was_full:
            self.link.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.ended

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The peer does not read that either."""

    def abort(self) -> None:
        if not self.ended:
            self.ended = True
            self.link.connection_lost(None)

    close = abort


class NothingLoaded:
    """A worker that holds no version."""

    def acquire(self, key: VersionKey) -> AbstractContextManager[Loaded]:
        raise NotHeld(key)

    def held(self) -> frozenset[VersionKey]:
        return frozenset()


def router() -> tuple[Links, Accept]:
    clients = make_clients()
    return clients.links, clients.accept


def worker() -> tuple[Links, Accept]:
    metrics = InferenceMetrics(CollectorRegistry())
    service = InferenceService(
        Answering(NothingLoaded(), "w-1", metrics, Loads()), PeerCredential.from_token("t" * 43), 1 << 20, 30.0
    )
    links = Links(Shared(asyncio.get_running_loop()), ShellLimits(), Http1Limits(), Http2Limits(control_frames=10_000))
    return links, lambda link: Conversation(service, link)


def http1(n: int) -> bytes:
    return b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"


def refusals(n: int) -> bytes:
    """Calls that are answered by a head alone, which no window holds back."""
    block = header_codec.encode_request(
        b"POST", b"http", b"h", b"/none", ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
    )
    return frames.headers(2 * n + 1, block, end_stream=True, max_frame=16384)


def pages(n: int) -> bytes:
    block = header_codec.encode_request(b"GET", b"http", b"h", b"/v2/health/live", ())
    return frames.headers(2 * n + 1, block, end_stream=True, max_frame=16384)


def pings(n: int) -> bytes:
    return frames.ping(b"%08d" % n)


def settings(n: int) -> bytes:
    return frames.settings({})


OPENING = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)


@pytest.mark.looptime
@pytest.mark.parametrize("component", [router, worker])
@pytest.mark.parametrize(
    ("ask", "a_second"),
    [
        pytest.param(http1, 100_000, id="HTTP/1.1 requests sent ahead"),
        pytest.param(refusals, 20_000, id="calls that are refused"),
        pytest.param(pages, 20_000, id="many streams"),
        pytest.param(pings, 900, id="PING, as often as is allowed"),
        pytest.param(pings, 20_000, id="PING, more often"),
        pytest.param(settings, 900, id="SETTINGS"),
    ],
)
async def test_memory_is_bounded_and_the_connection_is_cut(
    component: Callable[[], tuple[Links, Accept]], ask: Callable[[int], bytes], a_second: int
) -> None:
    links, accept = component()
    links.start()
    transport = Stuffed()
    link = transport.link = ServerLink(links, accept)
    link.connection_made(transport)
    if ask is not http1:
        hear(link, OPENING)
    asked = peak = 0
    async with asyncio.timeout(120.0):
        while not transport.ended:
            for _ in range(100):
                if not transport.reading or transport.ended:
                    break
                said = b"".join(ask(n) for n in range(asked, asked + a_second // 100))
                asked += a_second // 100
                for start in range(0, len(said), READ):
                    hear(link, said[start : start + READ])
                    # What it marked is written in the next turn.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                peak = max(peak, transport.waiting)
            await asyncio.sleep(1.0)
    assert peak <= MOST_UNSENT + ONE_READ_COSTS
    assert len(links) == 0
    links.close()


def hear(link: ServerLink, data: bytes) -> None:
    buffer = link.get_buffer(-1)
    buffer[: len(data)] = data
    link.buffer_updated(len(data))
