"""A small client of the Kubernetes API for the tests: whatever speaks it, the fake and the real one alike.

Not the client that Berth uses: what is tested should not be what looks at it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import structlog
import yaml

log = structlog.get_logger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" where there is none) and name."""
T = TypeVar("T")

_MERGE = "application/merge-patch+json"
_REQUEST_LIMIT_S = 10.0
_WATCH_LIMIT_S = 240
_LOOK_AGAIN_S = 0.2


class Refused(Exception):
    """The API server said no. `code` is the status, the text its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Access:
    """What a kubeconfig says of its current context."""

    server: str
    authority: str = ""
    token: str = field(default="", repr=False)
    certificate: tuple[str, str] | None = field(default=None, repr=False)
    """The client's certificate and key, PEM."""
    namespace: str = "default"

    @classmethod
    def read(cls, path: Path) -> Access:
        """Raises KeyError or OSError for what is no kubeconfig."""
        document = yaml.safe_load(path.read_text())
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"]).get("user") or {}
        certificate = _pem(user, "client-certificate", path), _pem(user, "client-key", path)
        token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if user.get("tokenFile") else "")
        return cls(
            cluster["server"].rstrip("/"),
            _pem(cluster, "certificate-authority", path),
            token,
            certificate if all(certificate) else None,
            context.get("namespace") or "default",
        )

    def tls(self) -> ssl.SSLContext | None:
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.authority or None)
        if self.certificate is not None:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
                both.write("\n".join(self.certificate))
                both.flush()
                context.load_cert_chain(both.name)
        return context

    def document(self, token: str, namespace: str) -> Object:
        """A kubeconfig for another user of the same server."""
        trusted = (
            {"certificate-authority-data": base64.b64encode(self.authority.encode()).decode()} if self.authority else {}
        )
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.server, **trusted}}],
            "users": [{"name": "pod", "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "pod", "namespace": namespace}}],
            "current-context": "here",
        }


class Api:
    """Requests by path. Objects are JSON as it comes."""

    def __init__(self, session: aiohttp.ClientSession, access: Access) -> None:
        self._session = session
        self.access = access

    async def get(self, path: str, **query: str) -> Object:
        return await self._ask("GET", path, query)

    async def create(self, path: str, body: Object) -> Object:
        return await self._ask("POST", path, {}, body)

    async def patch(self, path: str, body: Object) -> Object:
        """A merge patch: null removes, lists are replaced."""
        return await self._ask("PATCH", path, {}, body, _MERGE)

    async def delete(self, path: str, body: Object | None = None) -> None:
        """What is not there is deleted already."""
        try:
            await self._ask("DELETE", path, {}, body)
        except Refused as refusal:
            if refusal.code != 404:
                raise

    async def apply(self, path: str, body: Object) -> Object:
        """Create the object in the collection `path`, or make it so."""
        try:
            return await self.create(path, body)
        except Refused as refusal:
            if refusal.code != 409:
                raise
        return await self.patch(f"{path}/{body['metadata']['name']}", body)

    async def watch(self, path: str, since: str) -> AsyncIterator[Object]:
        """Events after resource version `since`; ends when the server ends it. Raises `Refused` for 410 Gone."""
        query = {"watch": "1", "resourceVersion": since, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(_WATCH_LIMIT_S)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_LIMIT_S, sock_read=_WATCH_LIMIT_S + 10)
        async with self._session.get(self.access.server + path, params=query, timeout=limits) as answer:
            if answer.status >= 400:
                raise Refused(answer.status, await answer.text())
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(event["object"].get("code", 500), event["object"].get("message", ""))
                yield event

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None = None,
        kind: str = "application/json",
    ) -> Object:
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": kind}
        url = self.access.server + path
        async with self._session.request(method, url, params=query, data=content, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise Refused(answer.status, _message(text))
            result: Object = json.loads(text)
            return result


@asynccontextmanager
async def open_api(kubeconfig: Path) -> AsyncIterator[Api]:
    """The API of a kubeconfig's current context, while the context is open."""
    access = Access.read(kubeconfig)
    tls = access.tls()
    connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
    async with aiohttp.ClientSession(
        connector=connector,
        headers={"authorization": f"Bearer {access.token}"} if access.token else {},
        timeout=aiohttp.ClientTimeout(total=_REQUEST_LIMIT_S),
        read_bufsize=2**22,  # a line of a watch is one object
    ) as session:
        yield Api(session, access)


class Mirror:
    """The objects of one collection as they were last seen: listed, then watched; listed again after any error.

    While the API server is away, what was known stays known.
    """

    def __init__(self, api: Api, path: str) -> None:
        self._api = api
        self._path = path
        self._changed = asyncio.Condition()
        self.objects: dict[Key, Object] = {}
        self.listed = False

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow()
            except (aiohttp.ClientError, TimeoutError, Refused, OSError) as error:
                log.debug("looking again", path=self._path, error=str(error))
            # Also after a watch that ended well: a server that ends each at once is not asked in a circle.
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _follow(self) -> None:
        listed = await self._api.get(self._path)
        version = listed["metadata"]["resourceVersion"]
        self.objects = {key_of(item): item for item in listed["items"]}
        self.listed = True
        await self._tell()
        async for event in self._api.watch(self._path, version):
            item = event["object"]
            if event["type"] == "DELETED":
                self.objects.pop(key_of(item), None)
            elif event["type"] != "BOOKMARK":
                self.objects[key_of(item)] = item
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, reached: Callable[[dict[Key, Object]], T | None], within: float, what: str) -> T:
        """The first truthy answer of `reached`, which is asked after each change. AssertionError after `within` s."""
        answer: T | None = None
        try:
            async with asyncio.timeout(within), self._changed:
                while not (answer := reached(self.objects)):
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within} s: {what} (last answer: {answer!r})") from None
        return answer

    async def next_change(self, at_most_s: float) -> None:
        """Return after the next change, or when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s), self._changed:
                await self._changed.wait()


def key_of(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _pem(holder: Object, name: str, config: Path) -> str:
    """A PEM value that is given inline or as a file beside the kubeconfig; empty if it is not given."""
    if inline := holder.get(f"{name}-data"):
        return base64.b64decode(inline).decode()
    return (config.parent / holder[name]).read_text() if holder.get(name) else ""


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
