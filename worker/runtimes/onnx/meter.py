"""What a load takes of the C heap, also when others load and free meanwhile."""

from __future__ import annotations

import threading

from worker.runtimes.onnx.heap import Heap


class Meter:
    """Adds up what loads were found to take, so that each measurement can leave out what others accounted for
    meanwhile.

    Its methods may be called from any thread.
    """

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self._accounted = 0
        self._lock = threading.Lock()

    def begin(self, estimate: int, *, by_estimate: bool) -> Measurement:
        """The measurement of a load that begins now. `by_estimate`: what it takes is not on this heap."""
        with self._lock:
            return Measurement(self, estimate, None if by_estimate else self._unaccounted())

    def finish(self, before: int | None, estimate: int) -> int:
        """What came since `before`, which is accounted for from now on. For `Measurement`."""
        with self._lock:
            measured = estimate
            after = None if before is None else self._unaccounted()
            # Requests allocate too. Far from the estimate is not a measurement of this load.
            if before is not None and after is not None and estimate // 8 <= after - before <= 4 * estimate:
                measured = after - before
            self._accounted += measured
            return measured

    def release(self, measured: int) -> None:
        """The version that took so much has been freed. For `Measurement`."""
        with self._lock:
            self._accounted -= measured

    def _unaccounted(self) -> int | None:
        allocated = self.heap.allocated()
        return None if allocated is None else allocated - self._accounted


class Measurement:
    """One load's: `finish` it when the version is warm, `release` it when the version has been freed."""

    def __init__(self, meter: Meter, estimate: int, before: int | None) -> None:
        self._meter = meter
        self._estimate = estimate
        self._before = before
        self._measured = 0

    def finish(self) -> int:
        """Bytes taken from the beginning of the load to the first time that this is called.

        The estimate if that cannot be known or cannot be true.
        """
        if not self._measured:
            self._measured = self._meter.finish(self._before, self._estimate)
        return self._measured

    def release(self) -> None:
        self._meter.release(self._measured)
        self._measured = 0
