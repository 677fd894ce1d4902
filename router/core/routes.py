"""From a caller's key and words to the version that answers and the replicas that hold it.

Every refusal is built from the caller's own words alone, so that someone else's model and one that does not exist
give the same bytes.

For another cell the table says which versions it is to hold, not which it has loaded: that cell's own routers answer
requests that go there. A request is passed on to them as it came; so its route here is a place to ask, and only a guess
at the version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Final

from berth.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from berth.ids import ModelKey, VersionKey, parse_version
from berth.model import ModelRoute, ReplicaAddress, RouteTable, TenantLimits, VersionRoute
from router.core.allowance import part_of
from router.core.split import version_for

# The memo of one table never outgrows this many (key, model, version) triples that were really asked for.
_MOST_REMEMBERED: Final = 200_000

_LOADING_SOON: Final = 1.0

ANYWHERE: Final = 0
"""How far a request may go: to a replica of this cell, and without one to the routers of another."""
HERE: Final = 1
"""To a replica of this cell, and no further: another cell's router has passed it on already."""
ELSEWHERE: Final = 2
"""To the routers of another cell only: this one has seen that they have to answer it."""

OtherCells = Mapping[str, ReplicaAddress]
"""Where the routers of other cells are, by cell, the preferred one first. Each stands for a replica, as `router_of`
makes it, so that all that is known of replicas (that they rest, are withdrawn from, are paid for) is known of it."""

_NONE: Final[OtherCells] = {}
_CELL: Final = "cell:"


def router_of(cell: str, rest: str, grpc: str) -> ReplicaAddress:
    """The place of another cell's routers, which listen for clients at these two of `host:port`."""
    # No replica has such a name: names have no colons.
    place = f"{_CELL}{cell}"
    return ReplicaAddress(place, place, cell, "", "", grpc, rest)


def is_router(address: ReplicaAddress) -> bool:
    """Whether it is such a place, and no replica's."""
    return address.replica.startswith(_CELL)


class NotLoaded(Unavailable):
    """The version `key` is assigned, but no replica holds it. `failed`: loading it failed; waiting is of no use.

    `cells` are other cells that are to hold the version, whether or not this router knows them.
    """

    def __init__(
        self,
        detail: str,
        *,
        key: VersionKey,
        limits: TenantLimits | None,
        failed: bool,
        cells: Set[str] = frozenset(),
    ) -> None:
        super().__init__(detail, retry_after=_LOADING_SOON)
        self.key = key
        self.limits = limits
        self.failed = failed
        self.cells = cells

    def may_be_had_by(self, sender: str) -> bool:
        """Whether the cell `sender`, which passed the request on to here, can ask a third cell instead."""
        return bool(sender) and bool(self.cells - {sender})


class Resolved:
    """A request's route: one version and its name at workers, the replicas that hold it, this router's part of its
    tenant's limits, and the model's default answer for when no replica answers (empty: none).

    `beyond` are other cells that can be asked, in order of preference; at least one of these and `replicas` is there.
    Without replicas, `assigned` says that the version is to be loaded here and may yet be, and `key` is the version
    that the other cell is likely to answer with.
    """

    __slots__ = ("assigned", "beyond", "default_answer", "key", "limits", "replicas", "servable")

    def __init__(
        self,
        key: VersionKey,
        replicas: tuple[ReplicaAddress, ...],
        limits: TenantLimits | None,
        default_answer: bytes = b"",
        beyond: tuple[ReplicaAddress, ...] = (),
        assigned: bool = True,
    ) -> None:
        self.key = key
        self.servable = key.servable
        self.replicas = replicas
        self.limits = limits
        self.default_answer = default_answer
        self.beyond = beyond
        self.assigned = assigned

    def __repr__(self) -> str:
        return f"<Resolved {self.key} at {[address.replica for address in (*self.replicas, *self.beyond)]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resolved) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[object, ...]:
        return self.key, self.replicas, self.limits, self.default_answer, self.beyond, self.assigned


