from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli.units import parse_size, show_age, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("1k", 1000),
        ("1KiB", 1024),
        ("512MB", 512_000_000),
        ("1.5GiB", 3 << 29),
        (" 2 g ", 2 * 10**9),
        ("3TiB", 3 << 40),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1 gigabyte", "1e9", "1,5G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_shown_sizes_are_short_and_close(size: int) -> None:
    shown = show_size(size)
    assert len(shown) <= 11
    assert abs(parse_size(shown) - size) <= max(1, 0.06 * size)


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")])
def test_ages(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert show_age(now - timedelta(seconds=seconds), now) == text
