"""Requests over HTTP: who asks for what, faults, and the answer of the registry as JSON."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from doubles.kubernetes import discovery, subresources, tables
from doubles.kubernetes.deletion import Deletion
from doubles.kubernetes.faults import Fault, Faults, read_fault, written
from doubles.kubernetes.kinds import Object
from doubles.kubernetes.listing import LIST_OPTIONS, list_objects, read_version
from doubles.kubernetes.moments import stamp
from doubles.kubernetes.protobuf import ProtobufError, decode
from doubles.kubernetes.rbac import Access, Asked
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.routes import Target, find_target, is_true
from doubles.kubernetes.selectors import matcher
from doubles.kubernetes.status import ApiError, bad_request, invalid, unsupported_media_type
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
        self._documents = discovery.documents()

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
        if path in self._documents and request.method == "GET":
            return _json(self._documents[path])
        if path in {"/healthz", "/livez", "/readyz"}:
            return web.Response(text="ok")
        if path.endswith("/selfsubjectaccessreviews") and request.method == "POST":
            return _json(self._review(user, await _body(request)), 201)
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
        if target.verb in {"get", "list"} and tables.is_asked_for(request.headers.get("Accept", "")):
            answer = self._table(target, answer)
        return _json(answer, code)

    def _table(self, target: Target, answer: Object) -> Object:
        if target.subresource == "scale":
            return answer
        listed = target.verb == "list"
        metadata = answer["metadata"] if listed else {"resourceVersion": answer["metadata"]["resourceVersion"]}
        values = answer["items"] if listed else [answer]
        return tables.table(target.kind, values, metadata, self.registry.clock())

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
        if target.subresource in {"scale", "eviction", "binding", "token"}:
            return self._serve_subresource(target, query, content_type, body)
        registry, (verb, kind, namespace, name, subresource) = self.registry, target
        dry_run = "All" in query.get("dryRun", "")
        match verb:
            case "get":
                return 200, registry.get(kind, namespace, name)
            case "list":
                return 200, list_objects(registry.store, kind, namespace, query)
            case "create":
                return 201, registry.create(kind, namespace, _object(body), dry_run=dry_run)
            case "update":
                stored, created = registry.replace(kind, namespace, name, _object(body), subresource, dry_run=dry_run)
                return (201 if created else 200), stored
            case "patch":
                stored, created = registry.patch(
                    kind,
                    namespace,
                    name,
                    content_type,
                    body,
                    subresource,
                    manager=query.get("fieldManager", ""),
                    force=is_true(query.get("force", "false")),
                    dry_run=dry_run,
                )
                return (201 if created else 200), stored
            case "delete":
                return 200, registry.delete(kind, namespace, name, Deletion.read(body or {}, query))
            case _:
                return 200, self._delete_all(target, query, body or {})

    def _serve_subresource(
        self, target: Target, query: dict[str, str], content_type: str, body: Any
    ) -> tuple[int, Object]:
        registry, (verb, kind, namespace, name, subresource) = self.registry, target
        dry_run = "All" in query.get("dryRun", "")
        current = registry.get(kind, namespace, name)
        match subresource, verb:
            case "scale", "get":
                return 200, subresources.scale_of(current)
            case "scale", "update":
                return 200, subresources.put_scale(registry, kind, current, _object(body), dry_run=dry_run)
            case "scale", _:
                return 200, subresources.patch_scale(registry, kind, current, content_type, body, dry_run=dry_run)
            case "eviction", _:
                return 201, subresources.evict(registry, namespace, name, _object(body), dry_run=dry_run)
            case "binding", _:
                return 201, subresources.bind(registry, namespace, name, _object(body))
            case _:
                status = {"token": self.access.token(namespace, name), "expirationTimestamp": stamp(registry.clock())}
                return 201, _object(body) | {"status": status}

    def _delete_all(self, target: Target, query: dict[str, str], options: Object) -> Object:
        found = list_objects(self.registry.store, target.kind, target.namespace, query)
        deletion = Deletion.read(options, query)
        for item in found["items"]:
            metadata = item["metadata"]
            self.registry.delete(target.kind, metadata.get("namespace", ""), metadata["name"], deletion)
        return found

    def _review(self, user: str, body: Any) -> Object:
        review = _object(body)
        spec = review.get("spec", {})
        asks = spec.get("resourceAttributes", {})
        asked = Asked(
            user,
            *(asks.get(field, "") for field in ("verb", "group", "resource", "subresource", "namespace", "name")),
        )
        allowed = not self.access.enforce or self.access.allows(asked)
        return review | {"status": {"allowed": allowed}}

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
        """For tests in other processes: faults, calls, and orders to running watches."""
        match path, request.method:
            case "/_faults", "GET":
                return _json({"pending": [written(fault) for fault in self.faults.pending]})
            case "/_faults", "POST":
                self.faults.add(read_fault(await _body(request)))
            case "/_faults", "DELETE":
                self.faults.clear()
            case "/_calls", "GET":
                return _json({"calls": [call._asdict() for call in self.calls]})
            case "/_calls", "DELETE":
                self.calls.clear()
            case "/_watches", "POST":
                order = _object(await _body(request))
                self.order(order.get("do", ""), order.get("resource", "*"))
            case _:
                return web.Response(status=404, text="404 page not found\n")
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
    """The body as JSON, or as YAML where it says so. Raises 400 or 415."""
    raw = await request.read()
    if not raw:
        return None
    if "protobuf" in request.content_type:
        try:
            return decode(raw)
        except ProtobufError as error:
            raise unsupported_media_type(("application/json", "application/yaml"), str(error)) from None
    try:
        return json.loads(raw)
    except ValueError as error:
        if "yaml" not in request.content_type:
            raise bad_request(f"the body is not JSON: {error}") from None
    try:
        return yaml.load(raw, Loader=_PlainLoader)  # noqa: S506 a safe loader with less in it
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from None


class _PlainLoader(yaml.SafeLoader):
    """YAML as JSON has it: what looks like a date stays text."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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
