"""One mapper per table: what a row is as a record, and what a change writes.

A record's fields have the names of the table's columns, and so have those of a change. A new column is therefore a
line of `schema` and a field of its record; a field that is anything else is declared as a `Part`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, NamedTuple, TypeVar, cast

from sqlalchemy import Select, Table, func, select

from controller.core.change import UNCHANGED

R = TypeVar("R")


class Part(NamedTuple):
    """A field of a record that is more than a column. `read` makes the field of `columns`; `write` makes the columns'
    values of the field.

    A field that cannot be written has no `write`.
    """

    columns: tuple[Any, ...]
    read: Callable[..., Any]
    write: Callable[[Any], Mapping[str, Any]] | None = None


class Mapper(Generic[R]):
    """Between rows of `table`, joined with what its parts need, and a record, which is a NamedTuple."""

    def __init__(self, record: type[R], table: Table, **parts: Part) -> None:
        names: Sequence[str] = cast("Any", record)._fields
        unknown = parts.keys() - set(names)
        if unknown:
            raise TypeError(f"{record.__name__} has no {sorted(unknown)}")
        self._record = record
        self._parts = parts
        self._cuts: list[tuple[int, int, Callable[..., Any] | None]] = []
        self.columns: list[Any] = []
        for name in names:
            part = parts.get(name)
            start = len(self.columns)
            self.columns.extend((table.c[name],) if part is None else part.columns)
            self._cuts.append((start, len(self.columns), None if part is None else part.read))

    def select(self) -> Select[Any]:
        """The columns of the record; joins and conditions are the statement's own."""
        return select(*self.columns)

    def record(self, row: Sequence[Any]) -> R:
        """The record of a row of `select`."""
        values = [row[start] if read is None else read(*row[start:end]) for start, end, read in self._cuts]
        return self._record(*values)

    def records(self, rows: Iterable[Sequence[Any]]) -> list[R]:
        return [self.record(row) for row in rows]

    def values(self, change: Any) -> dict[str, Any]:
        """What a change, or a new row, writes: a dataclass whose members have the record's names."""
        written: dict[str, Any] = {}
        for field in fields(change):
            value = getattr(change, field.name)
            part = self._parts.get(field.name)
            if value is UNCHANGED:
                continue
            if part is None:
                written[field.name] = value
            elif part.write is not None:
                written |= part.write(value)
            else:
                raise TypeError(f"{field.name} of {self._record.__name__} is not written")
        return written


def plain(column: Any, read: Callable[[Any], Any]) -> Part:
    """A column that is stored as text, and is `read` as an enumeration or the like."""
    return Part((column,), read, lambda value: {column.name: str(value)})


def whether(column: Any) -> Part:
    """Whether a nullable moment has come."""
    return Part((column,), lambda value: value is not None)


NOW = func.now()
