"""Cells and the generation of what each should hold."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from controller.store.schema import cells
from controller.store.transaction import Tx


async def ensure(tx: Tx, cell: str) -> None:
    await tx.execute(insert(cells).values(name=cell, generation=1).on_conflict_do_nothing())


async def generations(tx: Tx) -> dict[str, int]:
    """Of every cell that a job was ever in, or that anybody watched."""
    rows = await tx.execute(select(cells.c.name, cells.c.generation))
    return {row[0]: row[1] for row in rows}
