"""Requests as values, and dialogues: generators that yield them, are sent the answers, and return a result.

A dialogue does no I/O, so one text serves the blocking and the asynchronous client. The idea is h11's and httpcore's:
the protocol is plain code, whoever drives it does the waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from pydantic import TypeAdapter

from berth.errors import Internal

T = TypeVar("T")

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes sent, bytes in total); counts from zero again when an upload is repeated."""


class Server(StrEnum):
    CONTROLLER = "controller"
    ROUTER = "router"


class HttpReply(NamedTuple):
    """A successful answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class FileBody:
    """A request body streamed from a file, in constant memory."""

    path: Path
    size: int
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall(Generic[T]):
    """One request, and how to read its answer. `repeatable`: sending it twice has the effect of sending it once."""

    method: str
    path: str
    parse: Callable[[HttpReply], T]
    server: Server = Server.CONTROLLER
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileBody | None = None
    repeatable: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait for `seconds`. What is sent back is the monotonic time afterwards."""

    seconds: float


Step: TypeAlias = ApiCall[Any] | Delay
Dialogue: TypeAlias = Generator[Step, Any, T]


def read_json(kind: type[T]) -> Callable[[HttpReply], T]:
    """A parser of JSON answers into `kind`. Members it does not know are skipped: servers may be newer than clients."""
    adapter: TypeAdapter[T] = TypeAdapter(kind)

    def parse(reply: HttpReply) -> T:
        try:
            return adapter.validate_json(reply.body, extra="ignore")
        except ValueError as error:
            raise Internal(f"the answer is not what this client expects: {error}") from None

    return parse


def ignore(_: HttpReply) -> None:
    """The parser of answers that say nothing beyond success."""
