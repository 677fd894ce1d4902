"""The names of what goes wrong on a connection."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """RFC 9113 section 7. HTTP/1.1 connections use the same codes in their events."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def name_of(code: int) -> str:
    """The code's name, or its number where a peer made one up (RFC 9113 lets it)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


class LocalError(RuntimeError):
    """The shell called what can never be right here. Nothing was written; the connection is as it was."""


class Malformed(Exception):
    """A message breaks the rules of HTTP. `status` is what HTTP/1.1 answers; HTTP/2 resets the stream."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


class ConnectionFault(Exception):
    """The peer broke a rule that ends an HTTP/2 connection. Raised and caught inside the state machine."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
