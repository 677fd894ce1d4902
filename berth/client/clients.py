"""`Berth` and `AsyncBerth`: the operations, grouped by resource. What they do is in `operations` and `inference`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from berth.api.schemas import Event
from berth.client import inference, operations
from berth.client.facade import AsyncResource, Awaiting, Blocking, BlockingResource
from berth.client.operations import Scope
from berth.client.transport import AsyncTransport, BlockingTransport, Destination

DEFAULT_CONTROLLER = "http://127.0.0.1:8080"
DEFAULT_ROUTER = "http://127.0.0.1:8000"


class Tenants(BlockingResource):
    create = Blocking(operations.create_tenant)
    list = Blocking(operations.list_tenants)
    get = Blocking(operations.get_tenant)
    update = Blocking(operations.update_tenant)
    delete = Blocking(operations.delete_tenant)


class Keys(BlockingResource):
    create = Blocking(operations.create_key)
    list = Blocking(operations.list_keys)
    revoke = Blocking(operations.revoke_key)


class Models(BlockingResource):
    create = Blocking(operations.create_model)
    list = Blocking(operations.list_models)
    get = Blocking(operations.get_model)
    describe = Blocking(operations.describe_model)
    pin = Blocking(operations.pin_version)
    unpin = Blocking(operations.unpin_version)
    set_cells = Blocking(operations.set_cells)
    set_default_answer = Blocking(operations.set_default_answer)
    delete = Blocking(operations.delete_model)
    set_label = Blocking(operations.set_label)
    delete_label = Blocking(operations.delete_label)


class Versions(BlockingResource):
    upload = Blocking(operations.upload_version)
    list = Blocking(operations.list_versions)
    get = Blocking(operations.get_version)
    delete = Blocking(operations.delete_version)


class Jobs(BlockingResource):
    create = Blocking(operations.create_job)
    list = Blocking(operations.list_jobs)
    get = Blocking(operations.get_job)
    update = Blocking(operations.update_job)
    delete = Blocking(operations.delete_job)


class Events(BlockingResource):
    list = Blocking(operations.list_events)

    def follow(self, after: int | None = None) -> Iterator[Event]:
        """Events as they happen, for ever, starting after event `after` (None: the oldest kept).

        Survives restarts of the controller: it resumes after the last event it gave. Raises what is not `Retryable`.
        """
        path = self.transport.run(operations.events_path(self.scope))
        for message in self.transport.messages(path, "" if after is None else str(after)):
            yield operations.read_event(message.data)


class Berth(BlockingResource):
    """A blocking client. Safe to use from several threads; `close` it or use it as a context manager.

    `controller` and `router` are base URLs, `key` an API key. `tenant` is needed only with a platform key. Ordinary
    calls wait `timeout_s` at most; what is safe to repeat is tried `attempts` times while the error is `Retryable`.
    Errors are those of `berth.errors`.
    """

    whoami = Blocking(operations.whoami)
    wait_available = Blocking(operations.wait_available)
    replicas = Blocking(operations.list_replicas)
    assignments = Blocking(operations.list_assignments)
    infer = Blocking(inference.infer)
    infer_traced = Blocking(inference.infer_traced)
    input_datatypes = Blocking(inference.input_datatypes)

    def __init__(
        self,
        key: str,
        *,
        controller: str = DEFAULT_CONTROLLER,
        router: str = DEFAULT_ROUTER,
        tenant: str | None = None,
        timeout_s: float = 30.0,
        attempts: int = 4,
        verify: Any = True,
    ) -> None:
        target = Destination(controller, router, key, timeout_s=timeout_s, attempts=attempts, verify=verify)
        self._bind(BlockingTransport(target), Scope(tenant))

    def _bind(self, transport: BlockingTransport, scope: Scope) -> None:
        super().__init__(transport, scope)
        self.tenants = Tenants(transport, scope)
        self.keys = Keys(transport, scope)
        self.models = Models(transport, scope)
        self.versions = Versions(transport, scope)
        self.jobs = Jobs(transport, scope)
        self.events = Events(transport, scope)

    def of(self, tenant: str) -> Self:
        """This client for another tenant's things, over the same connections: for platform keys."""
        other = object.__new__(type(self))
        other._bind(self.transport, Scope(tenant))
        return other

    def with_key(self, key: str) -> Self:
        """A client of the same servers that presents another key; it is closed by itself."""
        other = object.__new__(type(self))
        other._bind(BlockingTransport(replace(self.transport.target, key=key)), Scope(None))
        return other

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()


