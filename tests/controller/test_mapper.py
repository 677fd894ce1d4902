"""Between rows and records: what is written of a change, and what is read of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from berth.states import Role
from controller.core.change import UNCHANGED, Unchanged
from controller.store.mapper import Mapper, Part, plain, whether

ROWS = Table(
    "rows", MetaData(), Column("name", String), Column("role", String), Column("x", Integer), Column("y", Integer)
)


class Point(NamedTuple):
    x: int
    y: int


class RowRecord(NamedTuple):
    name: str
    role: Role
    point: Point
    placed: bool


MAPPER = Mapper(
    RowRecord,
    ROWS,
    role=plain(ROWS.c.role, Role),
    point=Part((ROWS.c.x, ROWS.c.y), Point, lambda point: {"x": point.x, "y": point.y}),
    placed=whether(ROWS.c.x),
)


@dataclass(frozen=True)
class RowChange:
    name: str | Unchanged = UNCHANGED
    role: Role | Unchanged = UNCHANGED
    point: Point | Unchanged = UNCHANGED
    placed: bool | Unchanged = UNCHANGED


def test_a_row_is_read_as_its_record() -> None:
    assert MAPPER.record(("a", "admin", 1, 2, None)) == RowRecord("a", Role.ADMIN, Point(1, 2), placed=False)
    assert [column.name for column in MAPPER.columns] == ["name", "role", "x", "y", "x"]


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (RowChange(), {}),
        (RowChange(name="b"), {"name": "b"}),
        (RowChange(role=Role.VIEWER), {"role": "viewer"}),
        (RowChange(point=Point(3, 4)), {"x": 3, "y": 4}),
    ],
)
def test_a_change_is_written_as_columns(change: RowChange, values: dict[str, object]) -> None:
    assert MAPPER.values(change) == values


def test_what_follows_from_others_is_not_written() -> None:
    with pytest.raises(TypeError, match="placed"):
        MAPPER.values(RowChange(placed=True))


def test_a_part_without_its_field_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="ghost"):
        Mapper(RowRecord, ROWS, ghost=whether(ROWS.c.x))
