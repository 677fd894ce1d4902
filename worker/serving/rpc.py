"""OIP over gRPC, under servable names: calls of one message, and `ModelStreamInfer`.

Messages are parsed where they are answered, so that a malformed one gets an answer of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from berth.errors import BerthError, InvalidArgument, PayloadTooLarge
from berth.headers import CONTENT_TYPE, GRPC_ACCEPT_ENCODING, GRPC_ENCODING, REPLICA, REQUEST_ID
from berth.http.compression import ENCODINGS
from berth.http.grpc.messages import CONTENT_TYPE as GRPC
from berth.http.grpc.messages import GrpcMessage, MessageReader, MessageTooLarge, prefix
from berth.http.grpc.status import OK_FIELD, UNIMPLEMENTED, status_fields
from berth.http.head import Fields
from berth.http.http2.server import Http2Server
from berth.http_shell.server import ServerLink
from berth.ids import VersionKey
from berth.oip import metadata, rpc
from berth.oip.errors import grpc_status
from berth.oip.request import InferRequest, InferResponse
from worker.serving.answering import Answering, NotStarted, Question, servable_key
from worker.serving.asked import Asked
from worker.serving.compression import USUAL_RATIO, inflated
from worker.serving.exchange import IT_DID_NOT_START, InferenceExchange, InferenceService

# Framing and metadata of a message whose tensors fill the limit.
_ENVELOPE_BYTES = 64 * 1024
# Below this size, a copy costs less than writing one more piece.
_SMALL = 16 * 1024
# A stream's client that does not read its answers gets no more of them once so many bytes wait for it.
_MOST_UNSENT = 256 * 1024

_METHODS = metadata.GRPC_METHODS.decode()
_OK = Http2Server.encode_fields((OK_FIELD,))
_KNOWN = frozenset(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name)


class RpcExchange(InferenceExchange):
    """A call. What it sends before its status is a head and any number of messages; a refusal is a head alone."""

    __slots__ = ("_answered", "_reader")

    def __init__(
        self, service: InferenceService, link: ServerLink, stream_id: int, asked: Asked, over: Callable[[int], None]
    ) -> None:
        super().__init__(service, link, stream_id, asked, over)
        self._answered = False
        self._reader = MessageReader(service.max_body_bytes + _ENVELOPE_BYTES)

    def _next(self) -> GrpcMessage | None:
        """The next message that is complete. Raises `BerthError`."""
        try:
            message = self._reader.next()
        except MessageTooLarge as error:
            limit = self.service.max_body_bytes + _ENVELOPE_BYTES
            raise PayloadTooLarge(f"a message of {error.size} bytes is larger than {limit}") from None
        except ValueError as malformed:
            raise InvalidArgument(str(malformed)) from None
        if message is None:
            return None
        if message.compressed and self.asked.fields.get(GRPC_ENCODING) not in ENCODINGS:
            raise InvalidArgument("the message is compressed in a way that grpc-encoding does not name")
        return message

    def _question(self, message: GrpcMessage, write: Callable[[InferResponse, InferRequest], bytes]) -> Question[bytes]:
        size = len(message.data) * USUAL_RATIO if message.compressed else len(message.data)
        read = partial(_read_infer, message, self.service.max_body_bytes + _ENVELOPE_BYTES)
        return Question("grpc", self.rid, size, self.time_left(), read, write)

    def _send_head(self) -> None:
        if not self._answered:
            self._answered = True
            connection = self.link.http
            head = _head(self.service.answering.replica) + connection.encode_fields(((REQUEST_ID, self.rid),))
            connection.send_head(self.stream_id, head)

    def _send(self, message: bytes) -> None:
        self._send_head()
        connection = self.link.http
        size = len(message)
        if size <= _SMALL:
            connection.send_data(self.stream_id, prefix(size) + message)
        else:
            connection.send_data(self.stream_id, prefix(size))
            connection.send_data(self.stream_id, message)

    def _succeed(self) -> None:
        self.link.http.send_trailers(self.stream_id, _OK)
        self.close()

    def refuse(self, error: BerthError) -> None:
        code, text = grpc_status(error)
        self._fail(code.value[0], text, (IT_DID_NOT_START,) if isinstance(error, NotStarted) else ())

    def _fail(self, code: int, text: str, more: Fields = ()) -> None:
        connection = self.link.http
        fields = (
            *status_fields(code, text),
            (REQUEST_ID, self.rid),
            (REPLICA, self.service.answering.replica.encode()),
            *more,
        )
        if self._answered:
            connection.send_trailers(self.stream_id, connection.encode_fields(fields))
        else:
            head = connection.encode_response(200, ((CONTENT_TYPE, GRPC), *fields))
            connection.send_head(self.stream_id, head, end=True)
        self.close()


class UnaryExchange(RpcExchange):
    """One message, one answer."""

    __slots__ = ("_message",)

    def begin(self) -> None:
        super().begin()
        self._message: GrpcMessage | None = None
        path = self.asked.path
        if path != _INFER and path not in _AT_ONCE:
            name = path.rpartition("/")[2]
            self._fail(
                UNIMPLEMENTED, f"{name} is not served here" if name in _KNOWN else f"there is no method {path[:200]}"
            )

    def on_data(self, data: bytes) -> None:
        self.link.http.consume(self.stream_id, len(data))
        self._reader.feed(data)
        try:
            message = self._next()
            if message is not None:
                if self._message is not None:
                    raise InvalidArgument("this method takes one message")
                self._message = message
        except BerthError as error:
            self.refuse(error)

    def on_end(self) -> None:
        if self._message is None or self._reader.inside:
            self.refuse(InvalidArgument("this method takes one message, and it is not complete"))
            return
        message, self._message = self._message, None
        path = self.asked.path
        if path == _INFER:
            self.ask(self._question(message, _write_infer), self._done)
            return
        try:
            self._done(_AT_ONCE[path](self.service.answering, _plain(message, _ENVELOPE_BYTES)))
        except BerthError as error:
            self.refuse(error)

    def _done(self, outcome: bytes | BerthError) -> None:
        if isinstance(outcome, BerthError):
            self.refuse(outcome)
        else:
            self._send(outcome)
            self._succeed()
        self.link.mark()


class StreamExchange(RpcExchange):
    """`ModelStreamInfer`: each message is answered by one, in order, one at a time; an error is such an answer too.

    What the client sends ahead stays in its window: it is consumed when its turn has come. What it does not read holds
    up the next answer. So a stream costs two windows and the message at hand, however long it lives.
    """

    __slots__ = ("_asking", "_debt")

    def begin(self) -> None:
        super().begin()
        self._debt = 0
        self._asking = False

    def arm(self) -> None:
        """A stream may stay open as long as its client likes, within its deadline."""
        if self._deadline is not None:
            super().arm()

    def on_data(self, data: bytes) -> None:
        self._debt += len(data)
        self._reader.feed(data)
        self._go_on()

    def on_end(self) -> None:
        self._go_on()

    def on_sent(self) -> None:
        self._go_on()

    def _go_on(self) -> None:
        """Ask as many questions as can be asked now. Answers given at once make it a loop, not a recursion."""
        connection = self.link.http
        while not self._asking and connection.unsent(self.stream_id) <= _MOST_UNSENT:
            try:
                message = self._next()
            except BerthError as error:
                self.refuse(error)
                return
            if message is None:
                connection.consume(self.stream_id, self._debt)
                self._debt = 0
                if self.complete:
                    self._end()
                return
            self._asking = True
            self.run = self.service.answering.start(self._question(message, _write_stream), self._done)

    def _end(self) -> None:
        if self._reader.inside:
            self.refuse(InvalidArgument("the last message is cut off"))
        else:
            self._send_head()
            self._succeed()

    def _done(self, outcome: bytes | BerthError) -> None:
        was_waiting, self.run = self.run is not None, None
        if isinstance(outcome, BerthError):
            self._send(_bytes(service_pb2.ModelStreamInferResponse(error_message=outcome.detail)))
        else:
            self._send(outcome)
        self._asking = False
        if was_waiting:
            self._go_on()
            self.link.mark()


def _plain(message: GrpcMessage, limit: int) -> bytes:
    return inflated(message.data, limit) if message.compressed else message.data


def _read_infer(message: GrpcMessage, limit: int) -> tuple[VersionKey, InferRequest]:
    request = rpc.parse_request(_plain(message, limit))
    return servable_key(request.model_name), rpc.decode_request(request)


def _write_infer(response: InferResponse, _: InferRequest) -> bytes:
    return _bytes(rpc.encode_response(response))


def _write_stream(response: InferResponse, _: InferRequest) -> bytes:
    return _bytes(service_pb2.ModelStreamInferResponse(infer_response=rpc.encode_response(response)))


@lru_cache(maxsize=8)
def _head(replica: str) -> bytes:
    return Http2Server.encode_response(
        200,
        (
            (CONTENT_TYPE, GRPC),
            (GRPC_ACCEPT_ENCODING, b"identity, deflate, gzip"),
            (REPLICA, replica.encode()),
        ),
    )


def _parse(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidArgument(f"the message is not a {kind.DESCRIPTOR.name}") from None


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _server_live(_: Answering, raw: bytes) -> bytes:
    _parse(service_pb2.ServerLiveRequest, raw)
    return _bytes(service_pb2.ServerLiveResponse(live=True))


def _server_ready(_: Answering, raw: bytes) -> bytes:
    _parse(service_pb2.ServerReadyRequest, raw)
    return _bytes(service_pb2.ServerReadyResponse(ready=True))


def _server_metadata(_: Answering, raw: bytes) -> bytes:
    _parse(service_pb2.ServerMetadataRequest, raw)
    return _bytes(metadata.server_metadata_message())


def _model_ready(answering: Answering, raw: bytes) -> bytes:
    message = _parse(service_pb2.ModelReadyRequest, raw)
    return _bytes(service_pb2.ModelReadyResponse(ready=answering.holds(servable_key(message.name))))


def _model_metadata(answering: Answering, raw: bytes) -> bytes:
    message = _parse(service_pb2.ModelMetadataRequest, raw)
    key = servable_key(message.name)
    return _bytes(metadata.model_metadata_message(key.model, str(key.version), answering.signature(key)))


_INFER = f"{_METHODS}ModelInfer"
STREAM_INFER = f"{_METHODS}ModelStreamInfer"
_AT_ONCE: dict[str, Callable[[Answering, bytes], bytes]] = {
    f"{_METHODS}ServerLive": _server_live,
    f"{_METHODS}ServerReady": _server_ready,
    f"{_METHODS}ServerMetadata": _server_metadata,
    f"{_METHODS}ModelReady": _model_ready,
    f"{_METHODS}ModelMetadata": _model_metadata,
}
