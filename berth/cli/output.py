"""What commands print: tables for people, JSON for programs. rich is loaded when something is drawn, not before."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

_COLOURS = {
    "available": "green",
    "ready": "green",
    "ok": "green",
    "failed": "red",
    "error": "red",
    "fail": "red",
    "warn": "yellow",
    "loading": "yellow",
    "pending": "yellow",
    "draining": "yellow",
    "retired": "dim",
}
# Columns of sentences, which may take several lines.
_PROSE = frozenset({"reason", "seen", "to do"})


def console() -> Console:
    """Standard output. Where it is no terminal, lines are as long as they are."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 500, highlight=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document. Resources become objects."""
    sys.stdout.write(json.dumps(_plain(value), indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One JSON document on a line of its own, for streams; flushed."""
    sys.stdout.write(json.dumps(_plain(value)) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, title: str = "") -> None:
    """A table without frames, which survives being pasted; `empty` is said where there are no rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
    for column in columns:
        table.add_column(column.upper(), no_wrap=column not in _PROSE)
    for row in rows:
        table.add_row(*(Text(str(cell), style=_COLOURS.get(str(cell), "")) for cell in row))
    out = console()
    if title:
        out.print(Text(title, style="bold underline"))
    out.print(table if table.row_count else empty)


def print_one(resource: BaseModel, leave_out: frozenset[str] = frozenset({"etag"})) -> None:
    """One resource, a line for each member."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in _plain(resource).items():
        if name not in leave_out and value not in (None, "", {}):
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            table.add_row(Text(name.replace("_", " "), style="bold"), Text(text, style=_COLOURS.get(text, "")))
    console().print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
