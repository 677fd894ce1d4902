"""Renames the messages of a gRPC stream as they pass, in pieces of any size.

A message grows by the bytes appended to it (`message`). Its new length is known once its first five bytes have come.
"""

from __future__ import annotations

from typing import Final

from berth.errors import InvalidArgument, PayloadTooLarge

_PREFIX_SIZE: Final = 5


class Renaming:
    """Of the messages that go to one copy. `tail` is appended to each; one of more than `longest` bytes is refused."""

    __slots__ = ("_left", "_longest", "_prefix", "_tail")

    def __init__(self, tail: bytes, longest: int) -> None:
        self._tail = tail
        self._longest = longest
        # Of the current message: those of its first five bytes that have come, and how many bytes are still to come.
        self._prefix = b""
        self._left = 0

    def renamed(self, chunk: bytes) -> bytes:
        """What `chunk`, the next bytes of the stream, becomes. Raises `InvalidArgument` for a compressed message and
        `PayloadTooLarge`."""
        out: list[bytes] = []
        at, end = 0, len(chunk)
        while at < end:
            if self._left:
                taken = chunk[at : at + self._left]
                self._left -= len(taken)
                at += len(taken)
                out.append(taken)
                if not self._left:
                    out.append(self._tail)
                continue
            missing = _PREFIX_SIZE - len(self._prefix)
            self._prefix += chunk[at : at + missing]
            at += missing
            if len(self._prefix) == _PREFIX_SIZE:
                if self._prefix[0]:
                    raise compressed()
                self._left = int.from_bytes(self._prefix[1:], "big")
                if self._left > self._longest:
                    raise too_large(self._longest)
                out.append(b"\0" + (self._left + len(self._tail)).to_bytes(4, "big"))
                if not self._left:
                    out.append(self._tail)
                self._prefix = b""
        return b"".join(out)


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the message is larger than max_body_bytes: {limit} are allowed")


def compressed() -> InvalidArgument:
    return InvalidArgument("messages of a stream cannot be compressed here")
