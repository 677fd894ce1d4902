"""What a request's head says, worked out once for all heads that begin alike.

Routers repeat themselves: on a connection, heads differ only by request id and deadline. `Asked.of` keeps its findings
with the head's base, so a request costs only what is new in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from berth.auth.peer import PeerCredential
from berth.errors import InvalidArgument
from berth.headers import CONTENT_TYPE, GRPC_TIMEOUT, TIMEOUT_MS, TIMEOUT_MS_TEXT
from berth.http.grpc.messages import is_grpc
from berth.http.grpc.timeouts import parse_timeout
from berth.http.head import RequestHead

_MOST_DIGITS = 12


class Asked(NamedTuple):
    """`path` is decoded and without query. `fields` by name; of several with one name the last."""

    method: str
    path: str
    is_grpc: bool
    trusted: bool
    fields: Mapping[bytes, bytes]

    @classmethod
    def of(cls, head: RequestHead, credential: PeerCredential) -> Asked:
        base = head.base
        asked = base.derived
        if not isinstance(asked, Asked):
            asked = base.derived = cls._read(base, credential)
        if base is head:
            return asked
        fields = {**asked.fields, **dict(head.fields[len(base.fields) :])}
        trusted = asked.trusted or _accepted(credential, fields)
        return cls(asked.method, asked.path, asked.is_grpc, trusted, fields)

    @classmethod
    def _read(cls, head: RequestHead, credential: PeerCredential) -> Asked:
        fields = dict(head.fields)
        return cls(
            head.method.decode("ascii"),
            unquote(head.path.partition(b"?")[0].decode("ascii")),
            head.method == b"POST" and is_grpc(fields.get(CONTENT_TYPE)),
            _accepted(credential, fields),
            fields,
        )

    def timeout(self) -> float | None:
        """Seconds that the client gives; None: it does not say. Raises `InvalidArgument`."""
        if self.is_grpc:
            value = self.fields.get(GRPC_TIMEOUT)
            try:
                return None if value is None else parse_timeout(value)
            except ValueError as error:
                raise InvalidArgument(str(error)) from None
        value = self.fields.get(TIMEOUT_MS)
        if value is None:
            return None
        if not value.isdigit() or len(value) > _MOST_DIGITS:
            raise InvalidArgument(
                f"{TIMEOUT_MS_TEXT} is a number of milliseconds, not {value[:40].decode('latin-1')!r}"
            )
        return int(value) / 1000


def _accepted(credential: PeerCredential, fields: Mapping[bytes, bytes]) -> bool:
    return credential.accepts({name.decode("ascii"): value.decode("latin-1") for name, value in fields.items()})
