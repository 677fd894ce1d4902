"""What every handler needs: who calls and what they may do, one transaction, and an answer with an entity tag."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from berth.api.schemas import Page, Resource
from berth.auth.keys import key_from_headers
from berth.errors import InsufficientCapacity, InvalidArgument, PermissionDenied, PreconditionFailed
from berth.headers import ETAG_TEXT, IDEMPOTENCY_KEY_TEXT, IF_MATCH_TEXT
from berth.ids import ModelKey
from berth.states import Role
from berth.wake import Wake
from controller.api.metrics import ApiMetrics
from controller.api.views import written_part
from controller.core.commands import Caller, Command
from controller.intake.receiving import Incoming
from controller.store.transaction import Transactions, Tx
from controller.usecases import keys, naming
from controller.usecases.requests import ApiAnswer, RequestMemo, once

T = TypeVar("T")
R = TypeVar("R", bound=Resource)

ADMINS = frozenset({Role.ADMIN})
OPERATORS = frozenset({Role.ADMIN, Role.OPERATOR})
WRITERS = frozenset({Role.ADMIN, Role.DEVELOPER})
READERS = frozenset({Role.ADMIN, Role.DEVELOPER, Role.VIEWER})

_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with; made once by the composition root. `closing` is set when the process is to end."""

    transactions: Transactions
    receive: Callable[[Incoming, AsyncIterator[bytes]], Awaitable[ApiAnswer]]
    changed: Callable[[set[ModelKey]], None]
    events: Wake
    closing: asyncio.Event
    metrics: ApiMetrics
    max_artifact_bytes: int


