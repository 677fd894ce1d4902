"""JSON of any size in and out, so that the event loop gets its turn.

The C code of `json` and numpy keeps the interpreter's lock while it works on a large document, and a thread does not
help then. Numbers are therefore read through a Python function, and lists written in blocks: between two calls the
lock can change hands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from berth.errors import InvalidArgument
from berth.oip.rest import load_object

BLOCK = 8_192
"""Elements that are read or written in one go."""

# Below this many bytes a document is done before anyone waits.
_SMALL = 64 * 1024
# Lists, objects and strings in one document: for them there is no function to read them through, they take the most
# memory for their bytes, and a tensor has few of them beside its numbers.
_MOST_PARTS = 100_000


def load(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` spells; NaN, Infinity and -Infinity are numbers. Raises `InvalidArgument`."""
    if len(body) > _SMALL and body.count(b"[") + body.count(b"{") + body.count(b'"') // 2 > _MOST_PARTS:
        raise InvalidArgument(f"the body has more than {_MOST_PARTS} lists, objects and strings: use OIP, binary")
    return load_object(body) if len(body) <= _SMALL else load_object(body, _number, _integer)


def dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def dump_blocks(count: int, width: int, items: Callable[[int, int], list[Any]]) -> str:
    """The JSON list of `count` items of about `width` elements each; `items(i, j)` makes those from i to before j."""
    step = max(1, BLOCK // max(1, width))
    blocks = (dump(items(start, min(start + step, count)))[1:-1] for start in range(0, count, step))
    return f"[{','.join(blocks)}]"


def _number(text: str) -> float:
    return float(text)


def _integer(text: str) -> int:
    return int(text)
