"""What a row says of memory by device, whichever release wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.resources import HOST, Resources
from controller.store.amounts import amount, document

sizes = st.integers(0, 1 << 50)


@pytest.mark.parametrize(
    ("host_bytes", "stored", "said"),
    [
        pytest.param(7, {HOST: 7}, Resources.host(7), id="both agree"),
        pytest.param(7, None, Resources.host(7), id="the release before made the row"),
        pytest.param(9, {HOST: 7}, Resources.host(9), id="the release before reserved more"),
        pytest.param(5, {HOST: 7}, Resources.host(5), id="the release before freed some"),
        pytest.param(0, {HOST: 7}, Resources(), id="the release before freed all"),
        pytest.param(7, {HOST: 7, "gpu": 3}, Resources.of({HOST: 7, "gpu": 3}), id="another device"),
        pytest.param(9, {"gpu": 3}, Resources.of({HOST: 9, "gpu": 3}), id="another device, which alone was written"),
    ],
)
def test_what_a_row_says(host_bytes: int, stored: dict[str, int] | None, said: Resources) -> None:
    assert amount(host_bytes, stored) == said


@given(st.dictionaries(st.sampled_from([HOST, "gpu"]), sizes).map(Resources.of), sizes)
def test_the_bytes_of_the_host_are_what_every_release_keeps(written: Resources, later: int) -> None:
    assert amount(written[HOST], document(written)) == written
    read = amount(later, document(written))
    assert read[HOST] == later
    assert read["gpu"] == written["gpu"]
