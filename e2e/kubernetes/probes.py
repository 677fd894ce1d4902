"""Probes of a container, executed for real: HTTP, TCP, gRPC health, or a command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import grpc
import grpc.aio

from e2e.kubernetes.api import Object
from e2e.kubernetes.pod_spec import port_of

Execute = Callable[[list[str]], Awaitable[int]]
"""Runs a command in the container's environment and returns its exit status."""

# A process that has just started is looked at more often than its probe says: tests would wait for nothing else.
_EAGER_S = 0.2


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe. Times in seconds."""

    spec: Object
    container: Object
    address: str
    execute: Execute

    @property
    def period(self) -> float:
        return float(self.spec.get("periodSeconds", 10))

    async def watch(self, say: Callable[[bool], None], *, eager: Callable[[], bool]) -> None:
        """Call `say` with each verdict: after so many successes or failures in a row as the probe asks for.

        While `eager()`, it looks every fifth of a second, and failures count by the time that they last.
        """
        await asyncio.sleep(float(self.spec.get("initialDelaySeconds", 0)))
        good, bad = 0.0, 0.0
        while True:
            pause = min(self.period, _EAGER_S) if eager() else self.period
            if await self.ask():
                good, bad = good + 1, 0
                if good >= self.spec.get("successThreshold", 1):
                    say(True)
            else:
                good, bad = 0, bad + pause / self.period
                if bad >= self.spec.get("failureThreshold", 3):
                    say(False)
            await asyncio.sleep(pause)

    async def ask(self) -> bool:
        """Whether one look succeeds in time."""
        try:
            async with asyncio.timeout(float(self.spec.get("timeoutSeconds", 1))):
                return await self._ask()
        except (TimeoutError, OSError, aiohttp.ClientError, grpc.aio.AioRpcError):
            return False

    async def _ask(self) -> bool:
        if "httpGet" in self.spec:
            return await self._get(self.spec["httpGet"])
        if "tcpSocket" in self.spec:
            _, writer = await asyncio.open_connection(self.address, self._port(self.spec["tcpSocket"]["port"]))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return True
        if "grpc" in self.spec:
            return await self._check_health(self.spec["grpc"])
        return await self.execute(self.spec["exec"]["command"]) == 0

    async def _get(self, action: Object) -> bool:
        scheme = action.get("scheme", "HTTP").lower()
        url = f"{scheme}://{action.get('host') or self.address}:{self._port(action['port'])}{action.get('path', '/')}"
        headers = {each["name"]: each["value"] for each in action.get("httpHeaders") or ()}
        # As Kubernetes does, without looking at the certificate; a connection each, and no redirects to elsewhere.
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.get(url, headers=headers, ssl=False, allow_redirects=False) as answer,
        ):
            return 200 <= answer.status < 400

    async def _check_health(self, action: Object) -> bool:
        async with grpc.aio.insecure_channel(f"{self.address}:{action['port']}") as channel:
            call = channel.unary_unary("/grpc.health.v1.Health/Check")
            service = action.get("service", "").encode()
            # HealthCheckRequest{1: service}; HealthCheckResponse{1: status}, where 1 is SERVING.
            request = b"\x0a" + bytes([len(service)]) + service if service else b""
            return bool(await call(request) == b"\x08\x01")

    def _port(self, port: int | str) -> int:
        number = port_of([self.container], port)
        if number is None:
            raise OSError(f"no port is called {port}")
        return number
