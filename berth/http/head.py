"""Heads of messages as values, and the rules for header fields that HTTP/1.1 and HTTP/2 share.

A head is end to end: the target apart from the fields, names in lower case, nothing that concerns one hop only.
Requests that carried the same bytes share one parsed head, so it is never changed. The exception is `derived`: there
the shell keeps what it worked out from this head (a route, an encoded block).

Heads that differ from one another only in their last fields (a request id, a deadline) may share a `base`: the head
without these. What is derived from the base holds for all of them; `fields[len(base.fields):]` is what each adds. A
head with nothing added is its own base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from berth.http.errors import Malformed

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

_ALPHANUMERIC_LOWER: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"
_UPPER: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOWER_TOKEN: Final = b"!#$%&'*+-.^_`|~" + _ALPHANUMERIC_LOWER
TOKEN: Final = LOWER_TOKEN + _UPPER
# All control characters but tab are refused, not only NUL, CR and LF: no peer of ours needs them, and to some parser
# further on each of them ends a line.
_IN_VALUE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_IN_PATH: Final = bytes(c for c in range(0x21, 0x7F) if c != ord("#"))
_IN_AUTHORITY: Final = b"-._~!$&'()*+,;=%:[]" + _ALPHANUMERIC_LOWER + _UPPER

# RFC 9110 section 7.6.1 and RFC 9113 section 8.2.2: these speak of one connection only.
CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)


class RequestHead:
    """`authority` is the host and port the client asked for (may be empty), `path` includes the query."""

    __slots__ = (
        "_base", "authority", "content_length", "derived", "expects_continue", "fields", "method", "path", "scheme",
    )  # fmt: skip

    def __init__(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        fields: Fields = (),
        *,
        content_length: int | None = None,
        expects_continue: bool = False,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.path = path
        self.fields = fields
        self.content_length = content_length
        self.expects_continue = expects_continue
        self.derived: object = None
        self._base: RequestHead | None = None

    @property
    def base(self) -> RequestHead:
        """See the module's docstring. Not a plain attribute: a reference to itself would be for the collector."""
        return self._base or self

    def extended(self, tail: Fields) -> RequestHead:
        """This head with more fields at the end. None of them may concern the body or the target."""
        head = RequestHead(
            self.method,
            self.scheme,
            self.authority,
            self.path,
            self.fields + tail,
            content_length=self.content_length,
            expects_continue=self.expects_continue,
        )
        head._base = self
        return head

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field (lower-case name), or None."""
        return first(self.fields, name)

    def __repr__(self) -> str:
        # Field values are left out: they may be keys.
        names = ", ".join(name.decode("ascii") for name, _ in self.fields)
        return (
            f"<{self.method.decode()} {self.scheme.decode()}://{self.authority.decode()}{self.path.decode()} [{names}]>"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestHead) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.method, self.scheme, self.authority, self.path, self.fields, self.content_length)


class ResponseHead:
    """`content_length` as announced, also for answers that have no body (to HEAD, and 304)."""

    __slots__ = ("_base", "content_length", "derived", "fields", "status")

    def __init__(self, status: int, fields: Fields = (), content_length: int | None = None) -> None:
        self.status = status
        self.fields = fields
        self.content_length = content_length
        self.derived: object = None
        self._base: ResponseHead | None = None

    @property
    def base(self) -> ResponseHead:
        """See the module's docstring. Not a plain attribute: a reference to itself would be for the collector."""
        return self._base or self

    def extended(self, tail: Fields) -> ResponseHead:
        """This head with more fields at the end, none of which says anything about the body."""
        head = ResponseHead(self.status, self.fields + tail, self.content_length)
        head._base = self
        return head

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field (lower-case name), or None."""
        return first(self.fields, name)

    def __repr__(self) -> str:
        return f"<{self.status} [{', '.join(name.decode('ascii') for name, _ in self.fields)}]>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResponseHead) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.status, self.fields, self.content_length)


def first(fields: Fields, name: bytes) -> bytes | None:
    """The first value of the field called `name`, or None."""
    for key, value in fields:
        if key == name:
            return value
    return None


def check_fields(names: list[bytes], values: list[bytes]) -> None:
    """Raise `Malformed` unless every name is a lower-case token and every value is clean (RFC 9110 section 5).

    All names at once, and all values at once: deleting every allowed byte must leave nothing.
    """
    if b"" in names or b"".join(names).translate(None, LOWER_TOKEN):
        raise Malformed("a field name is not a token")
    joined = b"\n".join(values)
    if joined.translate(None, _IN_VALUE).strip(b"\n") or joined.count(b"\n") != max(0, len(values) - 1):
        raise Malformed("a field value holds a control character")
    # Cheap refusals first; only the suspicious are looked at one by one.
    if b" \n" in joined or b"\n " in joined or b"\t" in joined or joined[:1] == b" " or joined[-1:] == b" ":
        for value in values:
            if value.strip(b" \t") != value:
                raise Malformed("a field value starts or ends with white space")


def check_path(method: bytes, path: bytes) -> None:
    """Origin form, or `*` for OPTIONS."""
    if path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
        raise Malformed("the request target is not a path")
    if path.translate(None, _IN_PATH):
        raise Malformed("the request target holds a character that must be encoded")


def check_authority(authority: bytes) -> None:
    """A host and port; user information is refused (RFC 9110 section 4.2.4)."""
    if authority.translate(None, _IN_AUTHORITY):
        raise Malformed("the authority is not a host and port")


def check_method(method: bytes) -> None:
    if not method or method.translate(None, TOKEN):
        raise Malformed("the method is not a token")
    if method == b"CONNECT":
        raise Malformed("CONNECT is not offered here", 501)


def parse_content_length(values: Iterable[bytes]) -> int | None:
    """The one announced length, or None. Two, even equal ones, or anything but digits raise `Malformed`."""
    length: int | None = None
    for value in values:
        if length is not None:
            raise Malformed("more than one content-length")
        if not value.isdigit() or len(value) > 18:
            raise Malformed("content-length is not a number")
        length = int(value)
    return length
