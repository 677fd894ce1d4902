"""gRPC on HTTP/2: messages cut anywhere, deadlines, texts of any language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.http.grpc.messages import MessageReader, MessageTooLarge, prefix, size_after
from berth.http.grpc.status import code_name, parse_text, read_status, status_fields
from berth.http.grpc.timeouts import encode_timeout, parse_timeout


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=6), st.lists(st.integers(1, 30), min_size=1))
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    messages: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    wire = b"".join(prefix(len(data), compressed=compressed) + data for data, compressed in messages)
    reader = MessageReader(40)
    found: list[tuple[bytes, bool]] = []
    at = 0
    while at < len(wire):
        size = cuts[at % len(cuts)]
        reader.feed(wire[at : at + size])
        at += size
        while (message := reader.next()) is not None:
            found.append((message[0], message[1]))
    assert found == messages
    assert not reader.inside
    assert reader.buffered == 0


def test_a_message_is_refused_by_its_prefix() -> None:
    reader = MessageReader(10)
    reader.feed(prefix(11))
    with pytest.raises(MessageTooLarge):
        reader.next()
    reader = MessageReader(10)
    reader.feed(b"\2\0\0\0\1x")
    with pytest.raises(ValueError, match="first byte is 2"):
        reader.next()


def test_a_message_that_is_cut_off_shows() -> None:
    reader = MessageReader(10)
    reader.feed(prefix(3) + b"ab")
    assert reader.next() is None
    assert reader.inside


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"250m", 0.25), (b"5u", 5e-6), (b"99999999n", 0.099999999)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"-1S", b"1s", b"123456789S", b"1.5S", b" 1S"])
def test_what_is_no_timeout(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a grpc-timeout"):
        parse_timeout(value)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_texts_survive_and_are_plain_on_the_wire(text: str) -> None:
    (_, code), (_, encoded) = status_fields(3, text)
    assert code == b"3"
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert parse_text(encoded) == text


def test_a_text_has_an_end() -> None:
    assert len(status_fields(2, "é" * 100_000)[1][1]) <= 6_000


@pytest.mark.parametrize(
    ("milliseconds", "value"),
    [(1, b"1m"), (99_999_999, b"99999999m"), (100_000_000, b"100000S"), (10**12, b"99999999S")],
)
def test_a_timeout_has_eight_digits_at_most(milliseconds: int, value: bytes) -> None:
    assert encode_timeout(milliseconds) == value
    assert parse_timeout(value) * 1000 <= milliseconds


@pytest.mark.parametrize(
    ("fields", "http_status", "code", "text"),
    [
        (((b"grpc-status", b"0"),), 200, "OK", ""),
        (((b"grpc-status", b"5"), (b"grpc-message", b"no%20model")), 200, "NOT_FOUND", "no model"),
        (((b"grpc-status", b"14"),), 503, "UNAVAILABLE", ""),
        ((), 200, "UNKNOWN", "the replica's answer has no status"),
        (((b"grpc-status", b"x"),), 200, "UNKNOWN", "the replica's answer has no status"),
        ((), 404, "UNIMPLEMENTED", "HTTP status 404"),
        ((), 418, "UNKNOWN", "HTTP status 418"),
        (((b"grpc-status", b"99"),), 200, "UNKNOWN", ""),
    ],
)
def test_a_status_is_read_or_made_of_that_of_http(
    fields: tuple[tuple[bytes, bytes], ...], http_status: int, code: str, text: str
) -> None:
    status = read_status(fields, http_status)
    assert code_name(status.code) == code
    assert parse_text(status.text) == text


@given(st.integers(0, 2**32 - 1), st.binary(max_size=10))
def test_a_prefix_says_how_long_its_message_is(size: int, rest: bytes) -> None:
    assert size_after(prefix(size) + rest) == size
