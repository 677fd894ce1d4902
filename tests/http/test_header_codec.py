"""Header compression against the hpack library, in both directions, and the memories that sit on top of it."""

from __future__ import annotations

import random

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.http.errors import Malformed
from berth.http.head import RequestHead, ResponseHead
from berth.http.http2.blocks import BlockReader
from berth.http.http2.header_codec import (
    NO_DYNAMIC_TABLE,
    CompressionError,
    HeaderDecoder,
    encode,
    encode_request,
    encode_response,
)
from berth.http.http2.messages import Trailers, parse
from berth.http.limits import Http2Limits

names = st.sampled_from(
    [b"x-a", b"x-b", b"accept", b"grpc-timeout", b"user-agent", b"content-type", b"x-" + b"n" * 200]
)
values = st.one_of(
    st.sampled_from([b"", b"1", b"trailers", b"application/grpc", b"v" * 300]),
    st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40).map(str.encode),
)
field_lists = st.lists(st.tuples(names, values), max_size=12)
PSEUDO = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p"), (b":authority", b"h:1")]


@given(st.lists(st.tuples(field_lists, st.booleans(), st.sampled_from([None, 0, 60, 1000, 4096])), max_size=8))
def test_decodes_what_hpack_encodes(lists: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]) -> None:
    encoder, ours, theirs = hpack.Encoder(), HeaderDecoder(2**16), hpack.Decoder()
    for fields, huffman, table_size in lists:
        if table_size is not None:
            encoder.header_table_size = table_size
        block = encoder.encode(fields, huffman=huffman)
        decoded, pure, cut = ours.decode(block)
        assert decoded == fields == [tuple(field) for field in theirs.decode(block, raw=True)]
        assert not cut
        assert list(ours.dynamic_entries) == list(theirs.header_table.dynamic_entries)
        if pure:  # then the same block must mean the same again
            assert ours.decode(block)[0] == fields
            theirs.decode(block)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_accepts_and_refuses_what_hpack_does(blocks: list[bytes]) -> None:
    ours, theirs = HeaderDecoder(2**16), hpack.Decoder()
    for block in blocks:
        try:
            expected = [tuple(field) for field in theirs.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(CompressionError):
                ours.decode(block)
            return
        assert ours.decode(block)[0] == expected


@given(field_lists)
def test_hpack_decodes_what_we_encode(fields: list[tuple[bytes, bytes]]) -> None:
    block = encode(fields)
    decoder = hpack.Decoder()
    assert [tuple(field) for field in decoder.decode(NO_DYNAMIC_TABLE + block, raw=True)] == fields
    assert not decoder.header_table.dynamic_entries
    # A block is made of blocks.
    assert block == b"".join(encode([field]) for field in fields)
    assert HeaderDecoder(2**16).decode(block)[1], "a block without a table is pure"


@pytest.mark.parametrize(
    "fields",
    [
        [(b"X-Upper", b"v")],
        [(b"x\n", b"v")],
        [(b"", b"v")],
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"a\x00")],
        [(b"x", b" a")],
        [(b"x", b"a\t")],
        [(b"x y", b"a")],
        [(b"x", b"\n" * 300)],
    ],
)
def test_encode_refuses_what_must_not_be_on_the_wire(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match="field"):
        encode(fields)


def test_encode_leaves_out_what_concerns_one_connection() -> None:
    assert encode([(b"connection", b"x"), (b"transfer-encoding", b"chunked"), (b"a", b"b")]) == encode([(b"a", b"b")])


def test_secrets_are_never_indexed() -> None:
    block = encode([(b"authorization", b"Bearer k"), (b"berth-credential", b"c"), (b"plain", b"p")])
    kinds = [type(field).__name__ for field in hpack.Decoder().decode(block)]
    assert kinds == ["NeverIndexedHeaderTuple", "NeverIndexedHeaderTuple", "HeaderTuple"]


def test_a_list_that_is_too_long_is_cut_but_decoded_to_its_end() -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(200)
    fields = [(b"x-%d" % n, b"v" * 40) for n in range(10)]
    decoded, _, cut = decoder.decode(encoder.encode(fields))
    assert cut
    assert decoded == fields[:2]
    assert decoder.decode(encoder.encode(fields[9:]))[0] == fields[9:], "the table holds the last field"


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "index 0"),
        (b"\xff", "range"),
        (b"\xff\xff\xff\xff\xff\x7f", "too large"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\x01", "too large"),
        (b"\xbe", "range"),
        (b"\x40\x05ab", "truncated"),
        (b"\x40\x01a", "range"),
        (b"\x82\x20", "after a field"),
        (b"\x3f\xe2\x1f", "larger than allowed"),
        (b"\x40\x81\xff\x01v", "Huffman"),
    ],
)
def test_broken_blocks(block: bytes, why: str) -> None:
    with pytest.raises(CompressionError, match=why):
        HeaderDecoder(2**16).decode(block)


