"""`grpc-timeout`: how long the caller waits."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST_IN_MS: Final = 99_999_999


@lru_cache(maxsize=1024)
def parse_timeout(value: bytes) -> float:
    """Seconds. Raises `ValueError` unless it is at most eight digits and a unit."""
    digits, unit = value[:-1], value[-1:]
    if not 1 <= len(digits) <= 8 or not digits.isdigit() or unit not in _UNITS:
        raise ValueError(f"{value[:20]!r} is not a grpc-timeout: a number of at most eight digits, and a unit")
    return int(digits) * _UNITS[unit]


def encode_timeout(milliseconds: int) -> bytes:
    """The field's value; in whole seconds where eight digits need it."""
    if milliseconds <= _LONGEST_IN_MS:
        return b"%dm" % milliseconds
    return b"%dS" % min(milliseconds // 1000, 10**8 - 1)
