"""OIP over REST, under servable names. Every answer names the replica.

An answer also names the request if its id was made here. An id that came with the request is not repeated: an answer
belongs to its request by its place, and routers tell their clients the id themselves. Heads that are all alike cost
both sides less.
"""

from __future__ import annotations

from functools import lru_cache, partial

from berth.errors import BerthError
from berth.headers import CONTENT_TYPE_TEXT, INFERENCE_HEADER_LENGTH, REPLICA, REQUEST_ID, REQUEST_ID_TEXT
from berth.http.compression import ENCODINGS
from berth.http_shell.server import ServerHttp
from berth.ids import VersionKey
from berth.oip import metadata, rest
from berth.oip.errors import error_body, rest_error
from berth.oip.request import InferRequest
from worker.serving.answering import NotStarted, Question, servable_key
from worker.serving.compression import USUAL_RATIO, inflated
from worker.serving.exchange import IT_DID_NOT_START, InferenceExchange, SlowBody

_JSON = {CONTENT_TYPE_TEXT: "application/json"}
_READ = ("GET", "HEAD")
_READABLE = (b"identity", *ENCODINGS)


class RestExchange(InferenceExchange):
    __slots__ = ("_key", "_pieces", "_size")

    def begin(self) -> None:
        super().begin()
        self._pieces: list[bytes] = []
        self._size = 0
        # The version that the body is for.
        self._key: VersionKey | None = None
        match self.asked.path.split("/"):
            case ("", "v2", "models", servable, "infer"):
                self._expect_body(servable)
            case ("", "v2"):
                self._show(metadata.server_metadata_json())
            case ("", "v2", "health", "live"):
                self._show(metadata.live_json(True))
            case ("", "v2", "health", "ready"):
                self._show(metadata.ready_json(True))
            case ("", "v2", "models", servable, "ready"):
                key = servable_key(servable)
                held = self.service.answering.holds(key)
                self._show(metadata.model_ready_json(key.model, held), 200 if held else 503)
            case ("", "v2", "models", servable):
                key = servable_key(servable)
                signature = self.service.answering.signature(key)
                self._show(metadata.model_metadata_json(key.model, str(key.version), signature))
            case _:
                self._decline(404, "Not Found")

    def _expect_body(self, servable: str) -> None:
        if self.asked.method != "POST":
            self._decline(405, "Method Not Allowed", {"Allow": "POST"})
        elif self.asked.fields.get(b"content-encoding", b"identity") not in _READABLE:
            self._decline(415, "Unsupported Media Type", {"Accept-Encoding": "gzip, deflate"})
        else:
            self._key = servable_key(servable)

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self.service.max_body_bytes:
            self.refuse_body()
            return
        self._pieces.append(data)
        self.link.http.consume(self.stream_id, len(data))

    def on_end(self) -> None:
        if self._key is None:
            raise AssertionError("what has no body was answered by its head")
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        compressed = self.asked.fields.get(b"content-encoding") in ENCODINGS
        question = Question(
            "rest",
            self.rid,
            len(body) * USUAL_RATIO if compressed else len(body),
            self.time_left(),
            partial(self._read, self._key, body, compressed=compressed),
            rest.encode_response,
        )
        self._pieces = []
        self.ask(question, self._done)

    def _read(self, key: VersionKey, body: bytes, *, compressed: bool) -> tuple[VersionKey, InferRequest]:
        if compressed:
            body = inflated(body, self.service.max_body_bytes)
        length = self.asked.fields.get(INFERENCE_HEADER_LENGTH)
        return key, rest.decode_request(body, None if length is None else length.decode("latin-1"))

    def _done(self, outcome: rest.Body | BerthError) -> None:
        if isinstance(outcome, BerthError):
            self.refuse(outcome)
        else:
            self._send(200, outcome.headers, outcome.content)
        self.link.mark()

    def refuse(self, error: BerthError) -> None:
        status, headers, body = rest_error(error, self.rid.decode())
        if isinstance(error, SlowBody):
            status = 408
        self._send(status, headers, body, not_started=isinstance(error, NotStarted))

    def _show(self, document: bytes, status: int = 200) -> None:
        if self.asked.method in _READ:
            self._send(status, dict(_JSON), document)
        else:
            self._decline(405, "Method Not Allowed", {"Allow": ",".join(_READ)})

    def _decline(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        detail = f"{self.asked.method} {self.asked.path[:200]}: {reason}"
        self._send(status, _JSON | (headers or {}), error_body(detail))

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, not_started: bool = False) -> None:
        connection = self.link.http
        headers.pop(REQUEST_ID_TEXT, None)
        block = _block(type(connection), status, tuple(headers.items()), self.service.answering.replica, not_started)
        own = [] if self.rid == self.asked.fields.get(REQUEST_ID) else [(REQUEST_ID, self.rid)]
        if self.link.is_http2:
            own.append((b"content-length", b"%d" % len(body)))
        if own:
            block += connection.encode_fields(own)
        connection.send_head(self.stream_id, block, length=len(body))
        connection.send_data(self.stream_id, body, end=True)
        self.close()


@lru_cache(maxsize=256)
def _block(
    kind: type[ServerHttp],
    status: int,
    headers: tuple[tuple[str, str], ...],
    replica: str,
    not_started: bool,
) -> bytes:
    """What many answers begin with."""
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    fields.append((REPLICA, replica.encode()))
    if not_started:
        fields.append(IT_DID_NOT_START)
    return kind.encode_response(status, fields)
