"""Requests over HTTP: who asks for what, faults, and the answer of the registry as JSON."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from aiohttp import web

from doubles.kubernetes import subresources
from doubles.kubernetes.deletion import Deletion
from doubles.kubernetes.faults import Fault, Faults
from doubles.kubernetes.kinds import Object
from doubles.kubernetes.listing import LIST_OPTIONS, list_objects, read_version
from doubles.kubernetes.moments import stamp
from doubles.kubernetes.rbac import Access, Asked
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.routes import Target, find_target, is_true
from doubles.kubernetes.selectors import matcher
from doubles.kubernetes.status import ApiError, bad_request, invalid
from doubles.kubernetes.watch import ConnectionReset, Watch, WatchOptions

_COMMANDS = ("bookmark", "reset", "expire")


class Call(NamedTuple):
    """One request that the server got. `resource` is such as `pods` or `deployments`; `at` is time.monotonic()."""

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    at: float


class App:
    """The handler of every request."""

    def __init__(
        self, registry: Registry, access: Access, faults: Faults, *, bookmark_interval_s: float, watch_list: bool
    ) -> None:
        self.registry = registry
        self.access = access
        self.faults = faults
        self.calls: list[Call] = []
        self.watches: set[Watch] = set()
        self._bookmark_interval_s = bookmark_interval_s
        self._watch_list = watch_list

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; a refusal is a Status."""
        try:
            return await self._answer(request)
        except ApiError as error:
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
            return _json(error.body, error.code, headers)
        except ConnectionReset:
            _cut(request)
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path.rstrip("/"), dict(request.query)
        if path.startswith("/_"):
            return await self._control(request, path)
        user = self.access.user(request.headers.get("Authorization"))
        target = find_target(request.method, path, query)
        if target is None:
            return web.Response(status=404, text="404 page not found\n")
        body = await _body(request)
        asked = _asked(user, target, query)
        fields = (asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace, asked.name, user)
        self.calls.append(Call(*fields, time.monotonic()))
        self.registry.store.news.tell()
        self.access.check(asked)
        fault = self._meet_fault(asked)
        if target.verb == "watch":
            return await self._watch(request, target, query, fault)
        code, answer = self._serve(target, query, request.content_type, body)
        return _json(answer, code)

    def _meet_fault(self, asked: Asked) -> Fault | None:
        """The fault that a watch is to meet in its stream. Raises the others."""
        fault = self.faults.take(
            verb=asked.verb,
            resource=asked.resource,
            subresource=asked.subresource,
            namespace=asked.namespace,
            name=asked.name,
            user=asked.user,
        )
        if fault is None or (asked.verb == "watch" and fault.on_watch):
            return fault
        if fault.action == "reset":
            raise ConnectionReset
        if fault.on_watch and fault.action != "expired":
            return None
        raise fault.error()

    def _serve(self, target: Target, query: dict[str, str], content_type: str, body: Any) -> tuple[int, Object]:
        """Everything but watches, in one step."""
        if target.subresource in {"scale", "eviction", "token"}:
            return self._serve_subresource(target, content_type, body)
        registry, (verb, kind, namespace, name, subresource) = self.registry, target
        match verb:
            case "get":
                return 200, registry.get(kind, namespace, name)
            case "list":
                return 200, list_objects(registry.store, kind, namespace, query)
            case "create":
                return 201, registry.create(kind, namespace, _object(body))
            case "update":
                stored, created = registry.replace(kind, namespace, name, _object(body), subresource)
                return (201 if created else 200), stored
            case "patch":
                return 200, registry.patch(kind, namespace, name, content_type, body, subresource)
            case _:
                return 200, registry.delete(kind, namespace, name, Deletion.read(body or {}, query))

    def _serve_subresource(self, target: Target, content_type: str, body: Any) -> tuple[int, Object]:
        registry, (verb, kind, namespace, name, subresource) = self.registry, target
        current = registry.get(kind, namespace, name)
        match subresource, verb:
            case "scale", "get":
                return 200, subresources.scale_of(current)
            case "scale", "update":
                return 200, subresources.put_scale(registry, kind, current, _object(body))
            case "scale", _:
                return 200, subresources.patch_scale(registry, kind, current, content_type, body)
            case "eviction", _:
                return 201, subresources.evict(registry, namespace, name, _object(body))
            case _:
                status = {"token": self.access.token(namespace, name), "expirationTimestamp": stamp(registry.clock())}
                return 201, _object(body) | {"status": status}

    # ---- watches ----

    async def _watch(
        self, request: web.Request, target: Target, query: Mapping[str, str], fault: Fault | None
    ) -> web.StreamResponse:
        options = self._watch_options(target, query)
        watch = Watch(self.registry.store, target.kind, options, fault, self._bookmark_interval_s)
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        self.watches.add(watch)
        try:
            await response.prepare(request)
            with suppress(ConnectionResetError):  # the client has gone: nothing to tell it
                async for line in watch.lines():
                    await response.write(line)
                await response.write_eof()
        finally:
            self.watches.discard(watch)
        return response

    def _watch_options(self, target: Target, query: Mapping[str, str]) -> WatchOptions:
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        if target.name:
            fields = ",".join(filter(None, (fields, f"metadata.name={target.name}")))
        version = read_version(query.get("resourceVersion", ""))
        initial = query.get("sendInitialEvents")
        self._check_initial(initial, query.get("resourceVersionMatch", ""))
        return WatchOptions(
            after=None if version == 0 or (initial is not None and is_true(initial)) else version,
            match=matcher(target.kind, labels, fields, target.namespace),
            bookmarks=is_true(query.get("allowWatchBookmarks", "false")),
            initial_end=initial is not None and is_true(initial),
            timeout_s=float(query.get("timeoutSeconds") or 1800),
        )

    def _check_initial(self, initial: str | None, rule: str) -> None:
        options = "sendInitialEvents"
        if initial is None and rule:
            raise _invalid_option("resourceVersionMatch", f"forbidden for watch unless {options} is provided")
        if initial is not None and rule != "NotOlderThan":
            raise _invalid_option(
                "resourceVersionMatch", f"{options} requires setting resourceVersionMatch to NotOlderThan"
            )
        if initial is not None and not self._watch_list:
            raise _invalid_option(
                options, f"{options} is forbidden for watch unless the WatchList feature gate is enabled"
            )

    # ---- control ----

    async def _control(self, request: web.Request, path: str) -> web.StreamResponse:
        """For benchmarks in other processes: orders to running watches."""
        if (path, request.method) != ("/_watches", "POST"):
            return web.Response(status=404, text="404 page not found\n")
        order = _object(await _body(request))
        self.order(order.get("do", ""), order.get("resource", "*"))
        return _json({})

    def order(self, command: str, resource: str = "*") -> None:
        """Have every running watch of a resource send a bookmark, be reset, or expire; `compact` forgets history."""
        if command == "compact":
            self.registry.store.compact(None if resource == "*" else [resource])
            return
        if command not in _COMMANDS:
            raise bad_request(f"{command!r} is no order; there are compact, {', '.join(_COMMANDS)}")
        orders: Mapping[str, Callable[[Watch], None]] = {
            "bookmark": Watch.bookmark,
            "reset": Watch.reset,
            "expire": Watch.expire,
        }
        for watch in self.watches:
            if resource in {"*", watch.kind.plural}:
                orders[command](watch)


def _asked(user: str, target: Target, query: Mapping[str, str]) -> Asked:
    verb, kind, namespace, name, subresource = target
    if not name:  # a list of one name is authorized as a request for that name
        terms = dict(term.partition("=")[::2] for term in query.get("fieldSelector", "").split(","))
        name = terms.get("metadata.name", "")
    return Asked(user, verb, kind.group, kind.plural, subresource, namespace, name)


def _invalid_option(field: str, message: str) -> ApiError:
    return invalid(LIST_OPTIONS, "", field, f"Forbidden: {message}", "FieldValueForbidden")


async def _body(request: web.Request) -> Any:
    """The body as JSON. Raises 400."""
    raw = await request.read()
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from None


def _object(body: Any) -> Object:
    if not isinstance(body, dict):
        raise bad_request("the body is not an object")
    return body


def _json(value: Object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    text = json.dumps(value, separators=(",", ":"))
    return web.Response(status=status, text=text + "\n", content_type="application/json", headers=headers)


def _cut(request: web.Request) -> None:
    """End the connection by RST, as a crashed proxy does: no FIN, and what was not read is lost."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
