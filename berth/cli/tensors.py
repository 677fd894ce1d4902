"""Tensors on the command line: read from JSON or .npy, shown as JSON. The model's metadata says which type is meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from berth.errors import InvalidArgument
from berth.oip.datatypes import BYTES, NUMPY_DTYPES, Array


def read_inputs(arguments: Iterable[str], datatypes: Mapping[str, str]) -> dict[str, Array]:
    """Arrays by input name. `datatypes` are OIP names by input. Raises `InvalidArgument` that names the argument."""
    arrays: dict[str, Array] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            raise InvalidArgument(f"--input {argument[:80]!r} is not NAME=VALUE")
        if name not in datatypes:
            raise InvalidArgument(f"the model has no input {name!r}; it takes {', '.join(datatypes) or 'none'}")
        arrays[name] = _read(name, value, datatypes[name])
    return arrays


def listed(array: Array) -> Any:
    """Nested lists of JSON values; bytes that are no text are shown with replacement characters."""
    return json.loads(json.dumps(array.tolist(), default=lambda element: element.decode("utf-8", "replace")))


def _read(name: str, value: str, datatype: str) -> Array:
    try:
        if value.startswith("@") and value.endswith(".npy"):
            return np.asarray(np.load(value[1:], allow_pickle=False))
        text = Path(value[1:]).read_text() if value.startswith("@") else value
        # OIP tensors have at least one dimension in practice; a bare number means one of one.
        nested = json.loads(text)
        array = np.array(nested, dtype=str if datatype == BYTES else NUMPY_DTYPES[datatype])
    except OSError as error:
        raise InvalidArgument(f"input {name!r}: {error}") from None
    except ValueError as error:
        raise InvalidArgument(f"input {name!r}: {error}") from None
    return np.atleast_1d(array)
