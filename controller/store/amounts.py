"""Amounts of memory in the database: bytes of the host in one column, bytes by device in another beside it.

Both are written. **The host's amount is read from the column in bytes**, whatever the other says. Controllers of the
release before know only that column. So every controller keeps it under the fleet's lock, and the check
`no_over_commit` watches it. The document may be missing, or lack what those controllers wrote. The amount of any other
device is read from the document. Those controllers neither reserve nor free it, but they may delete an assignment with
such a part. Then that part stays reserved on the job: too much is reserved, never too little.

Once no controller of that release runs, the column in bytes can go, and the document be read alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, cast, func
from sqlalchemy.dialects.postgresql import JSONB

from berth.resources import HOST, Resources


def amount(host_bytes: int, document: Mapping[str, int] | None) -> Resources:
    """What a row says."""
    return Resources.of({**(document or {}), HOST: host_bytes})


def document(amount: Resources) -> dict[str, int]:
    """What to write beside the bytes of the host."""
    return dict(amount.parts)


def with_host(documents: Column[Any], host_bytes: int) -> ColumnElement[Any]:
    """New documents for one row: the host has `host_bytes`, and other devices keep what they have."""
    return _merged(documents, [HOST, host_bytes])


def raised(host_bytes: Column[int], documents: Column[Any], more: Resources) -> dict[str, Any]:
    """New values for these two columns of one row: `more` than they hold now, or less where it is below zero.

    The database adds, so that nothing is lost between reading and writing.
    """
    host = host_bytes + more[HOST]
    changed: list[Any] = [HOST, host]
    for device, size in more.parts:
        if device != HOST:
            changed += [device, func.coalesce(cast(documents[device].astext, BigInteger), 0) + size]
    return {host_bytes.name: host, documents.name: _merged(documents, changed)}


def _merged(documents: Column[Any], changed: list[Any]) -> ColumnElement[Any]:
    known = func.coalesce(documents, func.jsonb_build_object(type_=JSONB), type_=JSONB)
    return known.op("||")(func.jsonb_build_object(*changed, type_=JSONB))
