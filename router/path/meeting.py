"""The client's side, the race and the replicas' side meet here: each knows this of the others, and no more.

`Asking` is a request with the one who waits for its answer, `UnderWay` carries it, `Copy` is one copy of it, `Upstream`
and `Carrier` take copies to a replica. The packages beside this module know each other only by these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Protocol

from berth.errors import BerthError
from berth.http.head import ResponseHead
from berth.http_shell.link import Link
from berth.model import ReplicaAddress
from router.connection.common import Common
from router.connection.ledger import Ledger
from router.core.attempts import Failure
from router.core.paths import Operation
from router.core.race import Runner
from router.core.renaming import Renaming
from router.path.answer import HELD, Answer
from router.path.request import Envelope, Request, Wire

_COUNTED: Final = 16 * 1024
_WHOLE: Final = "this request is asked and answered whole"


class Asking(Request):
    """A request, complete or (a stream) as far as it has come, and somebody who waits for the answer.

    Of `answered`, `refused` and `begun` exactly one is called, unless what is under way was cancelled; after `begun`
    any number of `more`, then `ended` or `broken`. How much of an answer is `held_back` until it is complete, bytes.
    """

    __slots__ = ("held_back", "under_way")

    def __init__(self, wire: Wire, operation: Operation, envelope: Envelope) -> None:
        super().__init__(wire, operation, envelope)
        self.held_back = HELD
        self.under_way: UnderWay | None = None

    @property
    def repeatable(self) -> bool:
        """Whether everything sent to a copy can be sent again: `body`, and the bytes pushed."""
        return True

    @property
    def longest_message(self) -> int:
        """Bytes of one message of a request that is not complete."""
        raise TypeError(_WHOLE)

    def carried(self) -> None:
        """A copy of a request that is not complete has found its connection: the rest can be pushed, from the start."""
        raise TypeError(_WHOLE)

    def passed_on(self) -> None:
        """All bytes of an incomplete request that were given to the copy have gone."""
        raise TypeError(_WHOLE)

    @abstractmethod
    def answered(self, answer: Answer) -> None:
        """The whole answer of a replica."""

    @abstractmethod
    def refused(self, error: BerthError) -> None:
        """No replica gave one."""

    def begun(self, answer: Answer, copy: Copy) -> None:
        """The head and perhaps some of the body; more follows."""
        raise TypeError(_WHOLE)

    def more(self, chunk: bytes, ended: bool) -> int:
        """More of the body. Returns how many bytes went on; for the others `Copy.consumed` is owed."""
        raise TypeError(_WHOLE)

    def ended(self, answer: Answer) -> None:
        """The trailers came, or the body ended without."""
        raise TypeError(_WHOLE)

    def broken(self) -> None:
        """The replica was lost in the middle of its answer, or the deadline passed."""
        raise TypeError(_WHOLE)


class UnderWay(ABC):
    """A request that is being carried, as its copies, its client and the clocks call it."""

    __slots__ = ("request",)

    def __init__(self, request: Asking) -> None:
        self.request = request

    @abstractmethod
    def answered(self, copy: Copy, answer: Answer) -> None:
        """The whole answer of a copy, or the end of one that passed through."""

    @abstractmethod
    def begins(self, copy: Copy, faulty: bool) -> None:
        """The answer is too long to be held back, or is wanted as it comes. `faulty`: another might better it."""

    @abstractmethod
    def begins_to_run(self, copy: Copy) -> None:
        """The replica of a tied copy has begun to compute."""

    @abstractmethod
    def failed(self, copy: Copy, failure: Failure, why: str, pushback: float | None) -> None:
        """A copy brought no answer."""

    @property
    @abstractmethod
    def only_copy(self) -> Copy | None:
        """The copy of a request that is never hedged, while it is under way."""

    @abstractmethod
    def seconds_left(self) -> float:
        """Until the deadline."""

    @abstractmethod
    def cancel(self) -> None:
        """The client has gone: every copy is withdrawn."""

    @abstractmethod
    def hedge_due(self) -> None:
        """The first copy takes unusually long."""

    @abstractmethod
    def pause_over(self) -> None:
        """Its time has passed, or a new table has come."""

    @abstractmethod
    def deadline_passed(self) -> None:
        """Nobody needs the answer any more."""


class Carrier(Link):
    """A connection to a replica, on either wire. Keeps the copies that it carries, and tells each how it fares."""

    __slots__ = ("common",)

    def __init__(self, common: Common) -> None:
        super().__init__(common)
        self.common = common

    @abstractmethod
    def push(self, copy: Copy, chunk: bytes, ended: bool) -> None:
        """Send more of a request that is not complete, as the client sent it. `Copy.unsent` says how much waits.
        Raises `BerthError` for what cannot go on."""

    @abstractmethod
    def consumed(self, copy: Copy, size: int) -> None:
        """So many bytes of the answer went on to the client."""

    @abstractmethod
    def withdraw(self, copy: Copy) -> None:
        """Nobody wants the answer any more. Nothing more is said to the copy."""


class Upstream(Protocol):
    """Connections to one process of a replica, for one wire. Each copy is told how it ended, once, and not before
    `send` has returned."""

    def send(self, copy: Copy) -> None:
        """Send it."""

    def withdraw(self, copy: Copy) -> None:
        """It has not found a connection yet (`carrier`), and is not wanted any more: nothing is said to it."""

    def tick(self, now: float) -> None:
        """About once a second."""

    async def close(self) -> None:
        """Close the connections. No copy is under way."""


class OpenUpstream(Protocol):
    """Prepares connections; makes none yet."""

    def __call__(self, address: ReplicaAddress) -> Upstream: ...


class UpstreamPool:
    """An upstream and how many copies are using it."""

    __slots__ = ("retired", "upstream", "users")

    def __init__(self, upstream: Upstream, *, retired: bool) -> None:
        self.upstream = upstream
        self.users = 0
        self.retired = retired


class Copy(Runner):
    """A copy of a request at one replica, or (without a `servable`) as it came at the routers of another cell.

    The upstream fills in what comes back and says how it ended, once. `fields` go to the replica beside those of the
    request.
    """

    __slots__ = (
        "carrier", "chunks", "counted", "fields", "head", "held_back", "pool", "renaming", "request", "size",
        "stream_id", "under_way", "unsent",
    )  # fmt: skip

    def __init__(self, under_way: UnderWay, address: ReplicaAddress, servable: str, twin: bool) -> None:
        super().__init__(address, servable, twin)
        self.under_way = under_way
        self.request = request = under_way.request
        self.pool: UpstreamPool
        # The connection, once there is one, and the stream on it.
        self.carrier: Carrier | None = None
        self.stream_id = 0
        self.head: ResponseHead | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        # How much of the answer counts as memory in use.
        self.counted = 0
        self.held_back = request.held_back
        self.fields = request.trace
        # For an incomplete request: what renames its messages, and how many of its bytes wait for the replica's window.
        self.renaming: Renaming | None = None
        self.unsent = 0

    def __repr__(self) -> str:
        return f"<Copy at {self.address.replica}{' twin' if self.twin else ''} size={self.size}>"

    def answered(self, answer: Answer) -> None:
        self.under_way.answered(self, answer)

    def failed(self, failure: Failure, why: str, pushback: float | None = None) -> None:
        self.under_way.failed(self, failure, why, pushback)

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.under_way.seconds_left()

    def went(self, size: int) -> None:
        """So many bytes of the request that had to wait have gone."""
        self.unsent -= size
        if not self.unsent:
            self.request.passed_on()

    def keep(self, chunk: bytes, ledger: Ledger) -> None:
        """Hold back some of the answer. Most answers are whole in an instant, and not worth counting."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self.size > _COUNTED:
            ledger.held += self.size - self.counted
            self.counted = self.size

    def let_go(self, ledger: Ledger) -> None:
        """What was held back goes on, or away."""
        ledger.held -= self.counted
        self.counted = 0

    def withdraw(self) -> None:
        if self.carrier is not None:
            self.carrier.withdraw(self)
        else:
            self.pool.upstream.withdraw(self)
