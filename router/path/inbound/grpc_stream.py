"""ModelStreamInfer: streams of gRPC messages."""

from __future__ import annotations

from typing import Final

from berth.errors import BerthError, Internal
from berth.http.grpc import messages
from berth.oip.errors import grpc_status
from router.core.message import read_target
from router.core.renaming import compressed
from router.path.answer import Answer
from router.path.inbound.grpc import GrpcInbound, GrpcPlan, refusal_of, trailers_of
from router.path.inbound.inbound import Client
from router.path.meeting import Copy
from router.path.wheel import NEVER

# The most that a replica is sent beside the first message before it begins to answer. It is kept, and sent again
# elsewhere if the replica says that it never began. A client that sends more without having heard anything is on its
# own.
_AHEAD: Final = 1024 * 1024


class GrpcStream(GrpcInbound):
    """ModelStreamInfer: messages pass both ways as they come, to the one replica that the first message chose.

    Each is renamed on the replica's side as it passes, so the whole stream goes to the model that its first message
    names. Until the answer begins, the messages that have passed are kept: the replica may yet say that it never began.
    """

    __slots__ = ("_ahead", "_first_size", "_owed", "_pending", "_repeatable", "_started")

    def __init__(self, plan: GrpcPlan, client: Client, stream_id: int) -> None:
        super().__init__(plan, client, stream_id)
        self.hedge = self.idempotent = False
        self.held_back = 0
        self.complete = False
        # Of the first message, with its five bytes; 0 until those have come. `_started`: it is whole.
        self._first_size = 0
        self._started = False
        # Bytes of the client that were pushed and not consumed: some of them wait for the worker's window.
        self._owed = 0
        # Bytes after the first message that cannot be sent yet, and how many of them are not consumed.
        self._pending: list[tuple[bytes, int, bool]] = []
        # Pushed bytes, kept in case they have to be pushed again.
        self._ahead: list[tuple[bytes, bool]] = []
        self._repeatable = True

    @property
    def repeatable(self) -> bool:
        return self._repeatable

    def check(self) -> None:
        # Only the first message has a time to come in.
        if not self._started:
            super().check()

    def data(self, chunk: bytes, ended: bool) -> None:
        if self.over:
            self.client.http.consume(self.stream_id, len(chunk))
        elif self._started:
            self._forward(chunk, ended, owed=len(chunk))
        else:
            self._collect(chunk, ended)

    def _collect(self, chunk: bytes, ended: bool) -> None:
        """Until the first message is whole: it says where the stream goes."""
        self.client.http.consume(self.stream_id, len(chunk))
        self._chunks.append(chunk)
        self._size += len(chunk)
        self.client.common.ledger.held += len(chunk)
        if not self._first_size and self._size >= messages.PREFIX_SIZE:
            self._chunks = [b"".join(self._chunks)]
            self._first_size = messages.PREFIX_SIZE + messages.size_after(self._chunks[0])
            if self._first_size > self.longest_body:
                self.too_large()
                return
        if not self._first_size or self._size < self._first_size:
            if ended:
                self.refused(Internal("the stream ended within its first message"))
            return
        body = b"".join(self._chunks)
        self._chunks = []
        self._started = True
        if self._late_slot != NEVER:
            self.client.late.discard(self, self._late_slot)
        first_message, rest = body[: self._first_size], body[self._first_size :]
        self._let_go(len(rest))
        try:
            if body[0]:
                raise compressed()
            self.model, self.version = read_target(first_message, messages.PREFIX_SIZE)
        except BerthError as error:
            self.refused(error)
            return
        self.body = first_message
        self.complete = self.whole = ended and not rest
        self.start()
        if not self.over and not self.complete:
            self._forward(rest, ended, owed=0)

    @property
    def longest_message(self) -> int:
        return self.client.terms.limits.max_body_bytes

    def carried(self) -> None:
        # A copy begins, perhaps in the place of one that never did.
        if self._ahead:
            self._pending = [(chunk, 0, ended) for chunk, ended in self._ahead] + self._pending
            self._forget_ahead()
        self._push()

    def _forward(self, chunk: bytes, ended: bool, owed: int) -> None:
        """Pass on what came after the first message. `owed` of its bytes are not consumed yet."""
        if ended:
            self.whole = True
        self._pending.append((chunk, owed, ended))
        self._push()

    def _push(self) -> None:
        """Send what has come, if there is a connection to send it on."""
        copy = self.under_way.only_copy if self.under_way is not None else None
        if copy is None or copy.carrier is None:
            return
        for chunk, owed, ended in self._pending:
            try:
                copy.carrier.push(copy, chunk, ended)
            except BerthError as error:
                self._refuse_midway(error)
                return
            self._owed += owed
            self._keep(chunk, ended)
        self._pending = []
        if not copy.unsent:
            self.passed_on()

    def passed_on(self) -> None:
        """All that was pushed has gone to the worker: the client may send as much again."""
        owed, self._owed = self._owed, 0
        self.client.http.consume(self.stream_id, owed)
        self.client.mark()

    def begun(self, answer: Answer, copy: Copy) -> None:
        self._forget_ahead()
        self._let_go(self._size)
        self.body = b""
        super().begun(answer, copy)

    def _keep(self, chunk: bytes, ended: bool) -> None:
        """It was pushed, and may have to be again."""
        if self._begun is not None or not self._repeatable:
            return
        self._ahead.append((chunk, ended))
        self._size += len(chunk)
        self.client.common.ledger.held += len(chunk)
        if self._size > len(self.body) + _AHEAD:
            self._repeatable = False
            self._forget_ahead()

    def _forget_ahead(self) -> None:
        self._let_go(sum([len(chunk) for chunk, _ in self._ahead]))
        self._ahead = []

    def _let_go(self, size: int) -> None:
        self._size -= size
        self.client.common.ledger.held -= size

    def _refuse_midway(self, error: BerthError) -> None:
        assert self.under_way is not None
        self.under_way.cancel()
        if self._begun is None:
            self.refused(error)
        else:
            code, details = grpc_status(error)
            refusal = refusal_of(code.value[0], details)
            assert refusal.ending is not None
            self.client.http.send_trailers(self.stream_id, trailers_of(refusal.ending))
            self._stop_reading()
            self._answered(refusal.status)
