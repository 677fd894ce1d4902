"""Two ways to carry out dialogues over httpx, blocking and asynchronous, and the only module that imports it.

Both do the same: send, and turn a refusal into its class of `berth.errors`. If the error is `Retryable` and the request
may be repeated, they repeat it after the delay that the server asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import tenacity

from berth.client import operations
from berth.client.calls import ApiCall, Delay, Dialogue, FileBody, HttpReply, Server, Step
from berth.client.problems import error_from, unreachable
from berth.client.sse import EventStream, SseMessage
from berth.errors import BerthError, DeadlineExceeded, Internal, Retryable
from berth.headers import AUTHORIZATION_TEXT

T = TypeVar("T")

_CHUNK = 1 << 20
_CONNECT_TIMEOUT_S = 5.0
# Longer than the controller's heartbeat on the stream: a silent stream is a dead one.
_STREAM_SILENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the servers are, who is asking, and how patient. `timeout_s` bounds each attempt of an ordinary call."""

    controller: str
    router: str
    key: str
    timeout_s: float = 30.0
    attempts: int = 4
    verify: Any = True

    def __repr__(self) -> str:
        return f"<Destination controller={self.controller} router={self.router}>"

    def url(self, call: ApiCall[Any]) -> str:
        base = self.controller if call.server is Server.CONTROLLER else self.router
        if not base:
            raise Internal(f"no address of the {call.server} is configured")
        return base.rstrip("/") + call.path

    def headers(self, call: ApiCall[Any]) -> dict[str, str]:
        return {AUTHORIZATION_TEXT: f"Bearer {self.key}", **call.headers} if self.key else dict(call.headers)

    def httpx_settings(self) -> dict[str, Any]:
        loopback = all(_is_loopback(base) for base in (self.controller, self.router) if base)
        return {
            "timeout": httpx.Timeout(self.timeout_s, connect=_CONNECT_TIMEOUT_S),
            # A proxy in the environment is for the world outside; nothing is gained by sending it loopback traffic.
            "trust_env": not loopback,
            # Reading the system's certificates costs 30 ms, and loopback has no use for them.
            "verify": False if loopback and self.verify is True else self.verify,
            "limits": httpx.Limits(max_connections=256, max_keepalive_connections=64),
        }


class BlockingTransport:
    """Carries out dialogues on the calling thread."""

    def __init__(self, target: Destination) -> None:
        self.target = target
        self._http = httpx.Client(**target.httpx_settings())

    def close(self) -> None:
        self._http.close()

    def run(self, dialogue: Dialogue[T]) -> T:
        """The dialogue's result. Errors of a call are raised inside the dialogue, which may handle them."""
        answer: Any = None
        failure: BerthError | None = None
        while True:
            try:
                step = dialogue.send(answer) if failure is None else dialogue.throw(failure)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, failure = None, None
            try:
                answer = self._carry_out(step)
            except BerthError as error:
                failure = error

    def messages(self, path: str, last_id: str) -> Iterator[SseMessage]:
        """The messages of an event stream after `last_id`, for ever; a connection that breaks is made again."""
        stream = EventStream(last_id=last_id)
        attempt = 0
        while True:
            try:
                for line in self._lines(operations.event_stream(path, stream.last_id)):
                    attempt = 0
                    message = stream.feed(line)
                    if message is not None:
                        yield message
            except Retryable:
                attempt += 1
            stream.reset()
            time.sleep(min(stream.retry_s * 2 ** min(attempt, 4), 10.0))

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Delay):
            time.sleep(step.seconds)
            return time.monotonic()
        for attempt in tenacity.Retrying(**_retry_policy(step, self.target)):
            with attempt:
                return step.parse(self._send(step))
        raise AssertionError("tenacity either returns or raises")

    def _send(self, call: ApiCall[Any]) -> HttpReply:
        body = _blocks(call.body) if isinstance(call.body, FileBody) else call.body
        with _typed_errors(call, self.target):
            response = self._http.request(**_arguments(call, self.target, body))
        return _checked(response)

    def _lines(self, call: ApiCall[Any]) -> Iterator[str]:
        with (
            _typed_errors(call, self.target),
            self._http.stream(**_arguments(call, self.target, None), timeout=_stream_timeout()) as response,
        ):
            if response.status_code >= 400:
                response.read()
                _checked(response)
            yield from response.iter_lines()


