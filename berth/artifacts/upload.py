"""A streamed multipart upload that leaves nothing behind when its source fails or its caller is cancelled.

obstore drops the parts of an upload whose iterator raises, and forgets them in the bucket when the upload itself is
cancelled. So the upload runs in a task of its own, and the source is read in the caller's task. The upload is never
cancelled: its iterator tells it to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import obstore
from obstore.store import ObjectStore

from berth.artifacts.faults import store_faults
from berth.errors import BerthError
from berth.settling import settle

PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 2
# Dropping the parts of a failed upload may take this long, in seconds.
_ABANDON_TIMEOUT = 30.0


class _Abandoned(Exception):
    pass


_Pipe = asyncio.Queue[bytes | _Abandoned | None]


async def upload(store: ObjectStore, name: str, blocks: AsyncGenerator[bytes]) -> None:
    """Store `blocks` under `name`, visible whole or not at all. Raises what `blocks` raises."""
    pipe: _Pipe = asyncio.Queue(maxsize=1)
    sending = asyncio.create_task(_send(store, name, pipe), name=f"upload:{name}")
    try:
        async with contextlib.aclosing(blocks):
            async for block in blocks:
                await pipe.put(block)
                if sending.done():
                    break
            else:
                await pipe.put(None)
        await asyncio.wait([sending])
    except BaseException:
        _empty(pipe)
        pipe.put_nowait(_Abandoned())
        await settle(_await_end(sending))
        raise
    sending.result()


async def _send(store: ObjectStore, name: str, pipe: _Pipe) -> None:
    try:
        first = await pipe.get()
        with store_faults(name):
            if first is None:
                # A multipart upload has at least one part.
                await obstore.put_async(store, name, b"", use_multipart=False)
                return
            await obstore.put_async(
                store,
                name,
                _drain(pipe, first),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
    finally:
        # Wakes the caller if it waits to hand over a block that nobody will take.
        _empty(pipe)


async def _drain(pipe: _Pipe, item: bytes | _Abandoned | None) -> AsyncIterator[bytes]:
    while item is not None:
        if isinstance(item, _Abandoned):
            raise item
        yield item
        item = await pipe.get()


async def _await_end(sending: asyncio.Task[None]) -> None:
    with contextlib.suppress(_Abandoned, BerthError, TimeoutError):
        async with asyncio.timeout(_ABANDON_TIMEOUT):
            await sending


def _empty(pipe: _Pipe) -> None:
    while not pipe.empty():
        pipe.get_nowait()
