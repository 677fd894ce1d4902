"""The memory of a replica that a version takes: every number that controllers and workers count with, and why.

Five questions, which have five answers. None stands in for another:

* **What to reserve before it was ever loaded** (`estimate`): an upper bound, from the file alone. ONNX Runtime keeps
  initializers at 1.0 to 1.6 times their size, and a session costs about 70 KiB. Everything else (nodes, attributes, the
  trees of an ensemble) is held several times over as objects. Activations depend on the batch and are allowed for by a
  fixed amount: they are borrowed for a request and returned.
* **What to reserve once it was measured** (`corrected`), and **beside it, by runtime** (`BESIDE_THE_MODEL`): Triton's
  Python backend runs a process for each model, ONNX Runtime is in the worker's own.
* **What a load is likely to have taken** (`likely`): the middle of the same range, not its end. A worker reports it
  where it cannot measure. Where it can, the estimate helps to tell the model's memory from what requests allocated
  meanwhile.
* **What a load takes for a moment** (`transient`): while a session is created, the parsed graph and prepacked copies
  lie beside the file's bytes, 2 to 4 times the initializers in all. The reservation covers the first time; the worker's
  ledger counts two more. It is not reserved: it lasts for the load, so it is owed once for each load under way and not
  once per version. To reserve it with each would leave three quarters of a loaded job empty for good. So a replica's
  process needs more memory than its job offers: the worker's load headroom on top.
* **What the worker takes without any version** (`PROCESS`): interpreter, libraries, buffers. It comes on top as well.

Measured on ONNX Runtime 1.31 (differences of the C heap: `tests/berth/test_footprint.py` has the table) and on the
Triton of nvidia-pytriton 0.7.0 with its Python backend (resident size of the processes).

Two things are known to be wrong, and stay as they are until measurements say how they were made:

* Too much on Triton: its workers measure the whole process of a model (and with a Triton in a container of its own they
  report what was reserved). Placement adds `BESIDE_THE_MODEL` to that once more when the version is placed again. That
  wastes 30 MiB.
* Too little for ensembles of trees where nothing can be measured (on a GPU, or without the C library's statistics):
  `likely` knows only the artifact's size. It says 20 MiB for the forest below, which takes 62. `corrected` believes it
  when the version is placed again.
"""

from __future__ import annotations

from collections.abc import Mapping

from berth.states import Runtime

_SESSION = 70 << 10
_ACTIVATIONS = 64 << 10
# In tenths, to stay in integers. The upper end of what was measured for initializers.
_INITIALIZERS_TENTHS = 16
# A forest of 150 trees, 14.9 MiB without a single initializer, was measured at 62 MiB.
_STRUCTURE_FACTOR = 5
# Resident size is measured as a difference in a busy process: add a tenth for what that misses.
_MARGIN_TENTHS = 11
# A reservation that is up to a third too large is left alone, so that noise does not move it each time.
_DEAD_BAND_QUARTERS = 3

BESIDE_THE_MODEL: Mapping[Runtime, int] = {Runtime.ONNXRUNTIME: 0, Runtime.TRITON: 30 << 20}
"""Bytes that a runtime takes for each version beside the model itself."""

PROCESS = 200 << 20
"""Bytes that a worker takes without any version."""

# The middle of 1.0 to 1.6, for the whole artifact; plus a session and what its first runs leave behind.
_LIKELY_FACTOR = 1.3
_LIKELY_SESSION = 96 << 10

# Of the 2 to 4 times that a load peaks at one is reserved already. What a fourth would need is left to the headroom.
_TRANSIENT_FACTOR = 2


def estimate(initializer_bytes: int, artifact_bytes: int) -> int:
    """Bytes to reserve for an ONNX artifact of `artifact_bytes`, of which `initializer_bytes` are tensors."""
    structure = max(artifact_bytes - initializer_bytes, 0)
    weights = _ceil_div(initializer_bytes * _INITIALIZERS_TENTHS, 10)
    return weights + structure * _STRUCTURE_FACTOR + _SESSION + _ACTIVATIONS


def corrected(estimate: int, measured: int) -> int:
    """Bytes to reserve once replicas measured `measured` (the largest of them; 0 if none has).

    Never less than measured. May exceed `estimate`: the caller must then see whether the job has the room. Applying it
    again with the same measurement changes nothing.
    """
    if measured <= 0:
        return estimate
    wanted = max(_ceil_div(measured * _MARGIN_TENTHS, 10), _SESSION)
    if estimate * _DEAD_BAND_QUARTERS <= wanted * 4 and wanted <= estimate:
        return estimate
    return wanted


def likely(artifact_bytes: int) -> int:
    """Bytes that an ONNX Runtime session of an artifact of `artifact_bytes` is likely to have taken."""
    return int(_LIKELY_FACTOR * artifact_bytes) + _LIKELY_SESSION


def transient(artifact_bytes: int) -> int:
    """Bytes that a load of an artifact of `artifact_bytes` takes beyond its reservation, until it is done."""
    return _TRANSIENT_FACTOR * artifact_bytes


def _ceil_div(number: int, by: int) -> int:
    return -(-number // by)