class AsyncTransport:
    """Carries out dialogues on the running event loop."""

    def __init__(self, target: Destination) -> None:
        self.target = target
        self._http = httpx.AsyncClient(**target.httpx_settings())

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, dialogue: Dialogue[T]) -> T:
        """The dialogue's result. Errors of a call are raised inside the dialogue, which may handle them."""
        answer: Any = None
        failure: BerthError | None = None
        while True:
            try:
                step = dialogue.send(answer) if failure is None else dialogue.throw(failure)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, failure = None, None
            try:
                answer = await self._carry_out(step)
            except BerthError as error:
                failure = error

    async def messages(self, path: str, last_id: str) -> AsyncIterator[SseMessage]:
        """The messages of an event stream after `last_id`, for ever; a connection that breaks is made again."""
        stream = EventStream(last_id=last_id)
        attempt = 0
        while True:
            try:
                async for line in self._lines(operations.event_stream(path, stream.last_id)):
                    attempt = 0
                    message = stream.feed(line)
                    if message is not None:
                        yield message
            except Retryable:
                attempt += 1
            stream.reset()
            await asyncio.sleep(min(stream.retry_s * 2 ** min(attempt, 4), 10.0))

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Delay):
            await asyncio.sleep(step.seconds)
            return time.monotonic()
        async for attempt in tenacity.AsyncRetrying(**_retry_policy(step, self.target)):
            with attempt:
                return step.parse(await self._send(step))
        raise AssertionError("tenacity either returns or raises")

    async def _send(self, call: ApiCall[Any]) -> HttpReply:
        body = _async_blocks(call.body) if isinstance(call.body, FileBody) else call.body
        with _typed_errors(call, self.target):
            response = await self._http.request(**_arguments(call, self.target, body))
        return _checked(response)

    async def _lines(self, call: ApiCall[Any]) -> AsyncIterator[str]:
        with _typed_errors(call, self.target):
            request = self._http.stream(**_arguments(call, self.target, None), timeout=_stream_timeout())
            async with request as response:
                if response.status_code >= 400:
                    await response.aread()
                    _checked(response)
                async for line in response.aiter_lines():
                    yield line


class _typed_errors:  # noqa: N801 - reads as a statement, and a class is cheaper than contextlib's generator
    """Turns httpx's errors into `berth.errors`."""

    def __init__(self, call: ApiCall[Any], target: Destination) -> None:
        self._call = call
        self.target = target

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, httpx.HTTPError):
            return
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout) and self._call.headers.get("accept") is None:
            raise DeadlineExceeded(f"the {self._call.server} did not answer in time") from error
        reason = str(error) or type(error).__name__
        raise unreachable(self._call.server, self.target.url(self._call), reason) from error


def _arguments(call: ApiCall[Any], target: Destination, body: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "method": call.method,
        "url": target.url(call),
        "params": dict(call.query) or None,
        "headers": target.headers(call),
    }
    if body is not None:
        arguments["content"] = body
    if call.timeout_s is not None:
        arguments["timeout"] = httpx.Timeout(call.timeout_s, connect=_CONNECT_TIMEOUT_S)
    return arguments


def _checked(response: httpx.Response) -> HttpReply:
    headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
    if response.status_code >= 300:
        raise error_from(response.status_code, headers, response.content)
    return HttpReply(response.status_code, headers, response.content)


def _stream_timeout() -> httpx.Timeout:
    return httpx.Timeout(_STREAM_SILENCE_S, connect=_CONNECT_TIMEOUT_S)


def _retry_policy(call: ApiCall[Any], target: Destination) -> dict[str, Any]:
    return {
        "stop": tenacity.stop_after_attempt(target.attempts if call.repeatable else 1),
        "retry": tenacity.retry_if_exception_type(Retryable),
        "wait": _asked_delay,
        "reraise": True,
    }


def _asked_delay(state: tenacity.RetryCallState) -> float:
    """The server's Retry-After, doubled with each failure, with jitter, and at most 10 seconds."""
    error = state.outcome.exception() if state.outcome is not None else None
    base = error.retry_after if isinstance(error, Retryable) else 1.0
    jitter = tenacity.wait_random(0.75, 1.0)(state)
    return float(min(10.0, base * 2 ** (state.attempt_number - 1)) * jitter)


def _blocks(body: FileBody) -> Iterator[bytes]:
    sent = 0
    with body.path.open("rb") as file:
        while block := file.read(_CHUNK):
            yield block
            sent += len(block)
            _report(body, sent)


async def _async_blocks(body: FileBody) -> AsyncIterator[bytes]:
    sent = 0
    file = await asyncio.to_thread(body.path.open, "rb")
    try:
        while block := await asyncio.to_thread(file.read, _CHUNK):
            yield block
            sent += len(block)
            _report(body, sent)
    finally:
        file.close()


def _report(body: FileBody, sent: int) -> None:
    if body.progress is not None:
        body.progress(sent, body.size)


def _is_loopback(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