class AsyncTenants(AsyncResource):
    create = Awaiting(operations.create_tenant)
    list = Awaiting(operations.list_tenants)
    get = Awaiting(operations.get_tenant)
    update = Awaiting(operations.update_tenant)
    delete = Awaiting(operations.delete_tenant)


class AsyncKeys(AsyncResource):
    create = Awaiting(operations.create_key)
    list = Awaiting(operations.list_keys)
    revoke = Awaiting(operations.revoke_key)


class AsyncModels(AsyncResource):
    create = Awaiting(operations.create_model)
    list = Awaiting(operations.list_models)
    get = Awaiting(operations.get_model)
    describe = Awaiting(operations.describe_model)
    pin = Awaiting(operations.pin_version)
    unpin = Awaiting(operations.unpin_version)
    set_cells = Awaiting(operations.set_cells)
    set_default_answer = Awaiting(operations.set_default_answer)
    delete = Awaiting(operations.delete_model)
    set_label = Awaiting(operations.set_label)
    delete_label = Awaiting(operations.delete_label)


class AsyncVersions(AsyncResource):
    upload = Awaiting(operations.upload_version)
    list = Awaiting(operations.list_versions)
    get = Awaiting(operations.get_version)
    delete = Awaiting(operations.delete_version)


class AsyncJobs(AsyncResource):
    create = Awaiting(operations.create_job)
    list = Awaiting(operations.list_jobs)
    get = Awaiting(operations.get_job)
    update = Awaiting(operations.update_job)
    delete = Awaiting(operations.delete_job)


class AsyncEvents(AsyncResource):
    list = Awaiting(operations.list_events)

    async def follow(self, after: int | None = None) -> AsyncIterator[Event]:
        """Like `Events.follow`."""
        path = await self.transport.run(operations.events_path(self.scope))
        async for message in self.transport.messages(path, "" if after is None else str(after)):
            yield operations.read_event(message.data)


class AsyncBerth(AsyncResource):
    """The asynchronous client; arguments and methods are those of `Berth`, awaited. Belongs to one event loop."""

    whoami = Awaiting(operations.whoami)
    wait_available = Awaiting(operations.wait_available)
    replicas = Awaiting(operations.list_replicas)
    assignments = Awaiting(operations.list_assignments)
    infer = Awaiting(inference.infer)
    infer_traced = Awaiting(inference.infer_traced)
    input_datatypes = Awaiting(inference.input_datatypes)

    def __init__(
        self,
        key: str,
        *,
        controller: str = DEFAULT_CONTROLLER,
        router: str = DEFAULT_ROUTER,
        tenant: str | None = None,
        timeout_s: float = 30.0,
        attempts: int = 4,
        verify: Any = True,
    ) -> None:
        target = Destination(controller, router, key, timeout_s=timeout_s, attempts=attempts, verify=verify)
        self._bind(AsyncTransport(target), Scope(tenant))

    def _bind(self, transport: AsyncTransport, scope: Scope) -> None:
        super().__init__(transport, scope)
        self.tenants = AsyncTenants(transport, scope)
        self.keys = AsyncKeys(transport, scope)
        self.models = AsyncModels(transport, scope)
        self.versions = AsyncVersions(transport, scope)
        self.jobs = AsyncJobs(transport, scope)
        self.events = AsyncEvents(transport, scope)

    def of(self, tenant: str) -> Self:
        """This client for another tenant's things, over the same connections: for platform keys."""
        other = object.__new__(type(self))
        other._bind(self.transport, Scope(tenant))
        return other

    def with_key(self, key: str) -> Self:
        """A client of the same servers that presents another key; it is closed by itself."""
        other = object.__new__(type(self))
        other._bind(AsyncTransport(replace(self.transport.target, key=key)), Scope(None))
        return other

    async def close(self) -> None:
        await self.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.close()
