"""Header compression (RFC 7541): a decoder that remembers, and an encoder that has nothing to remember.

Decoding happens on the path of every request whose header block was not seen before (a request id is enough), so the
loop is ours. The tables and the Huffman code are those of the `hpack` library, whose own decoder is the oracle in
tests.

Encoding uses the static table only and announces a dynamic table of size zero once per connection. So an encoded block
means the same on every connection and at every time: it can be made once and sent a million times, and the
concatenation of two blocks is a block. A peer that remembers whole blocks, as we do, is faster this way than with
indices that move.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from berth.headers import AUTHORIZATION, CREDENTIAL
from berth.http.errors import Malformed
from berth.http.head import CONNECTION_FIELDS, Field, check_fields

TABLE_SIZE: Final = 4096

# To precede the first block of a connection.
NO_DYNAMIC_TABLE: Final = b"\x20"

_STATIC: Final = HeaderTable.STATIC_TABLE
_STATIC_LENGTH: Final = len(_STATIC)
_LARGEST_INTEGER: Final = 2**31 - 1

# Single fields are remembered up to this size, for all connections together: bounded in number and in bytes.
MEMO_VALUE_SIZE: Final = 256
_SENSITIVE: Final = frozenset((AUTHORIZATION, b"proxy-authorization", b"cookie", b"set-cookie", CREDENTIAL))


class CompressionError(Exception):
    """The block cannot be decoded; the connection's compression state is lost with it."""


class HeaderDecoder:
    """One direction of one connection.

    `decode` returns the fields, whether the block left the dynamic table as it was (only then does the same block mean
    the same next time), and whether the list passed `max_list` and was therefore cut. A cut list was still decoded to
    its end: the table needs it.
    """

    __slots__ = ("_max_list", "_table")

    def __init__(self, max_list: int) -> None:
        self._table = HeaderTable()
        self._max_list = max_list

    def decode(
        self, block: bytes, before: Sequence[Field] = (), starts: list[int] | None = None
    ) -> tuple[list[Field], bool, bool]:
        """Raises `CompressionError`.

        `before` are fields of the same list that were decoded already: they count for `max_list`, and forbid a change
        of the table's size. `starts` is filled with where in `block` each field begins.
        """
        try:
            return self._decode(block, before, starts)
        except (IndexError, HPACKDecodingError) as error:
            raise CompressionError(str(error) or "truncated header block") from None

    # One loop on purpose: a call for each kind of field would double its cost.
    def _decode(  # noqa: PLR0912
        self, block: bytes, before: Sequence[Field], starts: list[int] | None
    ) -> tuple[list[Field], bool, bool]:
        fields: list[Field] = []
        pure = True
        cut = False
        size = sum([32 + len(name) + len(value) for name, value in before])
        pos = 0
        end = len(block)
        while pos < end:
            if starts is not None:
                starts.append(pos)
            byte = block[pos]
            pos += 1
            if byte & 0x80:  # an indexed field
                index = byte & 0x7F
                if index == 0x7F:
                    index, pos = _integer(block, pos, 0x7F)
                field = self._entry(index)
            elif byte & 0x60 == 0x20:  # a change of the table's size
                if fields or cut or before:
                    raise CompressionError("a table size update after a field")
                new_size, pos = _integer(block, pos, 0x1F) if byte & 0x1F == 0x1F else (byte & 0x1F, pos)
                if new_size > TABLE_SIZE:
                    raise CompressionError(f"a table of {new_size} bytes is larger than allowed")
                self._table.maxsize = new_size
                pure = False
                continue
            else:  # a literal: added to the table (01), not added (0000), never to be added (0001)
                insert = byte & 0x40
                mask = 0x3F if insert else 0x0F
                index = byte & mask
                if index == 0:
                    name, pos = _string(block, pos)
                else:
                    if index == mask:
                        index, pos = _integer(block, pos, mask)
                    name = self._entry(index)[0]
                value, pos = _string(block, pos)
                field = (name, value)
                if insert:
                    self._table.add(name, value)
                    pure = False
            size += 32 + len(field[0]) + len(field[1])
            if size > self._max_list:
                cut = True
            else:
                fields.append(field)
        return fields, pure, cut

    def _entry(self, index: int) -> Field:
        if index > _STATIC_LENGTH:
            return self._table.dynamic_entries[index - _STATIC_LENGTH - 1]
        if index == 0:
            raise CompressionError("index 0")
        return _STATIC[index - 1]

    @property
    def dynamic_entries(self) -> Sequence[Field]:
        """The dynamic table, the newest entry first."""
        return tuple(self._table.dynamic_entries)

    def __repr__(self) -> str:
        return f"<HeaderDecoder {len(self._table.dynamic_entries)} dynamic entries>"