class Routes:
    """One route table and what has been resolved with it. A new table gets a new `Routes`: nothing is invalidated.

    Only answers are remembered, never refusals: what strangers ask for cannot fill memory. Nor are the results of
    `dice`: they are thrown for each request that names no version, if several versions divide the model's requests.
    """

    __slots__ = ("_dice", "_memos", "_others", "table")

    def __init__(self, table: RouteTable, others: OtherCells = _NONE, *, dice: Callable[[], float]) -> None:
        """`dice` gives numbers uniform in [0, 1)."""
        self.table = table
        self._others = others
        self._dice = dice
        # By how far requests may go; nearly all may go anywhere.
        self._memos: list[dict[tuple[bytes | None, str, str], Resolved]] = [{}, {}, {}]

    def __repr__(self) -> str:
        return f"<Routes {self.table.order} models={len(self.table.models)} remembered={sum(map(len, self._memos))}>"

    def resolve(self, api_key: bytes | None, model: str, version: str, reach: int = ANYWHERE) -> Resolved:
        """As the function `resolve`, remembered."""
        memo = self._memos[reach]
        asked = (api_key, model, version)
        known = memo.get(asked)
        if known is None:
            known = resolve(self.table, api_key, model, version, reach=reach, others=self._others, dice=self._dice())
            if not version and len(self.table.models[known.key.model_key].serving.versions) > 1:
                return known
            if len(memo) >= _MOST_REMEMBERED:
                memo.clear()
            memo[asked] = known
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
    """The version that a number or a label names, if it is assigned in this cell. Raises `NotFound`."""
    served = _find(route, _number(route, version))
    if served is None:
        raise _not_served(route, version)
    return served


def resolve(
    table: RouteTable,
    api_key: bytes | None,
    model: str,
    version: str,
    *,
    reach: int = ANYWHERE,
    others: OtherCells = _NONE,
    dice: float = 0.0,
) -> Resolved:
    """What answers `model` for the holder of `api_key`. `version` is a number, a label, or "" for the default, which
    `dice` choose where several versions divide the requests.

    Raises what `tenant_of` raises; `NotFound` for a model that the tenant does not have or a version that is served
    neither here nor in one of `others`; `NotLoaded` for a version that is assigned but not loaded, with the reason.
    """
    route = model_of(table, api_key, model)
    tenant = route.key.tenant
    number = _number(route, version) if version else 0
    served = _find(route, number) if version else _default_version(route, dice)
    beyond = () if reach == HERE else _beyond(route, number if version else None, others)
    if served is None and not beyond:
        raise _not_served(route, version)
    limits = table.limits.get(tenant)
    if limits is not None:
        limits = part_of(limits, table.routers)
    addresses: tuple[ReplicaAddress, ...] = ()
    if served is not None and reach != ELSEWHERE:
        addresses = tuple(table.replicas[name] for name in served.replicas if name in table.replicas)
    key = VersionKey(tenant, model, served.version if served is not None else number or max(route.elsewhere))
    if not addresses and not beyond:
        assert served is not None
        reason = f": {served.reason}" if served.reason else ""
        raise NotLoaded(
            f"model {_quoted(model)} version {served.version} is not loaded yet{reason}",
            key=key,
            limits=limits,
            failed=served.failed,
            cells=_cells(route, number if version else None),
        )
    may_load = served is not None and not served.failed
    return Resolved(key, addresses, limits, route.default_answer, beyond, may_load)


def _beyond(route: ModelRoute, number: int | None, others: OtherCells) -> tuple[ReplicaAddress, ...]:
    """Those of `others` that are to hold version `number` of the model, or for None any version."""
    if not others or not route.elsewhere:
        return ()
    cells = _cells(route, number)
    return tuple(place for cell, place in others.items() if cell in cells)


def _cells(route: ModelRoute, number: int | None) -> frozenset[str]:
    """The other cells for that."""
    if number is not None:
        return frozenset(route.elsewhere.get(number, ()))
    return frozenset(cell for cells in route.elsewhere.values() for cell in cells)


def _number(route: ModelRoute, version: str) -> int:
    """What a number or a label names; 0 for nothing."""
    return parse_version(version) or route.serving.labels.get(version, 0)


def _not_served(route: ModelRoute, version: str) -> NotFound:
    which = f"no version {_quoted(version)}" if version else "no version"
    return NotFound(f"model {_quoted(route.key.model)} serves {which}")


def _default_version(route: ModelRoute, dice: float) -> VersionRoute | None:
    shares = route.serving.versions
    if shares:
        return _find(route, shares[0].version if len(shares) == 1 else version_for(shares, dice))
    # Nothing is loaded: the newest one's reason is what the caller waits for.
    return max(route.versions, key=lambda entry: entry.version, default=None)


def _find(route: ModelRoute, number: int) -> VersionRoute | None:
    for entry in route.versions:
        if entry.version == number:
            return entry
    return None


def _quoted(word: str) -> str:
    return ascii(word if len(word) <= 100 else word[:100] + "...")