# ── Memories ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(
        st.tuples(
            st.sampled_from([[], [(b"te", b"trailers")], [(b"user-agent", b"grpc"), (b"te", b"trailers")]]),
            field_lists,
            st.sampled_from(["static", "dynamic", "size"]),
        ),
        max_size=20,
    ),
    st.sampled_from([64, 512, 16384]),
)
def test_remembering_never_changes_the_meaning(
    requests: list[tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], str]], memo: int
) -> None:
    """Blocks with and without a dynamic table, repeated and with changing tails, mean what a fresh parse says."""
    reader, encoder = BlockReader(Http2Limits(memo=memo)), hpack.Encoder()
    sizes = iter([100, 4096] * 20)
    for common, tail, how in requests:
        fields = PSEUDO + common + tail
        if how == "size":
            encoder.header_table_size = next(sizes)
        block = encode(fields) if how == "static" and not encoder.header_table.resized else encoder.encode(fields)
        for _ in range(2 if how == "static" else 1):
            message = reader.read(block)
            assert message == parse(fields)


def test_equal_blocks_share_one_head() -> None:
    reader = BlockReader(Http2Limits())
    block = encode_request(b"POST", b"http", b"h", b"/p", ((b"te", b"trailers"),))
    first = reader.read(block)
    assert isinstance(first, RequestHead)
    assert reader.read(block) is first
    assert first.base is first


def test_blocks_with_a_common_start_share_a_base() -> None:
    reader = BlockReader(Http2Limits())
    common = encode_request(b"POST", b"http", b"h", b"/p", ((b"te", b"trailers"),))
    heads = [
        reader.read(common + encode(((b"x-request-id", b"%032d" % n), (b"grpc-timeout", b"%dm" % n)))) for n in range(5)
    ]
    assert all(isinstance(head, RequestHead) for head in heads)
    bases = {id(head.base) for head in heads[1:] if isinstance(head, RequestHead)}
    later = heads[-1]
    assert isinstance(later, RequestHead)
    assert later.fields == ((b"te", b"trailers"), (b"x-request-id", b"%032d" % 4), (b"grpc-timeout", b"4m"))
    assert later.base.fields == ((b"te", b"trailers"),)
    assert len(bases) == 2, "the second block found the prefix, the others used it"


def test_a_tail_that_matters_is_not_taken_for_granted() -> None:
    reader = BlockReader(Http2Limits())
    common = encode_request(b"POST", b"http", b"", b"/p", ((b"te", b"trailers"),))
    for n in range(3):
        reader.read(common + encode(((b"x-id", b"%d" % n),)))
    length = reader.read(common + encode(((b"content-length", b"7"),)))
    assert isinstance(length, RequestHead)
    assert length.content_length == 7
    host = reader.read(common + encode(((b"host", b"elsewhere"),)))
    assert isinstance(host, RequestHead)
    assert host.authority == b"elsewhere"
    late = reader.read(common + b"\x00\x05:path\x01/")
    assert isinstance(late, Malformed)
    assert isinstance(reader.read(common + b"\x00\x0aconnection\x01a"), Malformed)
    assert isinstance(reader.read(common + b"\x00\x01X\x01a"), Malformed)


def test_a_long_tail_counts_for_the_whole_list() -> None:
    reader = BlockReader(Http2Limits(header_list=400))
    common = encode_request(b"POST", b"http", b"h", b"/p")
    for n in range(3):
        assert isinstance(reader.read(common + encode(((b"x-id", b"%d" % n),))), RequestHead)
    answer = reader.read(common + encode(((b"x-id", b"v" * 300),)))
    assert isinstance(answer, Malformed)
    assert answer.status == 431


def test_an_insert_drops_every_memory() -> None:
    """The trap of remembering blocks: after an insert, the same bytes mean something else."""
    reader = BlockReader(Http2Limits())
    request = encode_request(b"GET", b"http", b"h", b"/p")
    newest = b"\xbe"

    def last_field(block: bytes) -> tuple[bytes, bytes]:
        message = reader.read(block)
        assert isinstance(message, RequestHead)
        return message.fields[-1]

    assert last_field(request + b"\x40\x03x-a\x011") == (b"x-a", b"1")
    for n in (b"2", b"3"):  # the second of each pair comes from memory, whole or with the common start
        assert last_field(request + newest) == last_field(request + newest)
        assert last_field(request + newest + encode(((b"x-id", b"7"),))) == (b"x-id", b"7")
        assert last_field(request + newest + encode(((b"x-id", b"8"),))) == (b"x-id", b"8")
        assert last_field(request + b"\x40\x03x-a\x01" + n) == (b"x-a", n)
        assert last_field(request + newest) == (b"x-a", n)
        tail = reader.read(request + newest + encode(((b"x-id", b"9"),)))
        assert isinstance(tail, RequestHead)
        assert tail.fields == ((b"x-a", n), (b"x-id", b"9"))
    trailers = encode(((b"grpc-status", b"0"), (b"x-id", b"1")))
    assert isinstance(reader.read(trailers), Trailers), "not more of what came before"
    reader.read(b"\x20" + request)  # the table is emptied
    assert isinstance(reader.read(encode(((b"grpc-status", b"0"),))), Trailers)
    with pytest.raises(CompressionError):
        reader.read(request + newest)


