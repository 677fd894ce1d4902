"""From a caller's key and words to the version that answers and the replicas that hold it.

Every refusal is built from the caller's own words alone, so that someone else's model and one that does not exist
give the same bytes.
"""

from __future__ import annotations

from typing import Final

from berth.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from berth.ids import ModelKey, VersionKey, parse_version
from berth.model import ModelRoute, ReplicaAddress, RouteTable, TenantLimits, VersionRoute
from router.core.allowance import part_of

# The memo of one table never outgrows this many (key, model, version) triples that were really asked for.
_MOST_REMEMBERED: Final = 200_000

_LOADING_SOON: Final = 1.0


class NotLoaded(Unavailable):
    """The version `key` is assigned, but no replica holds it. `failed`: loading it failed; waiting is of no use."""

    def __init__(self, detail: str, *, key: VersionKey, limits: TenantLimits | None, failed: bool) -> None:
        super().__init__(detail, retry_after=_LOADING_SOON)
        self.key = key
        self.limits = limits
        self.failed = failed


class Resolved:
    """What answers a request: one version and its name at workers, the replicas that hold it (at least one), this
    router's part of its tenant's limits, and what the model answers when no replica does (empty: no such answer)."""

    __slots__ = ("default_answer", "key", "limits", "replicas", "servable")

    def __init__(
        self,
        key: VersionKey,
        replicas: tuple[ReplicaAddress, ...],
        limits: TenantLimits | None,
        default_answer: bytes = b"",
    ) -> None:
        self.key = key
        self.servable = key.servable
        self.replicas = replicas
        self.limits = limits
        self.default_answer = default_answer

    def __repr__(self) -> str:
        return f"<Resolved {self.key} at {[address.replica for address in self.replicas]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resolved) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[object, ...]:
        return self.key, self.replicas, self.limits, self.default_answer


class Routes:
    """One route table and what has been resolved with it. A new table gets a new `Routes`: nothing is invalidated.

    Only answers are remembered, never refusals: what strangers ask for cannot fill memory.
    """

    __slots__ = ("_memo", "table")

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self._memo: dict[tuple[bytes | None, str, str], Resolved] = {}

    def __repr__(self) -> str:
        return f"<Routes {self.table.order} models={len(self.table.models)} remembered={len(self._memo)}>"

    def resolve(self, api_key: bytes | None, model: str, version: str) -> Resolved:
        """As the function `resolve`, remembered."""
        asked = (api_key, model, version)
        known = self._memo.get(asked)
        if known is None:
            known = resolve(self.table, api_key, model, version)
            if len(self._memo) >= _MOST_REMEMBERED:
                self._memo.clear()
            self._memo[asked] = known
        return known


def tenant_of(table: RouteTable, api_key: bytes | None) -> str:
    """The tenant whose key has the SHA-256 `api_key`.

    Raises `Unauthenticated` without a known key, `PermissionDenied` for the platform's keys: they own no model.
    """
    if api_key is None:
        raise Unauthenticated("an API key is needed: send the header 'Authorization: Bearer KEY'")
    known = table.keys.get(api_key)
    if known is None:
        raise Unauthenticated("the API key is unknown or has been revoked")
    if not known.tenant:
        raise PermissionDenied("a platform key owns no models: use a tenant's key for inference")
    return known.tenant


def model_of(table: RouteTable, api_key: bytes | None, model: str) -> ModelRoute:
    """The route of `model` for the holder of `api_key`. Raises what `tenant_of` raises, and `NotFound`."""
    route = table.models.get(ModelKey(tenant_of(table, api_key), model))
    if route is None:
        raise NotFound(f"model {_quoted(model)} does not exist")
    return route


def named_version(route: ModelRoute, version: str) -> VersionRoute:
    """The version that a number or a label names. Raises `NotFound`."""
    number = parse_version(version) or route.labels.get(version)
    served = _find(route, number) if number is not None else None
    if served is None:
        raise NotFound(f"model {_quoted(route.key.model)} serves no version {_quoted(version)}")
    return served


def resolve(table: RouteTable, api_key: bytes | None, model: str, version: str) -> Resolved:
    """What answers `model` for the holder of `api_key`. `version` is a number, a label, or "" for the default.

    Raises what `tenant_of` raises; `NotFound` for a model that the tenant does not have or a version that is not
    served; `NotLoaded` for a version that is assigned but not loaded, with the reason.
    """
    route = model_of(table, api_key, model)
    tenant = route.key.tenant
    served = named_version(route, version) if version else _default_version(route)
    if served is None:
        raise NotFound(f"model {_quoted(model)} serves no version")
    key = VersionKey(tenant, model, served.version)
    limits = table.limits.get(tenant)
    if limits is not None:
        limits = part_of(limits, table.routers)
    addresses = tuple(table.replicas[name] for name in served.replicas if name in table.replicas)
    if not addresses:
        reason = f": {served.reason}" if served.reason else ""
        raise NotLoaded(
            f"model {_quoted(model)} version {served.version} is not loaded yet{reason}",
            key=key,
            limits=limits,
            failed=served.failed,
        )
    return Resolved(key, addresses, limits, route.default_answer)


def _default_version(route: ModelRoute) -> VersionRoute | None:
    if route.default:
        return _find(route, route.default)
    # Nothing is loaded: the newest one's reason is what the caller waits for.
    return max(route.versions, key=lambda entry: entry.version, default=None)


def _find(route: ModelRoute, number: int) -> VersionRoute | None:
    for entry in route.versions:
        if entry.version == number:
            return entry
    return None


def _quoted(word: str) -> str:
    return ascii(word if len(word) <= 100 else word[:100] + "...")
