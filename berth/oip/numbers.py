"""Tensors as the numbers, truth values and strings of JSON and of typed protobuf fields, both ways.

numpy alone is too kind here: it would read `true` as 1, 1.5 as 1, and 1e39 as infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from berth.errors import InvalidArgument
from berth.oip.datatypes import BYTES, NUMPY_DTYPES, Array, bytes_array

_FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})


def from_nested(what: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """The tensor that `data` spells: flat in row-major order, or nested exactly as `shape` says."""
    if not isinstance(data, list):
        raise InvalidArgument(f"{what}: data is a list, not {_kind(data)}")
    return from_flat(what, datatype, shape, _flatten(what, shape, data))


def from_flat(what: str, datatype: str, shape: tuple[int, ...], values: Sequence[object]) -> Array:
    """The tensor with these elements in row-major order. Raises `InvalidArgument` that begins with `what`."""
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidArgument(f"{what}: the shape asks for {count} elements, the data holds {len(values)}")
    if datatype == BYTES:
        return bytes_array([_encode(what, value) for value in values], shape)
    allowed = {bool} if datatype == "BOOL" else {int, float} if datatype in _FLOATS else {int}
    for kind in set(map(type, values)) - allowed:
        stranger = next(value for value in values if type(value) is kind)
        raise InvalidArgument(f"{what}: {_kind(stranger)} is not an element of a {datatype} tensor")
    dtype = NUMPY_DTYPES[datatype]
    try:
        if datatype not in _FLOATS:
            return np.array(values, dtype).reshape(shape)
        wide = np.array(values, np.float64)
    except OverflowError:
        raise InvalidArgument(f"{what}: a value is out of the range of {datatype}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        array = wide.astype(dtype)
    if np.count_nonzero(np.isfinite(array)) != np.count_nonzero(np.isfinite(wide)):
        raise InvalidArgument(f"{what}: a value is out of the range of {datatype}")
    return array.reshape(shape)


def to_flat(what: str, array: Array) -> list[Any]:
    """The elements in row-major order, as JSON can spell them; BYTES must be UTF-8, else `InvalidArgument`."""
    if array.dtype != object:
        # ml_dtypes arrays list their own scalars, which json cannot spell; some NaNs warn when they are cast.
        with np.errstate(invalid="ignore"):
            return (array.astype(np.float32) if array.dtype == NUMPY_DTYPES["BF16"] else array).ravel().tolist()
    try:
        return [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise InvalidArgument(f"{what} is not UTF-8 and has no JSON form: ask for it with binary_data") from None


def _flatten(what: str, shape: tuple[int, ...], data: list[object]) -> list[object]:
    """Unfold one dimension after the other, so that a hostile depth costs no recursion and stops at the rank."""
    if not any(isinstance(item, list) for item in data):
        return data
    level: list[object] = [data]
    for depth, dim in enumerate(shape):
        rows: list[list[object]] = []
        for item in level:
            if not isinstance(item, list) or len(item) != dim:
                found = f"{len(item)} elements" if isinstance(item, list) else _kind(item)
                raise InvalidArgument(f"{what}: at depth {depth} the shape asks for {dim} elements, found {found}")
            rows.append(item)
        level = list(chain.from_iterable(rows))
    if any(isinstance(item, list) for item in level):
        raise InvalidArgument(f"{what}: data is nested deeper than the {len(shape)} dimensions of its shape")
    return level


def _encode(what: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidArgument(f"{what}: {_kind(value)} is not an element of a BYTES tensor")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: an element holds half a surrogate pair, which is not text") from None


def _kind(value: object) -> str:
    """How JSON calls the type of `value`."""
    if value is None:
        return "null"
    names: Iterable[tuple[type, str]] = (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a fraction"),
        (str, "a string"),
        (bytes, "a string"),
        (list, "a list"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "an object")
