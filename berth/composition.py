"""What every process of Berth is put together in: one shape for all four.

A `serve` opens its parts one after the other, and says what runs beside it. At the end all of that is undone in reverse
order, each step finished before the next begins. So the order of the lines in `serve` is the order of the start, and
backwards that of the end. If a part fails, all that runs beside is cancelled at once, the rest is undone in order, and
the process ends (`berth.process`).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from berth.admin import Document, Readiness, serve_admin
from berth.auth.peer import PeerCredential
from berth.settings import ProcessSettings, SettingsError

T = TypeVar("T")


class Composition:
    """A process that is being put together. `stop` is set when it is asked to end."""

    def __init__(
        self,
        settings: ProcessSettings,
        stop: asyncio.Event,
        credential: PeerCredential,
        *,
        tasks: asyncio.TaskGroup,
        stack: AsyncExitStack,
    ) -> None:
        self.stop = stop
        self.credential = credential
        self.registry = CollectorRegistry()
        self.tasks = tasks
        self._admin_address = settings.admin_address
        self._stack = stack

    async def open(self, part: AbstractAsyncContextManager[T]) -> T:
        """Enter `part` now and leave it at the end."""
        return await self._stack.enter_async_context(part)

    def hold(self, part: AbstractContextManager[T]) -> T:
        """The same of one that does not wait."""
        return self._stack.enter_context(part)

    def at_end(self, act: Callable[..., object], *arguments: object) -> None:
        """Call `act(*arguments)` at the end; what it returns is awaited if it can be."""

        async def end() -> None:
            outcome = act(*arguments)
            if inspect.isawaitable(outcome):
                await outcome

        self._stack.push_async_callback(end)

    def beside(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` from now on; at the end it is cancelled and awaited. If it fails, everything ends."""
        task = self.tasks.create_task(work, name=name)
        self._stack.push_async_callback(_end, task)
        return task

    async def serve_admin(self, readiness: Readiness, documents: Mapping[str, Document] | None = None) -> int:
        """Open /healthz, /readyz and /metrics, and `documents` for operators; returns the port."""
        return await self.open(
            serve_admin(self._admin_address, readiness, self.registry, documents=documents, credential=self.credential)
        )


@asynccontextmanager
async def composing(settings: ProcessSettings, stop: asyncio.Event) -> AsyncIterator[Composition]:
    """Put a process together in this context; leaving it takes everything down.

    Raises `SettingsError` for a wrong setting, bare, however deep it was found.
    """
    credential = PeerCredential.from_settings(settings)
    try:
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
            yield Composition(settings, stop, credential, tasks=tasks, stack=stack)
    except BaseExceptionGroup as group:
        wrong, others = group.split(SettingsError)
        if wrong is None or others is not None:
            raise
        raise SettingsError("; ".join(map(str, _leaves(wrong)))) from None


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    # How it ended is the task group's business.
    await asyncio.wait([task])


def _leaves(group: BaseExceptionGroup[SettingsError]) -> list[SettingsError]:
    found: list[SettingsError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