def _integer(block: bytes, pos: int, prefix: int) -> tuple[int, int]:
    """The rest of an integer whose first byte was all `prefix`, and where it ends (section 5.1)."""
    number = prefix
    shift = 0
    while True:
        byte = block[pos]
        pos += 1
        number += (byte & 0x7F) << shift
        if number > _LARGEST_INTEGER or shift > 28:
            raise CompressionError("an integer is too large")
        if byte < 0x80:
            return number, pos
        shift += 7


def _string(block: bytes, pos: int) -> tuple[bytes, int]:
    first = block[pos]
    pos += 1
    size = first & 0x7F
    if size == 0x7F:
        size, pos = _integer(block, pos, 0x7F)
    text = block[pos : pos + size]
    if len(text) != size:
        raise CompressionError("truncated string")
    if first & 0x80:
        text = _huffman(text) if size <= MEMO_VALUE_SIZE else decode_huffman(text)
    return text, pos + size


@lru_cache(maxsize=2048)
def _huffman(text: bytes) -> bytes:
    return decode_huffman(text)


def encode(fields: Iterable[Field]) -> bytes:
    """A block that needs no dynamic table. Names must be lower case; pseudo-fields come first.

    What concerns one HTTP/1.1 connection only (`connection`, `transfer-encoding`, …) is left out. Raises `ValueError`
    for a name or value that must not be on the wire. No Huffman code: it saves a quarter of the bytes for ten times
    the work.
    """
    return b"".join(
        [
            _encode_field_remembered(field) if len(field[1]) <= MEMO_VALUE_SIZE else _encode_field(field)
            for field in fields
        ]
    )


def encode_request(method: bytes, scheme: bytes, authority: bytes, path: bytes, fields: Iterable[Field] = ()) -> bytes:
    """The block of a request; `fields` as for `encode`. An empty authority is left out."""
    pseudo = [(b":method", method), (b":scheme", scheme), (b":path", path)]
    if authority:
        pseudo.append((b":authority", authority))
    return encode([*pseudo, *fields])


def encode_response(status: int, fields: Iterable[Field] = ()) -> bytes:
    """The block of a response; `fields` as for `encode`."""
    return encode([(b":status", b"%d" % status), *fields])


def _encode_field(field: Field) -> bytes:
    name, value = field
    if name in CONNECTION_FIELDS:
        return b""
    try:
        check_fields([name.removeprefix(b":")], [value])
    except Malformed as error:
        raise ValueError(error.detail) from None
    literal = 0x10 if name in _SENSITIVE else 0x00
    known = HeaderTable.STATIC_TABLE_MAPPING.get(name)
    if known is None:
        return bytes((literal,)) + _encode_string(name) + _encode_string(value)
    index = known[1].get(value)
    if index is not None:
        return _encode_integer(index, 0x80, 0x7F)
    return _encode_integer(known[0], literal, 0x0F) + _encode_string(value)


# Most fields of a request with a new id are those of the request before.
_encode_field_remembered: Final = lru_cache(maxsize=2048)(_encode_field)


def _encode_string(text: bytes) -> bytes:
    return _encode_integer(len(text), 0x00, 0x7F) + text


def _encode_integer(number: int, pattern: int, prefix: int) -> bytes:
    if number < prefix:
        return bytes((pattern | number,))
    coded = bytearray((pattern | prefix,))
    number -= prefix
    while number >= 0x80:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)
