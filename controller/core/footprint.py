"""How many bytes to reserve for a version: estimated from its file before it was ever loaded, corrected by measuring.

ONNX Runtime keeps initializers at 1.0 to 1.6 times their size, a session costs about 70 KiB, and what is not an
initializer (nodes, attributes, the trees of an ensemble) is held several times over as objects. Activations depend on
the batch and are allowed for by a fixed amount: they are borrowed for a request and returned.

While a session is created its memory peaks at 2 to 4 times the initializers. The peak is not reserved. It lasts for the
load, a replica loads one version at a time, and so it is owed once per replica, not once per version: reserving it with
each would leave three quarters of a loaded job empty for good. What a replica's process may use must therefore exceed
the memory that its job offers for reservation by the peak of the largest version.
"""

from __future__ import annotations

_SESSION = 70 << 10
_ACTIVATIONS = 64 << 10
# In tenths, to stay in integers. The upper end of what was measured for initializers.
_INITIALIZERS_TENTHS = 16
# A forest of 150 trees, 14.9 MiB without a single initializer, was measured at 62 MiB.
_STRUCTURE_FACTOR = 5
# Resident size is measured by difference in a busy process: leave a tenth for what the difference missed.
_MARGIN_TENTHS = 11
# A reservation up to a third above what it should be is left alone, so that noise does not move it each time.
_DEAD_BAND_QUARTERS = 3


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


def _ceil_div(number: int, by: int) -> int:
    return -(-number // by)
