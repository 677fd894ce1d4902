"""The last route table on disk, for a router that starts while nobody can send it one.

The file holds hashes of keys, never keys, and is readable by its owner only. It is a fallback: a table read from it has
the oldest order there is, so that the first one from a live feed replaces it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from berth.model import NEVER, RouteTable
from berth.route_delta import apply_delta, snapshot
from berth.wire.convert import delta_from_wire, delta_to_wire
from berth.wire.v1 import routes_pb2
from router.control.board import RouteBoard

log = structlog.get_logger(__name__)

_NAME = "routes.bin"
_DIGEST_BYTES = 32
_SETTLE = 1.0


def save_table(folder: Path, table: RouteTable) -> None:
    """Replace the file in `folder` by `table`, whole or not at all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    payload = delta_to_wire(snapshot(table)).SerializeToString()
    draft = folder / f"{_NAME}.tmp"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _NAME)


def load_table(folder: Path) -> RouteTable | None:
    """The saved table with the order `NEVER`; None if there is none or it is damaged."""
    path = folder / _NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        log.warning("the saved route table is damaged and left alone", path=str(path))
        return None
    try:
        delta = delta_from_wire(routes_pb2.RouteDelta.FromString(payload))
    except (DecodeError, ValueError) as error:
        log.warning("the saved route table is of another version and left alone", path=str(path), error=str(error))
        return None
    return dataclasses.replace(apply_delta(RouteTable(), delta), order=NEVER)


async def keep_table(board: RouteBoard, folder: Path) -> None:
    """Save every table that a feed brought, until cancelled; at most one a second, and less often when it is slow."""
    loop = asyncio.get_running_loop()
    changes = board.changes.waiter()
    while True:
        took = 0.0
        if board.order != NEVER:
            started = loop.time()
            try:
                await asyncio.to_thread(save_table, folder, board.table)
            except OSError as error:
                # A full disk must not stop the router; it costs the fallback.
                log.warning("the route table could not be saved", error=str(error))
            took = loop.time() - started
        await changes.wait()
        # Changes come in bursts, and a large table takes the interpreter's lock while it is encoded.
        await asyncio.sleep(max(_SETTLE, 20.0 * took))
