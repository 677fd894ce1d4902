"""All that the client's side knows of the part that answers in another protocol (TensorFlow Serving's)."""

from __future__ import annotations

from typing import Protocol

from router.core.routes import ANYWHERE
from router.core.tfserving import TfQuestion
from router.path.answer import Reply
from router.path.request import Request


class Translator(Protocol):
    """`router.tfserving` has one."""

    @property
    def max_body_bytes(self) -> int:
        """Of a body, also unpacked."""

    def check(self, question: TfQuestion, api_key: bytes | None, reach: int = ANYWHERE) -> None:
        """Raise the errors of `answer` that need no body: a request can be refused before its body is read."""

    async def answer(self, question: TfQuestion, asked: Request) -> Reply:
        """The answer. Raises `BerthError`. Cancelling it withdraws what is under way."""
