"""Messages of a stream are renamed in pieces of any size, and come to the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidArgument, PayloadTooLarge
from router.core.renaming import Renaming

TAIL = b"-tail"


def framed(messages: list[bytes], tail: bytes = b"") -> bytes:
    return b"".join(b"\0" + (len(one) + len(tail)).to_bytes(4, "big") + one + tail for one in messages)


@given(messages=st.lists(st.binary(max_size=40), max_size=6), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_however_it_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = framed(messages)
    renaming = Renaming(TAIL, 100)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert b"".join(map(renaming.renamed, pieces)) == framed(messages, TAIL)


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="compressed"):
        Renaming(TAIL, 100).renamed(b"\1\0\0\0\1x")


def test_a_message_is_at_most_so_long() -> None:
    with pytest.raises(PayloadTooLarge, match="100 are allowed"):
        Renaming(TAIL, 100).renamed(b"\0\0\0\0\x65")
