"""The HTTP headers and gRPC metadata that Berth gives a meaning to. Each name stands here and nowhere else.

Names are in lower case, as HTTP/2 has them. They are bytes, because the framing handles bytes; `…_TEXT` is the same
name as `str`, for code that uses libraries. Each process decides which headers it passes on (`router.path.fields`) and
which values it believes.

Names that begin with `berth-` are Berth's own: a router drops them from what clients and workers send, except those
marked below as going through.
"""

from __future__ import annotations

from typing import Final

OUR_PREFIX: Final = b"berth-"

# -- who asks, and until when ------------------------------------------------------------------------------------------

# client → router, controller; router → router of another cell: `Bearer KEY`.
AUTHORIZATION: Final = b"authorization"
# between processes of one deployment: its token (on loopback, where there is no mutual TLS).
CREDENTIAL: Final = b"berth-credential"
# both ways, end to end: the name of one request in logs and answers, made by the first process that lacks it.
REQUEST_ID: Final = b"x-request-id"
# client → router → worker, over HTTP: milliseconds that are left for the request.
TIMEOUT_MS: Final = b"berth-timeout-ms"
# client → router → worker, over gRPC: the same, as gRPC spells it (digits and a unit).
GRPC_TIMEOUT: Final = b"grpc-timeout"
# client → router → worker: the request's trace, and the span that sent it (W3C Trace Context).
TRACEPARENT: Final = b"traceparent"
# client → router → worker: what tracing systems add to it; passed on as it came.
TRACESTATE: Final = b"tracestate"

# -- copies of a request ----------------------------------------------------------------------------------------------

# client → router → router of another cell: send no second copy of this request.
NO_HEDGE: Final = b"berth-no-hedge"
# router → worker: this is one of two tied copies; the sender wants to hear that it has begun.
TWIN: Final = b"berth-twin"
# worker → router, in an interim response: this copy has begun.
STARTED: Final = b"berth-started"
# worker, router of another cell → router: refused before it began; safe to send elsewhere.
NOT_STARTED: Final = b"berth-not-started"
# worker → router: milliseconds for which to send no retry and no hedge here.
PUSHBACK_MS: Final = b"berth-pushback-ms"
# worker → router: gRPC's own name for it (gRFC A6); a negative number means never.
GRPC_PUSHBACK_MS: Final = b"grpc-retry-pushback-ms"
# router → router of another cell: the cell that passed the request on; it is not passed on again.
PASSED_ON: Final = b"berth-passed-on"

# -- what is said of an answer ----------------------------------------------------------------------------------------

# worker → router → client: the replica that answered.
REPLICA: Final = b"berth-replica"
# router → client: `hit` if the prediction cache answered.
CACHE: Final = b"berth-cache"
# router → client: `1` if this is the model's stored default answer and no prediction.
DEFAULT_ANSWER: Final = b"berth-default-answer"
# any server → client: seconds after which the same request may succeed.
RETRY_AFTER: Final = b"retry-after"

# -- bodies -----------------------------------------------------------------------------------------------------------

CONTENT_TYPE: Final = b"content-type"
# both ways, Open Inference Protocol over REST: bytes of JSON before the tensors in a body.
INFERENCE_HEADER_LENGTH: Final = b"inference-header-content-length"
# client → controller, with an upload: its SHA-256 (RFC 9530).
CONTENT_DIGEST: Final = b"content-digest"

# -- commands ---------------------------------------------------------------------------------------------------------

# client → controller: do this once, however often it is sent.
IDEMPOTENCY_KEY: Final = b"idempotency-key"
# client → controller: only if the resource still is the one with this tag.
IF_MATCH: Final = b"if-match"
# controller → client: the tag of the resource as it is in this answer.
ETAG: Final = b"etag"
# client → controller: the client resumes a stream after this event.
LAST_EVENT_ID: Final = b"last-event-id"

# -- the end of a gRPC call -------------------------------------------------------------------------------------------

# server → client: the status of the call, and its text in percent-encoding.
GRPC_STATUS: Final = b"grpc-status"
GRPC_MESSAGE: Final = b"grpc-message"
# both ways: how compressed messages are compressed, and what the sender can read.
GRPC_ENCODING: Final = b"grpc-encoding"
GRPC_ACCEPT_ENCODING: Final = b"grpc-accept-encoding"

# -- the same names as text -------------------------------------------------------------------------------------------

AUTHORIZATION_TEXT: Final = AUTHORIZATION.decode()
CREDENTIAL_TEXT: Final = CREDENTIAL.decode()
REQUEST_ID_TEXT: Final = REQUEST_ID.decode()
TIMEOUT_MS_TEXT: Final = TIMEOUT_MS.decode()
TRACEPARENT_TEXT: Final = TRACEPARENT.decode()
TRACESTATE_TEXT: Final = TRACESTATE.decode()
NO_HEDGE_TEXT: Final = NO_HEDGE.decode()
PUSHBACK_MS_TEXT: Final = PUSHBACK_MS.decode()
GRPC_PUSHBACK_MS_TEXT: Final = GRPC_PUSHBACK_MS.decode()
NOT_STARTED_TEXT: Final = NOT_STARTED.decode()
REPLICA_TEXT: Final = REPLICA.decode()
CACHE_TEXT: Final = CACHE.decode()
DEFAULT_ANSWER_TEXT: Final = DEFAULT_ANSWER.decode()
RETRY_AFTER_TEXT: Final = RETRY_AFTER.decode()
CONTENT_TYPE_TEXT: Final = CONTENT_TYPE.decode()
INFERENCE_HEADER_LENGTH_TEXT: Final = INFERENCE_HEADER_LENGTH.decode()
CONTENT_DIGEST_TEXT: Final = CONTENT_DIGEST.decode()
IDEMPOTENCY_KEY_TEXT: Final = IDEMPOTENCY_KEY.decode()
IF_MATCH_TEXT: Final = IF_MATCH.decode()
ETAG_TEXT: Final = ETAG.decode()
LAST_EVENT_ID_TEXT: Final = LAST_EVENT_ID.decode()
