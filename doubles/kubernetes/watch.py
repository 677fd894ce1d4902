"""One watch: events of a kind from a version on, as lines of JSON, through a selector, with the faults it is to meet.

What a selector makes of an event is a pure function. The stream polls nothing: it sleeps until the store has news.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from doubles.kubernetes.faults import Fault
from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.selectors import Match
from doubles.kubernetes.status import ApiError, expired
from doubles.kubernetes.store import Event, Store

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class ConnectionReset(Exception):
    """The stream is to end as if the network had cut it."""


def seen(event: Event, match: Match | None) -> str | None:
    """What a watch with a selector sees of an event: ADDED, MODIFIED, DELETED, or nothing."""
    before = event.previous is not None and (match is None or match(event.previous))
    if event.deleted:
        return "DELETED" if before else None
    after = match is None or match(event.object)
    if after:
        return "MODIFIED" if before else "ADDED"
    return "DELETED" if before else None


def line(event: Event, match: Match | None) -> bytes | None:
    """The event as the stream carries it. One that leaves the selector shows the last state that was in it."""
    type_ = seen(event, match)
    if type_ is None:
        return None
    if type_ == "DELETED" and not event.deleted and event.previous is not None:
        metadata = event.previous["metadata"] | {"resourceVersion": str(event.version)}
        return _line(type_, event.previous | {"metadata": metadata})
    return b'{"type":"' + type_.encode() + b'","object":' + event.line() + b"}\n"


def _line(type_: str, value: Object) -> bytes:
    return json.dumps({"type": type_, "object": value}, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch asks. `after` None: begin with what there is now. Times in seconds."""

    after: int | None
    match: Match | None = None
    bookmarks: bool = False
    initial_end: bool = False
    """Say by a bookmark when what there is now has been sent."""
    timeout_s: float = 1800.0


class Watch:
    """A running watch. `bookmark`, `reset` and `expire` act on it at once."""

    def __init__(
        self, store: Store, kind: Kind, options: WatchOptions, fault: Fault | None, bookmark_interval_s: float
    ) -> None:
        self.kind = kind
        self._store = store
        self._options = options
        self._fault = fault
        self._interval = bookmark_interval_s
        self._position = 0
        self._sent = 0
        self._command = ""

    def __repr__(self) -> str:
        return f"<Watch of {self.kind.resource} at {self._position}>"

    def bookmark(self) -> None:
        self._order("bookmark")

    def reset(self) -> None:
        self._order("reset")

    def expire(self) -> None:
        self._order("expire")

    def close(self) -> None:
        """End it as the server does when it stops."""
        self._order("close")

    async def lines(self) -> AsyncIterator[bytes]:
        """The stream, until its time is over. Raises `ConnectionReset`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.timeout_s
        bookmark_at = loop.time() + self._interval
        try:
            for initial in self._initial():
                yield initial
            while True:
                if found := self._obey():
                    yield found
                if self._command == "close":
                    return
                events = self._store.events(self.kind, self._position)
                if events:
                    async for sent in self._send(events):
                        yield sent
                    continue
                now = loop.time()
                if now >= min(deadline, bookmark_at):
                    bookmark_at = now + self._interval
                    if self._options.bookmarks:
                        yield self._bookmark()
                    if now >= deadline:
                        return
                await self._news(min(deadline, bookmark_at) - loop.time())
        except ApiError as error:
            yield _line("ERROR", error.body)

    def _initial(self) -> list[bytes]:
        after = self._options.after
        self._position = self._store.version if after is None else after
        if after is not None:
            self._store.events(self.kind, after)  # raises where history does not reach back
            return []
        match = self._options.match
        lines = [_line("ADDED", value) for value in self._store.items(self.kind) if match is None or match(value)]
        if self._options.initial_end and self._options.bookmarks:
            lines.append(self._bookmark({INITIAL_EVENTS_END: "true"}))
        return lines

    async def _send(self, events: Sequence[Event]) -> AsyncIterator[bytes]:
        for event in events:
            self._position = event.version
            written = line(event, self._options.match)
            if written is None:
                continue
            await self._suffer()
            if self._fault is not None and self._fault.action == "bookmarks":
                continue
            self._sent += 1
            yield written

    async def _suffer(self) -> None:
        """Meet the fault, if this event is the one that does."""
        fault = self._fault
        if fault is None or self._sent < fault.after_events:
            return
        match fault.action:
            case "slow":
                await asyncio.sleep(fault.delay_s)
            case "reset":
                raise ConnectionReset
            case "expired":
                raise expired("too old resource version: scripted")
            case "lose":
                self._store.compact([self.kind.resource])
                raise expired("The resourceVersion for the provided watch is too old.")

    def _obey(self) -> bytes | None:
        command, self._command = self._command, "close" if self._command == "close" else ""
        match command:
            case "reset":
                raise ConnectionReset
            case "expire":
                raise expired("too old resource version: scripted")
            case "bookmark" if self._options.bookmarks:
                return self._bookmark() if not self._store.events(self.kind, self._position) else None
        return None

    def _bookmark(self, annotations: Object | None = None) -> bytes:
        """Everything up to the store's version has been sent: the watch can go on from there."""
        self._position = self._store.version
        metadata: Object = {"resourceVersion": str(self._position), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        return _line("BOOKMARK", {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": metadata})

    def _order(self, command: str) -> None:
        self._command = command
        self._store.news.tell()

    async def _news(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._store.news.next()
        except TimeoutError:
            return
