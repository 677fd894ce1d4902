"""What is compressed, within a limit."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.http.compression import inflate

FORMATS: list[Callable[[bytes], bytes]] = [gzip.compress, zlib.compress]


@given(st.binary(max_size=1000), st.sampled_from(FORMATS))
def test_either_format_is_told_by_its_first_bytes(data: bytes, compress: Callable[[bytes], bytes]) -> None:
    packed = compress(data)
    assert inflate(packed, len(data)) == data
    if data:
        with pytest.raises(OverflowError):
            inflate(packed, len(data) - 1)
    with pytest.raises(ValueError, match="cut off"):
        inflate(packed[:-1], len(data))


def test_what_is_not_compressed() -> None:
    with pytest.raises(ValueError, match="not compressed as it says"):
        inflate(b"plain", 100)