def test_memory_of_blocks_is_bounded() -> None:
    reader, rng = BlockReader(Http2Limits(memo=4096)), random.Random(1)
    for _ in range(2000):
        path = b"/" + bytes(rng.choices(b"abcdef", k=30))
        assert isinstance(reader.read(encode_request(b"GET", b"http", b"h", path)), RequestHead)
    assert 0 < reader.remembered <= 4096


# ── Meaning ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_heads() -> None:
    head = parse([*PSEUDO, (b"content-length", b"12"), (b"expect", b"100-continue"), (b"te", b"trailers")])
    assert isinstance(head, RequestHead)
    assert (head.method, head.scheme, head.authority, head.path) == (b"POST", b"http", b"h:1", b"/p")
    assert head.content_length == 12
    assert head.expects_continue
    assert head.get(b"te") == b"trailers"
    assert head.get(b"absent") is None
    assert "POST http://h:1/p" in repr(head)
    answer = parse([(b":status", b"204"), (b"server", b"s")])
    assert answer == ResponseHead(204, ((b"server", b"s"),))
    assert HeaderDecoder(999).decode(encode_response(204, ((b"server", b"s"),)))[0][0] == (b":status", b"204")
    trailers = parse([(b"grpc-status", b"0"), (b"grpc-message", "ü".encode())])
    assert isinstance(trailers, Trailers)
    assert trailers.fields[1] == (b"grpc-message", "ü".encode())


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([*PSEUDO, (b":path", b"/q")], id="duplicate pseudo-field"),
        pytest.param([(b"a", b"b"), *PSEUDO], id="pseudo-field after a field"),
        pytest.param([*PSEUDO, (b":unknown", b"x")], id="unknown pseudo-field"),
        pytest.param([*PSEUDO, (b":status", b"200")], id="status in a request"),
        pytest.param(PSEUDO[1:], id="no method"),
        pytest.param([PSEUDO[0], PSEUDO[2]], id="no scheme"),
        pytest.param(PSEUDO[:2], id="no path"),
        pytest.param([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"")], id="empty path"),
        pytest.param([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"*")], id="asterisk"),
        pytest.param([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a b")], id="space in path"),
        pytest.param([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a#b")], id="fragment in path"),
        pytest.param([(b":method", b"G T"), (b":scheme", b"http"), (b":path", b"/")], id="method not a token"),
        pytest.param([(b":method", b"CONNECT"), (b":authority", b"h:1")], id="connect"),
        pytest.param([*PSEUDO, (b"Upper", b"x")], id="upper case"),
        pytest.param([*PSEUDO, (b"", b"x")], id="empty name"),
        pytest.param([*PSEUDO, (b"a b", b"x")], id="space in name"),
        pytest.param([*PSEUDO, (b"a", b"x\r\ny")], id="line end in value"),
        pytest.param([*PSEUDO, (b"a", b"x\x00")], id="nul in value"),
        pytest.param([*PSEUDO, (b"a", b" x")], id="leading space"),
        pytest.param([*PSEUDO, (b"a", b"x\t")], id="trailing tab"),
        pytest.param([*PSEUDO, (b"connection", b"close")], id="connection"),
        pytest.param([*PSEUDO, (b"transfer-encoding", b"chunked")], id="transfer-encoding"),
        pytest.param([*PSEUDO, (b"upgrade", b"x")], id="upgrade"),
        pytest.param([*PSEUDO, (b"te", b"gzip")], id="te"),
        pytest.param([*PSEUDO, (b"content-length", b"1"), (b"content-length", b"1")], id="two content-lengths"),
        pytest.param([*PSEUDO, (b"content-length", b"+1")], id="content-length not a number"),
        pytest.param([*PSEUDO, (b"host", b"other")], id="host is not the authority"),
        pytest.param([*PSEUDO[:3], (b":authority", b"user@h")], id="user information"),
        pytest.param([(b":status", b"20")], id="short status"),
        pytest.param([(b":status", b"999")], id="status too large"),
        pytest.param([(b":status", b"101")], id="upgrade answer"),
        pytest.param([(b":status", b"200"), (b":path", b"/")], id="path in a response"),
        pytest.param([(b"content-length", b"1")], id="content-length in trailers"),
        pytest.param([(b":path", b"/")], id="request without all but the path"),
    ],
)
def test_malformed_messages(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Malformed):
        parse(fields)
