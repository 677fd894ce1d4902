"""What comes over one connection, request by request, to the exchange that each is."""

from __future__ import annotations

from berth.errors import BerthError, Unauthenticated
from berth.http.events import (
    BodyTooLarge,
    DataReceived,
    DataSent,
    Event,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from berth.http_shell.server import ServerLink
from worker.serving.asked import Asked
from worker.serving.exchange import InferenceExchange, InferenceService
from worker.serving.rest import RestExchange
from worker.serving.rpc import STREAM_INFER, StreamExchange, UnaryExchange


class Conversation:
    def __init__(self, service: InferenceService, link: ServerLink) -> None:
        self._service = service
        self._link = link
        self._exchanges: dict[int, InferenceExchange] = {}

    def __repr__(self) -> str:
        return f"<Conversation {len(self._exchanges)} exchanges on {self._link!r}>"

    def on_events(self, events: list[Event]) -> None:
        exchanges = self._exchanges
        begun: list[InferenceExchange] = []
        for event in events:
            if isinstance(event, DataReceived):
                self._on_data(event)
            elif isinstance(event, RequestReceived):
                exchange = self._begin(event)
                if exchange is not None:
                    begun.append(exchange)
            elif isinstance(event, StreamReset):
                gone = exchanges.pop(event.stream_id, None)
                if gone is not None:
                    gone.abandon()
            else:
                self._on_rare(event)
        for exchange in begun:
            if not exchange.complete and exchange.stream_id in exchanges:
                exchange.arm()

    def _on_data(self, event: DataReceived) -> None:
        stream_id, data, ended = event
        exchange = self._exchanges.get(stream_id)
        if exchange is None:
            # Answered already; what still comes is of no use, and must not use up the window.
            self._link.http.consume(stream_id, len(data))
            return
        exchange.complete = ended
        if data:
            exchange.on_data(data)
        if ended and stream_id in self._exchanges:
            exchange.disarm()
            exchange.on_end()

    def _on_rare(self, event: Event) -> None:
        if not isinstance(event, TrailersReceived | BodyTooLarge | DataSent):
            return
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        if isinstance(event, DataSent):
            exchange.on_sent()
        elif isinstance(event, BodyTooLarge):
            exchange.refuse_body()
        else:
            exchange.complete = True
            exchange.disarm()
            exchange.on_end()

    def _begin(self, event: RequestReceived) -> InferenceExchange | None:
        """The new exchange, if its body is still to come."""
        stream_id, head, ended = event
        asked = Asked.of(head, self._service.credential)
        if not asked.is_grpc or not self._link.is_http2:
            kind: type[InferenceExchange] = RestExchange
        elif asked.path == STREAM_INFER:
            kind = StreamExchange
        else:
            kind = UnaryExchange
        exchange = kind(self._service, self._link, stream_id, asked, self._over)
        exchange.complete = ended
        self._exchanges[stream_id] = exchange
        try:
            if not asked.trusted:
                raise Unauthenticated("this port is for the deployment's own processes")
            exchange.begin()
        except BerthError as error:
            exchange.refuse(error)
        if stream_id not in self._exchanges:
            return None
        if ended:
            exchange.on_end()
            return None
        if head.expects_continue:
            connection = self._link.http
            connection.send_informational(stream_id, connection.encode_response(100))
        return exchange

    def on_lost(self) -> None:
        """Every exchange was told before."""

    def _over(self, stream_id: int) -> None:
        self._exchanges.pop(stream_id, None)
