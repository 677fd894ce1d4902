"""Two sans-IO connections, or one and any other peer, joined in memory.

Bytes travel in pieces as small as the test wants, and every connection is validated after every step, so a test of
framing is a test of its invariants too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Protocol

from berth.http.events import DataReceived, DataSent, Event


class Connection(Protocol):
    """What all four connections have in common."""

    @property
    def closed(self) -> bool: ...
    @property
    def backlog(self) -> int: ...
    def receive(self, data: bytes) -> list[Event]: ...
    def output(self) -> bytes: ...
    def validate(self) -> None: ...
    def consume(self, stream_id: int, size: int) -> None: ...
    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool = False) -> int: ...


def now(value: bool) -> bool:
    """What an attribute says at this moment. Asserted bare, a type checker takes it to say so for ever after."""
    return value


def pieces(data: bytes, rng: random.Random | None) -> Iterator[bytes]:
    """`data` whole, or cut at random places: some pieces of a few bytes, some of many."""
    if rng is None:
        yield data
        return
    pos = 0
    while pos < len(data):
        size = rng.choice((1, 2, 7, 9, 10, 100, 4096, 70_000, len(data)))
        yield data[pos : pos + size]
        pos += size


def feed(connection: Connection, data: bytes, rng: random.Random | None = None) -> list[Event]:
    """Everything that `connection` reports about `data`, however it is cut."""
    events: list[Event] = []
    for piece in pieces(data, rng):
        events += connection.receive(piece)
        connection.validate()
    return events


def joined(events: list[Event]) -> list[Event]:
    """`events` with neighbouring body of the same stream made one: what does not depend on how bytes were cut."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, DataReceived)
            and isinstance(last, DataReceived)
            and last.stream_id == event.stream_id
            and not last.ended
        ):
            result[-1] = DataReceived(event.stream_id, last.data + event.data, event.ended)
        else:
            result.append(event)
    return result


class Link:
    """A client connection and a server connection. `settle` moves bytes both ways until neither has more to say."""

    def __init__(self, client: Connection, server: Connection, rng: random.Random | None = None) -> None:
        self.client = client
        self.server = server
        self._rng = rng
        self.at_client: list[Event] = []
        self.at_server: list[Event] = []

    def step(self) -> bool:
        """Move what both have to say now; false if that was nothing."""
        up, down = self.client.output(), self.server.output()
        self.at_server += feed(self.server, up, self._rng)
        self.at_client += feed(self.client, down, self._rng)
        return bool(up or down)

    def settle(self) -> None:
        while self.step():
            pass

    def take(self) -> tuple[list[Event], list[Event]]:
        """Events at the client and at the server since the last call."""
        taken = self.at_client, self.at_server
        self.at_client, self.at_server = [], []
        return taken


class Relay:
    """Passes one body from a source to a sink the way a proxy should: no byte is consumed before it was sent."""

    def __init__(self, source: Connection, source_id: int, sink: Connection, sink_id: int) -> None:
        self._source, self._source_id = source, source_id
        self._sink, self._sink_id = sink, sink_id
        self.waiting = 0
        self.most_waiting = 0

    def on_data(self, event: DataReceived) -> None:
        sent = self._sink.send_data(self._sink_id, event.data, event.ended)
        self.waiting += len(event.data) - sent
        self.most_waiting = max(self.most_waiting, self.waiting)
        self._source.consume(self._source_id, sent)

    def on_sent(self, event: DataSent) -> None:
        self.waiting -= event.size
        self._source.consume(self._source_id, event.size)
