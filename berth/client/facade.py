"""Descriptors that turn an operation, a function that makes a dialogue, into a typed method of a client.

`Blocking` runs the dialogue on the calling thread, `Awaiting` returns a coroutine; names, arguments and docstrings are
the operation's own, so the two clients cannot drift apart.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from berth.client.calls import Dialogue
from berth.client.operations import Scope
from berth.client.transport import AsyncTransport, BlockingTransport

P = ParamSpec("P")
T = TypeVar("T")

Operation = Callable[Concatenate[Scope, P], Dialogue[T]]


class BlockingResource:
    """A group of methods that share a blocking transport and a scope."""

    def __init__(self, transport: BlockingTransport, scope: Scope) -> None:
        self.transport = transport
        self.scope = scope

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.scope!r}>"


class AsyncResource:
    """A group of methods that share an asynchronous transport and a scope."""

    def __init__(self, transport: AsyncTransport, scope: Scope) -> None:
        self.transport = transport
        self.scope = scope

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.scope!r}>"


class Blocking(Generic[P, T]):
    """`models = Blocking(list_models)` in a `BlockingResource` is a method that returns the dialogue's result."""

    def __init__(self, operation: Operation[P, T]) -> None:
        self.operation = operation
        self.__doc__ = operation.__doc__

    def __get__(self, resource: BlockingResource, _: type[Any]) -> Callable[P, T]:
        operation = self.operation

        @functools.wraps(operation)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return resource.transport.run(operation(resource.scope, *args, **kwargs))

        return method


class Awaiting(Generic[P, T]):
    """The same for an `AsyncResource`: a method whose result is awaited."""

    def __init__(self, operation: Operation[P, T]) -> None:
        self.operation = operation
        self.__doc__ = operation.__doc__

    def __get__(self, resource: AsyncResource, _: type[Any]) -> Callable[P, Awaitable[T]]:
        operation = self.operation

        @functools.wraps(operation)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await resource.transport.run(operation(resource.scope, *args, **kwargs))

        return method
