from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.footprint import corrected, estimate, likely, transient

MIB = 1 << 20
sizes = st.integers(0, 1 << 50)


@pytest.mark.parametrize(
    ("initializers", "artifact", "resident"),
    [
        # What ONNX Runtime 1.31 was measured to keep.
        (0, 300, 71 << 10),
        (332_000, 333_000, 512 << 10),
        (0, 15_609_520, 62 * MIB),
        (100 * MIB, 100 * MIB + 1_212, 100 * MIB),
        (45 * MIB, 45 * MIB + 20_000, 43 * MIB),
    ],
)
def test_estimate_covers_what_was_measured_without_waste(initializers: int, artifact: int, resident: int) -> None:
    assert resident <= estimate(initializers, artifact) <= 2 * resident


@pytest.mark.parametrize(
    ("artifact", "resident"),
    [(300, 71 << 10), (333_000, 512 << 10), (100 * MIB + 1_212, 100 * MIB), (45 * MIB + 20_000, 43 * MIB)],
)
def test_what_is_likely_is_a_guess_at_what_was_measured_and_no_bound(artifact: int, resident: int) -> None:
    assert resident / 2 <= likely(artifact) <= 2 * resident


def test_what_a_load_takes_for_a_moment() -> None:
    assert transient(100 * MIB) == 200 * MIB
    assert likely(100 * MIB) == 130 * MIB + (96 << 10)


@given(sizes, sizes, sizes)
def test_estimate_grows_with_either_size(initializers: int, artifact: int, more: int) -> None:
    assert estimate(initializers, artifact) >= max(initializers, artifact)
    assert estimate(initializers, artifact + more) >= estimate(initializers, artifact)


@pytest.mark.parametrize(
    ("estimated", "measured", "reserved"),
    [
        (1_000_000, 0, 1_000_000),  # nothing measured
        (1_000_000, 900_000, 1_000_000),  # 990,000 is near enough
        (1_000_000, 700_000, 1_000_000),  # within the dead band
        (1_000_000, 500_000, 550_000),
        (1_000_000, 950_000, 1_045_000),  # more than was reserved
        (1_000_000, 1, 70 << 10),  # no session is smaller
    ],
)
def test_corrected(estimated: int, measured: int, reserved: int) -> None:
    assert corrected(estimated, measured) == reserved


@given(sizes, sizes)
def test_corrected_covers_the_measurement_and_settles(estimated: int, measured: int) -> None:
    reserved = corrected(estimated, measured)
    assert reserved >= measured
    assert corrected(reserved, measured) == reserved
