"""What a connection reports. All four connections share these; each is a value.

The order for one stream is: one head (`InformationalReceived` may come before a response), any number of
`DataReceived`, perhaps `TrailersReceived`. The last of them has `ended`. `StreamReset` may cut it short at any point
and is the last event of its stream. `ConnectionClosed` is the last event of all; every open stream was reset before it.
"""

from __future__ import annotations

from typing import NamedTuple

from berth.http.head import Fields, RequestHead, ResponseHead


class RequestReceived(NamedTuple):
    stream_id: int
    head: RequestHead
    ended: bool


class ResponseReceived(NamedTuple):
    stream_id: int
    head: ResponseHead
    ended: bool


class InformationalReceived(NamedTuple):
    """An interim response: 100 (go on with the body), 103, …"""

    stream_id: int
    head: ResponseHead


class DataReceived(NamedTuple):
    """Some of the body. The shell owes a `consume` of `len(data)`, and none for a stream that is gone."""

    stream_id: int
    data: bytes
    ended: bool


class TrailersReceived(NamedTuple):
    """Always the end of the message."""

    stream_id: int
    fields: Fields
    ended: bool = True


class BodyTooLarge(NamedTuple):
    """The body passed its limit. What else comes of it is thrown away; the shell answers, or resets the stream."""

    stream_id: int


class DataSent(NamedTuple):
    """So many bytes that `send_data` had to keep went into the output now."""

    stream_id: int
    size: int


class StreamReset(NamedTuple):
    """The stream is gone. `remote`: the peer did it. `unprocessed`: it says it never looked at it: safe to repeat."""

    stream_id: int
    code: int
    detail: str
    remote: bool
    unprocessed: bool = False


class GoingAway(NamedTuple):
    """The peer takes no streams above `last_stream_id`; open a new connection for what comes next."""

    last_stream_id: int
    code: int
    detail: str


class PingAcknowledged(NamedTuple):
    payload: bytes


class ConnectionClosed(NamedTuple):
    """Write what `output()` still has, then close the transport. `code` is NO_ERROR where nothing went wrong."""

    code: int
    detail: str
    remote: bool


Event = (
    RequestReceived
    | ResponseReceived
    | InformationalReceived
    | DataReceived
    | TrailersReceived
    | BodyTooLarge
    | DataSent
    | StreamReset
    | GoingAway
    | PingAcknowledged
    | ConnectionClosed
)
