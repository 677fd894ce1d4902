"""OIP datatypes as numpy dtypes, and tensors as the raw little-endian bytes that OIP puts on the wire.

BYTES tensors are arrays of dtype object that hold `bytes`; each element travels behind its length in four bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from berth.errors import InvalidArgument

Array = npt.NDArray[Any]

BYTES = "BYTES"

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    BYTES: np.dtype(object),
}
_NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in NUMPY_DTYPES.items()}

# numpy allows 64; ONNX Runtime and Triton agree on far fewer.
_MAX_RANK = 32
# numpy refuses arrays whose non-zero dimensions multiply beyond a signed 64-bit size, even if they hold nothing.
_MAX_BYTES = 2**62
_LENGTH = struct.Struct("<I")


def datatype_of(array: Array) -> str:
    """The OIP name of an array's dtype. Raises `TypeError` for one that OIP has no name for: a fault of the caller."""
    try:
        return _NAMES[array.dtype]
    except KeyError:
        raise TypeError(f"OIP has no datatype for numpy's {array.dtype}") from None


def check_shape(what: str, shape: Sequence[object], datatype: str) -> tuple[int, ...]:
    """`shape` as a tuple, or `InvalidArgument` that begins with `what`, for example `input 'x'`."""
    dtype = NUMPY_DTYPES.get(datatype)
    if dtype is None:
        raise InvalidArgument(f"{what}: unknown datatype {datatype[:40]!r}; known are {', '.join(NUMPY_DTYPES)}")
    if len(shape) > _MAX_RANK:
        raise InvalidArgument(f"{what}: {len(shape)} dimensions are more than the {_MAX_RANK} allowed")
    dims: list[int] = []
    for dim in shape:
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 0:
            raise InvalidArgument(f"{what}: a dimension of a shape is an integer of at least 0, not {str(dim)[:40]!r}")
        dims.append(dim)
    if math.prod(dim for dim in dims if dim) * dtype.itemsize > _MAX_BYTES:
        raise InvalidArgument(f"{what}: the shape {_short(dims)} is larger than any tensor can be")
    return tuple(dims)


def from_raw(what: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview) -> Array:
    """The tensor that `raw` spells, sharing its memory where alignment allows. `shape` has been checked.

    Raises `InvalidArgument` that begins with `what` when the bytes do not fill the shape exactly.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _unpack_bytes(what, count, memoryview(raw)).reshape(shape)
    dtype = NUMPY_DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidArgument(
            f"{what}: {datatype} of shape {_short(shape)} takes {count * dtype.itemsize} bytes, not {len(raw)}"
        )
    if datatype == "BOOL":
        # Any other byte is neither true nor false to numpy, and undefined to a runtime written in C++.
        octets = np.frombuffer(raw, np.uint8)
        if octets.size and octets.max() > 1:
            raise InvalidArgument(f"{what}: the bytes of a BOOL tensor are 0 or 1, not {octets.max()}")
        return octets.view(np.bool_).reshape(shape)
    array = np.frombuffer(raw, dtype)
    # Tensors follow JSON of any length in a REST body; kernels may assume aligned elements.
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def to_raw(array: Array) -> bytes:
    """The inverse of `from_raw`. Raises `TypeError` for a BYTES tensor that holds anything but `bytes`."""
    if array.dtype != object:
        return array.tobytes()
    pieces: list[bytes] = []
    for element in array.ravel():
        if not isinstance(element, bytes):
            raise TypeError(f"a BYTES tensor holds bytes, not {type(element).__name__}")
        pieces += (_LENGTH.pack(len(element)), element)
    return b"".join(pieces)


def bytes_array(elements: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """A BYTES tensor. (numpy would turn a list of bytes into fixed-width strings and strip trailing zeros.)"""
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _unpack_bytes(what: str, count: int, raw: memoryview) -> Array:
    elements: list[bytes] = []
    offset, end = 0, len(raw)
    while offset < end:
        if len(elements) == count:
            raise InvalidArgument(f"{what}: {end - offset} bytes follow the last of {count} BYTES elements")
        if end - offset < _LENGTH.size:
            raise InvalidArgument(f"{what}: element {len(elements)} is cut off in its length")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if length > end - offset:
            raise InvalidArgument(
                f"{what}: element {len(elements)} claims {length} bytes where {end - offset} are left"
            )
        elements.append(bytes(raw[offset : offset + length]))
        offset += length
    if len(elements) != count:
        raise InvalidArgument(f"{what}: the shape asks for {count} BYTES elements, the data holds {len(elements)}")
    return bytes_array(elements, (count,))


def _short(shape: Sequence[int]) -> str:
    text = str(list(shape))
    return text if len(text) <= 120 else text[:117] + "..."
