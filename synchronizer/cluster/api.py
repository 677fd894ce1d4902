"""The cluster's API over HTTP: plain JSON in and out, and watches as the bytes that come.

The `kubernetes` library, imported only here, does what is tedious to get right: kubeconfigs, the service account and
its rotating token, TLS. Its models are not used: they make a list of pods ten times as expensive. Nor is its watch: it
ends on a reset, and may skip events when a version is gone. The watch in `reflector` does neither.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from berth.errors import Unavailable
from berth.settings import SettingsError
from synchronizer.cluster.metrics import ClusterMetrics

log = structlog.get_logger(__name__)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECT_S = 5.0
_OPEN_S = 10.0  # until a watch is answered; its events may then take as long as they like
_DETAIL = 300  # characters of an error's text that are kept

Read = Callable[[], Awaitable[bytes]]
"""Waits for the next bytes; none are the end."""

MERGE_PATCH = "application/merge-patch+json"


class ApiFailure(Unavailable):
    """The API refused (`code` is the HTTP status) or did not answer (`code` 0)."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code

    @property
    def reason(self) -> str:
        """One word, fit for a metric's label."""
        return {0: "unreachable", 410: "gone"}.get(self.code, f"http_{self.code}")


class KubernetesApi:
    """`config`: path of a kubeconfig; None: the service account of the pod that this process runs in."""

    def __init__(self, config: Path | None, metrics: ClusterMetrics) -> None:
        self._config = config
        self._metrics = metrics
        self._client: Any = None
        self._namespace = ""
        self._stale = False
        self._opening = asyncio.Lock()
        # With what the library raises when the token of the service account cannot be read.
        self._failures: tuple[type[Exception], ...] = (aiohttp.ClientError, TimeoutError, OSError)

    def __repr__(self) -> str:
        return f"<KubernetesApi {self._config or 'in-cluster'} namespace={self._namespace}>"

    @property
    def namespace(self) -> str:
        """The namespace of the service account, or of the kubeconfig's context."""
        return self._namespace

    async def open(self) -> None:
        """Read the configuration; nothing is asked of the API. Raises `SettingsError` if it is not usable."""
        try:
            import yaml
            from kubernetes.aio.client.api_client import ApiClient
            from kubernetes.aio.client.configuration import Configuration
            from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
        except ImportError as error:
            raise SettingsError(f"Kubernetes needs the extra berth[kubernetes]: {error}") from None
        configuration = Configuration()
        try:
            if self._config is None:
                load_incluster_config(client_configuration=configuration)
                namespace = await asyncio.to_thread(_NAMESPACE_FILE.read_text)
            else:
                loader = await load_kube_config(
                    config_file=str(self._config), client_configuration=configuration, persist_config=False
                )
                namespace = loader.current_context["context"].get("namespace") or "default"
        except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
            raise SettingsError(f"no access to Kubernetes: {error}") from None
        self._failures = (aiohttp.ClientError, TimeoutError, OSError, ConfigException)
        client, self._client = self._client, ApiClient(configuration)
        self._namespace = namespace.strip()
        self._stale = False
        if client is not None:
            await client.close()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        timeout: float = 10.0,
    ) -> dict[str, Any]:
        """One request, and the JSON object it is answered with. Raises `ApiFailure`."""
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _CONNECT_S))
        response = await self._request(method, path, query or {}, limits, body, content)
        try:
            raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiFailure(0, f"{method} {path}: {_text(error)}") from None
        finally:
            response.release()
        return _object(raw)

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Read]:
        """An answer without end, read as it comes. Raises `ApiFailure`, and so does reading."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=None)
        try:
            async with asyncio.timeout(_OPEN_S):
                response = await self._request("GET", path, query, limits, verb="WATCH")
        except TimeoutError:
            raise ApiFailure(0, f"WATCH {path}: no answer") from None

        async def read() -> bytes:
            try:
                return await response.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise ApiFailure(0, f"WATCH {path}: {_text(error)}") from None

        try:
            yield read
        finally:
            # Not released: nobody reads the rest of the answer, so its connection cannot be used again.
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
        body: Any = None,
        content: str = "application/json",
        *,
        verb: str = "",
    ) -> aiohttp.ClientResponse:
        """The response, whose body is still to be read, of a request that was not refused."""
        verb = verb or method
        if self._stale:
            await self._reopen()
        try:
            prepared = await self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*prepared, _request_timeout=limits)
        except self._failures as error:
            self._metrics.requests.labels(verb, "0").inc()
            raise ApiFailure(0, f"{verb} {path}: {_text(error)}") from None
        response: aiohttp.ClientResponse = answer.response
        self._metrics.requests.labels(verb, str(response.status)).inc()
        if response.status < 300:
            return response
        self._stale = self._stale or response.status == 401
        raise ApiFailure(response.status, f"{verb} {path}: {response.status} {await _complaint(response)}")

    async def _reopen(self) -> None:
        """Read the configuration again: credentials in it change, and what it had is refused."""
        async with self._opening:
            if self._stale:
                try:
                    await self.open()
                except SettingsError as error:
                    raise ApiFailure(401, str(error)) from None


async def _complaint(response: aiohttp.ClientResponse) -> str:
    """What a refusal says, as far as it can be read."""
    try:
        said = json.loads(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return response.reason or ""
    finally:
        response.release()
    return str(said.get("message", ""))[:_DETAIL] if isinstance(said, dict) else ""


def _object(raw: bytes) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except ValueError:
        raise ApiFailure(0, "an answer that is not JSON") from None
    if not isinstance(said, dict):
        raise ApiFailure(0, "an answer that is no object")
    return said


def _text(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:_DETAIL]
