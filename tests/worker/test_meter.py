"""What loads are found to take, on a heap that does as the test says."""

from __future__ import annotations

import pytest

from worker.runtimes.onnx.heap import Heap
from worker.runtimes.onnx.meter import Meter

ESTIMATE = 800


class ScriptedHeap(Heap):
    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size = size

    def allocated(self) -> int | None:
        return self.size

    def grow(self, by: int) -> None:
        assert self.size is not None
        self.size += by


@pytest.mark.parametrize(
    ("growth", "measured"),
    [
        pytest.param(1000, 1000, id="what the heap grew by"),
        pytest.param(ESTIMATE // 8, ESTIMATE // 8, id="the least that can be true"),
        pytest.param(ESTIMATE // 8 - 1, ESTIMATE, id="others freed meanwhile"),
        pytest.param(4 * ESTIMATE, 4 * ESTIMATE, id="the most that can be true"),
        pytest.param(4 * ESTIMATE + 1, ESTIMATE, id="requests allocated meanwhile"),
    ],
)
def test_growth_counts_where_it_can_be_true(growth: int, measured: int) -> None:
    heap = ScriptedHeap(10_000)
    measurement = Meter(heap).begin(ESTIMATE, by_estimate=False)
    heap.grow(growth)
    assert measurement.finish() == measured
    heap.grow(500)
    assert measurement.finish() == measured, "once and for all"


@pytest.mark.parametrize(("size", "by_estimate"), [(None, False), (10_000, True)], ids=["no such heap", "on a GPU"])
def test_the_estimate_counts_where_the_heap_says_nothing(size: int | None, by_estimate: bool) -> None:
    assert Meter(ScriptedHeap(size)).begin(ESTIMATE, by_estimate=by_estimate).finish() == ESTIMATE


def test_loads_that_overlap_leave_each_other_out() -> None:
    heap = ScriptedHeap(10_000)
    meter = Meter(heap)
    first = meter.begin(ESTIMATE, by_estimate=False)
    second = meter.begin(ESTIMATE, by_estimate=False)
    heap.grow(700)
    assert first.finish() == 700
    heap.grow(900)
    assert second.finish() == 900


def test_what_is_freed_meanwhile_does_not_count() -> None:
    heap = ScriptedHeap(10_000)
    meter = Meter(heap)
    old = meter.begin(ESTIMATE, by_estimate=False)
    heap.grow(700)
    old.finish()
    new = meter.begin(ESTIMATE, by_estimate=False)
    heap.grow(-700)
    old.release()
    heap.grow(900)
    assert new.finish() == 900