class AuthenticatedCall:
    """One authenticated request."""

    def __init__(self, request: Request, services: Services, caller: Caller, secret: str) -> None:
        self.request = request
        self.services = services
        self.caller = caller
        self._secret = secret

    @property
    def command(self) -> Command:
        """Who asks, from where and by which request: every use case that writes is given this."""
        client = self.request.client
        return Command(self.caller, client.host if client is not None else "", self.request.state.request_id)

    def demand(self, roles: frozenset[Role]) -> None:
        """Raises `PermissionDenied` unless the caller's role is one of `roles`."""
        if self.caller.role not in roles:
            wanted = ", ".join(sorted(roles))
            raise PermissionDenied(f"this needs a key with one of the roles {wanted}; yours is {self.caller.role}")

    def demand_tenant(self, tenant: str, roles: frozenset[Role]) -> None:
        """As `demand`, for what belongs to `tenant`. To another tenant's key it looks as if it did not exist, whether
        it does or not: nothing is looked up."""
        if self.caller.tenant not in (None, tenant):
            raise naming.no_tenant(tenant)
        self.demand(roles)

    async def read(self, query: Callable[[Tx], Awaitable[T]]) -> T:
        return await self.services.transactions.read(query)

    async def change(self, use_case: Callable[[Tx], Awaitable[T]], touched: ModelKey | None = None) -> T:
        """Run a change of desired state; then have rollouts look at the `touched` model."""
        try:
            result = await self.services.transactions.run(use_case, fleet=True)
        except InsufficientCapacity:
            self.services.metrics.placement_refusals.inc()
            raise
        if touched is not None:
            self.services.changed({touched})
        return result

    async def create(
        self,
        act: Callable[[Tx], Awaitable[Resource]],
        *,
        fingerprint: bytes,
        touched: ModelKey | None = None,
        secret: str | None = None,
    ) -> Response:
        """Answer a POST: 201 with what `act` made, or the answer that the same request got before.

        `secret` is added to the answer and not remembered with it.
        """
        memo = self.memo(fingerprint)

        async def answer(tx: Tx) -> ApiAnswer:
            return ApiAnswer(201, (await act(tx)).model_dump(mode="json"))

        done = await self.change(lambda tx: once(tx, memo, answer), touched)
        body = done.body if secret is None else {**done.body, "secret": secret}
        headers = {"Idempotency-Replayed": "true"} if done.replayed else {}
        if "etag" in body:
            headers[ETAG_TEXT] = f'"{body["etag"]}"'
        return JSONResponse(body, status_code=done.status, headers=headers)

    def memo(self, fingerprint: bytes) -> RequestMemo | None:
        """What to remember the answer under, if the caller sent an Idempotency-Key. Raises `InvalidArgument`."""
        key = self.request.headers.get(IDEMPOTENCY_KEY_TEXT)
        if key is None:
            return None
        if not naming.storable(key) or len(key) > _LONGEST_KEY:
            raise InvalidArgument("an Idempotency-Key has 1 to 255 printable ASCII characters")
        what = f"{self.request.method} {self.request.url.path}?{self.request.url.query}".encode()
        return RequestMemo(self.caller.key_id, key, hashlib.sha256(what + b"\0" + fingerprint).digest())

    def seed(self, memo: RequestMemo | None) -> bytes | None:
        """Makes the same secret of the same request again. Only the caller and this process can: it holds their key."""
        if memo is None:
            return None
        return hashlib.sha256(b"\0".join((self._secret.encode(), memo.key.encode(), memo.fingerprint))).digest()

    def check_match(self, resource: Resource) -> None:
        """Raises `PreconditionFailed` if the caller sent an If-Match, and someone has written to the resource since.

        What was merely observed since then is no reason: see `views`.
        """
        given = self.request.headers.get(IF_MATCH_TEXT)
        if given is None or given.strip() == "*":
            return
        if written_part(getattr(resource, "etag", "")) not in map(written_part, _tags(given)):
            raise PreconditionFailed("the resource is not the one that If-Match names; read it again")

    def show(self, resource: Resource) -> Response:
        """The resource with its entity tag; 304 if the caller has it already."""
        etag = getattr(resource, "etag", "")
        headers = {ETAG_TEXT: f'"{etag}"'} if etag else {}
        if etag and etag in _tags(self.request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return JSONResponse(resource.model_dump(mode="json"), headers=headers)


async def _authenticate(
    request: Request, authorization: Annotated[str | None, Header(description="Bearer KEY")] = None
) -> AuthenticatedCall:
    services: Services = request.app.state.services
    key = key_from_headers({"authorization": authorization or ""})
    caller = await services.transactions.read(lambda tx: keys.authenticate(tx, key))
    return AuthenticatedCall(request, services, caller, key or "")


Authenticated = Annotated[AuthenticatedCall, Depends(_authenticate)]
Limit = Annotated[int, Query(ge=1, le=500, description="Most items on the page.")]
Cursor = Annotated[str | None, Query(max_length=1_000, description="`next_cursor` of the page before.")]


def fingerprint_of(body: Resource) -> bytes:
    return hashlib.sha256(body.model_dump_json().encode()).digest()


def read_cursor(cursor: str | None, start: Sequence[Any]) -> list[Any]:
    """The position that `cursor` stands for. It has the shape of `start`, where a list begins."""
    if cursor is None:
        return list(start)
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        position = None
    fits = (
        isinstance(position, list)
        and [type(part) for part in position] == [type(part) for part in start]
        and all(part == "" or naming.storable(part) for part in position if isinstance(part, str))
        and all(-1 << 63 <= part < 1 << 63 for part in position if isinstance(part, int))
    )
    if not fits:
        raise InvalidArgument("the cursor is not one that a page gave")
    assert isinstance(position, list)
    return position


def make_page(items: Sequence[R], limit: int, position: Callable[[R], Sequence[Any]]) -> Page[R]:
    """A page of at most `limit` of `items`. One item more than that says that there is a next page."""
    shown = list(items[:limit])
    more = len(items) > limit
    cursor = base64.urlsafe_b64encode(json.dumps(list(position(shown[-1]))).encode()).rstrip(b"=") if more else None
    return Page(items=shown, next_cursor=cursor.decode() if cursor is not None else None)


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",") if tag.strip()}
