"""Does the steps of an upload: what `next_action` says, until the upload is a version or cannot be one.

Whoever calls holds the upload's lease. The controller that received the bytes reads them from its spool; one that took
over reads them back from the artifact store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import structlog

from berth.artifacts.store import ArtifactStore
from berth.errors import Conflict
from berth.ids import ModelKey
from controller.core.intake import (
    Blob,
    ConfirmStored,
    Facts,
    InspectedModel,
    InspectFile,
    PlaceVersion,
    StoreBytes,
    Upload,
    UploadTicket,
    WithdrawUpload,
    next_action,
)
from controller.intake import transitions
from controller.intake.removal import Removal
from controller.intake.spool import Spooled, spool
from controller.intake.transitions import Render, UploadTakenOver
from controller.store import artifacts
from controller.store.transaction import Transactions
from controller.usecases.requests import ApiAnswer

log = structlog.get_logger(__name__)


class Tools(NamedTuple):
    """What the steps work with. `placed` hears of models that have a new version."""

    transactions: Transactions
    artifacts: ArtifactStore
    inspect: Callable[[Path], Awaitable[InspectedModel]]
    render: Render
    placed: Callable[[set[ModelKey]], None]
    spool: Path
    max_artifact_bytes: int


class Steps:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._transactions = tools.transactions
        self._removal = Removal(tools.transactions, tools.artifacts)

    async def finish(self, upload: Upload, spooled: Spooled | None) -> ApiAnswer:
        """Take `upload` from where it is to a version, and answer with that. `spooled`: its bytes, if they are here.

        Raises `Conflict` for one that cannot be finished, `UploadTakenOver`, and what the steps raise. The upload is
        then as its last finished step left it: `withdraw` it, or let another try.
        """
        while True:
            match next_action(upload, await self._facts(upload, spooled)):
                case StoreBytes():
                    upload = await self._store(upload, spooled)
                case ConfirmStored():
                    upload = await self._record_stored(upload)
                case InspectFile():
                    upload = await self._inspect(upload, spooled)
                case PlaceVersion():
                    return await self._place(upload)
                case WithdrawUpload(reason):
                    raise Conflict(f"the upload cannot be finished: {reason}")

    async def withdraw(self, ticket: UploadTicket) -> None:
        """End an upload and remove its bytes, unless someone else uses them. Raises `Unavailable`."""
        await self._remove(await self._transactions.run(lambda tx: transitions.withdraw(tx, ticket), uploads=True))

    async def leave(self, ticket: UploadTicket) -> None:
        """Let another controller go on with the upload, or withdraw it if none could. Raises `Unavailable`."""
        await self._remove(await self._transactions.run(lambda tx: transitions.leave(tx, ticket), uploads=True))

    async def _facts(self, upload: Upload, spooled: Spooled | None) -> Facts:
        if spooled is not None:
            return Facts(spooled=True, stored=False)  # nobody asks the store for what is here
        return Facts(spooled=False, stored=all([await self._tools.artifacts.exists(b.sha256) for b in upload.blobs]))

    async def _store(self, upload: Upload, spooled: Spooled | None) -> Upload:
        assert spooled is not None
        await self._tools.artifacts.put(
            spooled.chunks(), expected_sha256=spooled.sha256, max_bytes=self._tools.max_artifact_bytes
        )
        try:
            return await self._record_stored(upload)
        except UploadTakenOver:
            # Whoever withdrew the upload may have looked before the object was there: let the collector know of it.
            await self._transactions.run(
                lambda tx: artifacts.touch(tx, spooled.sha256, spooled.size_bytes), uploads=True
            )
            raise

    async def _record_stored(self, upload: Upload) -> Upload:
        return await self._transactions.run(lambda tx: transitions.record_stored(tx, upload.ticket), uploads=True)

    async def _inspect(self, upload: Upload, spooled: Spooled | None) -> Upload:
        (blob,) = upload.blobs
        async with AsyncExitStack() as stack:
            if spooled is None:
                spooled = await stack.enter_async_context(self._read_back(blob))
            model = await self._tools.inspect(spooled.path)
        return await self._transactions.run(
            lambda tx: transitions.record_inspected(tx, upload.ticket, model), uploads=True
        )

    def _read_back(self, blob: Blob) -> AbstractAsyncContextManager[Spooled]:
        """A copy of the stored object, checked against its name."""
        return spool(self._tools.artifacts.open(blob.sha256), blob.sha256, blob.size_bytes, self._tools.spool)

    async def _place(self, upload: Upload) -> ApiAnswer:
        render = self._tools.render
        answer = await self._transactions.run(
            lambda tx: transitions.place(tx, upload, render), fleet=True, uploads=True
        )
        self._tools.placed({upload.key})
        return answer

    async def _remove(self, condemned: list[str]) -> None:
        await self._removal.remove(condemned)
