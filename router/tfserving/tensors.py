"""Tensors as TensorFlow Serving writes them in JSON: nested lists in their natural shape, and back.

Numbers convert by TensorFlow Serving's rule: a fraction is no integer, a truth value is no number, and an integer
becomes a float only if it keeps its value. Values that are not text travel as `{"b64": "..."}`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from berth.errors import InvalidArgument
from berth.model import TensorSpec
from berth.oip.datatypes import BYTES, NUMPY_DTYPES, Array
from berth.oip.numbers import from_flat
from router.tfserving.documents import BLOCK, dump, dump_blocks

_MAX_RANK = 32
# The largest integers that all neighbours of keep apart, by type.
_EXACT = {"FP32": 2**24 - 1, "FP64": 2**53 - 1}
# Named so, an output of strings holds bytes: TensorFlow Serving's convention.
_BYTES_SUFFIX = "_bytes"


def is_b64(value: object) -> bool:
    """Whether `value` is the JSON form of bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def read_tensor(what: str, spec: TensorSpec, value: object) -> Array:
    """The tensor that `value`, nested as its shape is, spells. Raises `InvalidArgument` that begins with `what`."""
    shape = _shape_of(what, value)
    return read_flat(what, spec.datatype, shape, _flatten(what, shape, value))


def read_flat(what: str, datatype: str, shape: tuple[int, ...], values: Sequence[object]) -> Array:
    """The tensor of `shape` with these elements in row-major order."""
    if datatype not in NUMPY_DTYPES:
        raise InvalidArgument(f"{what}: {datatype} cannot be given as JSON")
    parts = [
        _read_block(what, datatype, values[start : start + BLOCK]) for start in range(0, max(1, len(values)), BLOCK)
    ]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(shape)


def write_tensor(name: str, array: Array) -> str:
    """The JSON of a whole tensor: a list in its shape, or a value if it has none."""
    ready = presentable(name, array)
    if not ready.ndim:
        return dump(ready.tolist())
    return dump_blocks(len(ready), width_of(ready), lambda start, end: ready[start:end].tolist())


def width_of(array: Array) -> int:
    """Elements in a row."""
    return array.size // max(1, len(array))


def presentable(name: str, array: Array) -> Array:
    """`array` with elements that `tolist` and JSON can spell; floats of four bytes or fewer in their few digits."""
    if array.dtype == object:
        return _write_bytes(name, array)
    small_float = array.dtype == NUMPY_DTYPES["BF16"] or (array.dtype.kind == "f" and array.dtype.itemsize <= 4)
    return shortest(array) if small_float else array


def shortest(array: Array) -> Array:
    """float64 values that print in few digits and are the same float of four or two bytes: 0.2, not 0.200000003.

    While both factors are exact in float64, n / 10**k and n * 10**k are rounded once, like a decimal that is read. So
    the result prints as that decimal.
    """
    source = array.ravel()
    with np.errstate(invalid="ignore"):
        wide = source.astype(np.float64)
    left = np.flatnonzero(np.isfinite(wide) & (wide != 0))
    exponents = np.floor(np.log10(np.abs(wide[left]))).astype(np.int64)
    result = wide.copy()
    tried = (6, 7, 8, 9) if array.dtype.itemsize == 4 else (1, 2, 3, 4, 5)
    # Beyond 10**22 a power of ten is no float64.
    exact = (tried[-1] - 1 - exponents <= 22) & (exponents - tried[0] + 1 <= 22)
    rare, left, exponents = left[~exact], left[exact], exponents[exact]
    for digits in tried:
        powers = digits - 1 - exponents
        scale = np.power(10.0, np.abs(powers))
        values = wide[left]
        short = np.where(powers >= 0, np.rint(values * scale) / scale, np.rint(values / scale) * scale)
        with np.errstate(over="ignore"):
            fits = short.astype(array.dtype) == source[left]
        result[left[fits]] = short[fits]
        left, exponents = left[~fits], exponents[~fits]
    for one in (*left.tolist(), *rare.tolist()):
        result[one] = float(str(source[one]))
    return result.reshape(array.shape)


def _shape_of(what: str, value: object) -> tuple[int, ...]:
    """The shape that the first element at each depth suggests."""
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == _MAX_RANK:
            raise InvalidArgument(f"{what}: lists are nested deeper than {_MAX_RANK}")
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _flatten(what: str, shape: tuple[int, ...], value: object) -> list[Any]:
    """The elements in row-major order; every list at one depth has the same length, or `InvalidArgument`."""
    level: list[Any] = [value]
    for depth, dim in enumerate(shape):
        if not set(map(type, level)) <= {list}:
            _ragged(what, f"at depth {depth} a list of {dim} is expected, a value was found")
        if sizes := set(map(len, level)) - {dim}:
            _ragged(what, f"at depth {depth} a list has {min(sizes)} elements and another {dim}")
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    return level


def _ragged(what: str, found: str) -> NoReturn:
    raise InvalidArgument(f"{what} is not a tensor: {found}")


def _read_block(what: str, datatype: str, values: Sequence[object]) -> Array:
    if datatype == BYTES:
        values = [_read_bytes(what, value) if isinstance(value, dict) else value for value in values]
    elif list in set(map(type, values)):
        _ragged(what, "a list was found where other places have a value")
    array = from_flat(what, datatype, (len(values),), values)
    most = _EXACT.get(datatype)
    if most is not None:
        with np.errstate(invalid="ignore"):
            large = np.flatnonzero(np.abs(array) >= most)
        for index in large.tolist():
            value = values[index]
            if isinstance(value, int) and abs(value) > most:
                raise InvalidArgument(f"{what}: {str(value)[:40]} does not fit into {datatype} without loss")
    return array


def _read_bytes(what: str, value: dict[str, Any]) -> bytes:
    if not is_b64(value):
        raise InvalidArgument(f'{what}: an object is an element only as {{"b64": "..."}}')
    text = value["b64"]
    try:
        # Padding may be left out, as in TensorFlow Serving.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"{what}: {text[:40]!a} is not base64") from None


def _write_bytes(name: str, array: Array) -> Array:
    """Strings, or base64 objects if the name says so or an element is not text."""
    elements: list[bytes] = array.ravel().tolist()
    spelled = np.empty(len(elements), dtype=object)
    if not name.endswith(_BYTES_SUFFIX):
        try:
            spelled[:] = [element.decode() for element in elements]
        except UnicodeDecodeError:
            pass
        else:
            return spelled.reshape(array.shape)
    spelled[:] = [{"b64": base64.b64encode(element).decode()} for element in elements]
    return spelled.reshape(array.shape)
