"""What a URL of the Open Inference Protocol asks for."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import unquote

from berth.errors import InvalidArgument, NotFound


class Operation(Enum):
    """What can be asked of a model."""

    INFER = "infer"
    METADATA = "metadata"
    READY = "ready"
    GENERATE = "generate"
    GENERATE_STREAM = "generate_stream"
    """Answered piece by piece."""
    OTHER = "other"
    """What is of another protocol and not translated: the routers of another cell are asked, and no replica."""


class ServerQuestion(Enum):
    """What can be asked of the server as a whole, by anyone."""

    METADATA = "metadata"
    LIVE = "live"
    READY = "ready"


class ModelQuestion(NamedTuple):
    """`version` is what the URL said: a number, a label, or "" for the default."""

    operation: Operation
    model: str
    version: str


_SERVER: Final = {
    ("v2",): ServerQuestion.METADATA,
    ("v2", "health", "live"): ServerQuestion.LIVE,
    ("v2", "health", "ready"): ServerQuestion.READY,
}
_MODEL: Final = {
    (): Operation.METADATA,
    ("ready",): Operation.READY,
    ("infer",): Operation.INFER,
    ("generate",): Operation.GENERATE,
    ("generate_stream",): Operation.GENERATE_STREAM,
}
WITH_BODY: Final = frozenset({Operation.INFER, Operation.GENERATE, Operation.GENERATE_STREAM})


def parse_path(path: str) -> ServerQuestion | ModelQuestion:
    """What the percent-encoded `path`, without a query, asks for.

    Segments are split before they are decoded, so that an encoded slash stays part of a name. Raises `NotFound` for a
    path that is not OIP's, `InvalidArgument` for one that is not UTF-8.
    """
    parts = tuple(path.split("/")[1:])
    server = _SERVER.get(parts)
    if server is not None:
        return server
    if parts[:2] != ("v2", "models") or len(parts) < 3:
        raise _unknown(path)
    version, rest = "", parts[3:]
    if rest[:1] == ("versions",):
        if len(rest) < 2 or not rest[1]:
            raise _unknown(path)
        version, rest = _decoded(rest[1]), rest[2:]
    operation = _MODEL.get(rest)
    if operation is None or not parts[2]:
        raise _unknown(path)
    return ModelQuestion(operation, _decoded(parts[2]), version)


def method_of(question: ServerQuestion | ModelQuestion) -> str:
    """The HTTP method that goes with it."""
    has_body = isinstance(question, ModelQuestion) and question.operation in WITH_BODY
    return "POST" if has_body else "GET"


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgument("the URL is not valid UTF-8") from None


def _unknown(path: str) -> NotFound:
    return NotFound(f"no such path: {path[:200]!a}")
