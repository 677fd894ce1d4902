"""Who may ask for what, and what is said to those who may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.auth.keys import digest
from berth.errors import BerthError, NotFound, PermissionDenied, Unauthenticated, Unavailable
from berth.ids import ModelKey, VersionKey
from berth.model import ApiKey, ModelRoute, Order, ReplicaAddress, RouteTable, TenantLimits, VersionRoute
from berth.states import Role
from router.core.routes import Resolved, Routes, resolve

ALICE, BOB, ADMIN = digest("alice"), digest("bob"), digest("admin")


def address(name: str) -> ReplicaAddress:
    return ReplicaAddress(name, "job", "local", f"{name}-1", "c:1", "g:1", "h:1")


TABLE = RouteTable(
    order=Order(1, 1),
    models={
        ModelKey("alice", "digits"): ModelRoute(
            ModelKey("alice", "digits"),
            2,
            {"stable": 1, "next": 3, "gone": 9},
            (
                VersionRoute(1, ("r1",)),
                VersionRoute(2, ("r1", "r2")),
                VersionRoute(3, (), "not enough memory"),
                VersionRoute(4, ("vanished",)),
            ),
        ),
        ModelKey("alice", "loading"): ModelRoute(
            ModelKey("alice", "loading"), 0, {}, (VersionRoute(1, (), "old"), VersionRoute(2, (), "fetching"))
        ),
        ModelKey("alice", "empty"): ModelRoute(ModelKey("alice", "empty"), 0, {}, ()),
        ModelKey("bob", "secret"): ModelRoute(ModelKey("bob", "secret"), 1, {"stable": 1}, (VersionRoute(1, ("r2",)),)),
    },
    replicas={name: address(name) for name in ("r1", "r2")},
    keys={
        ALICE: ApiKey(ALICE, "alice", Role.DEVELOPER),
        BOB: ApiKey(BOB, "bob", Role.VIEWER),
        ADMIN: ApiKey(ADMIN, "", Role.ADMIN),
    },
    limits={"bob": TenantLimits("bob", 5.0, 1)},
)


@pytest.mark.parametrize(
    ("version", "number", "replicas"),
    [("", 2, ["r1", "r2"]), ("1", 1, ["r1"]), ("2", 2, ["r1", "r2"]), ("stable", 1, ["r1"])],
)
def test_a_version_answers_where_it_is_loaded(version: str, number: int, replicas: list[str]) -> None:
    resolved = resolve(TABLE, ALICE, "digits", version)
    assert resolved == Resolved(VersionKey("alice", "digits", number), tuple(map(address, replicas)), None)


def test_limits_come_with_the_answer() -> None:
    assert resolve(TABLE, BOB, "secret", "").limits == TenantLimits("bob", 5.0, 1)


@pytest.mark.parametrize(
    ("key", "model", "version", "error", "says"),
    [
        (None, "digits", "", Unauthenticated, "Authorization: Bearer"),
        (digest("stranger"), "digits", "", Unauthenticated, "unknown or has been revoked"),
        (ADMIN, "digits", "", PermissionDenied, "use a tenant's key"),
        (ALICE, "nope", "", NotFound, "model 'nope' does not exist"),
        (ALICE, "secret", "", NotFound, "model 'secret' does not exist"),
        (ALICE, "digits", "7", NotFound, "serves no version '7'"),
        (ALICE, "digits", "01", NotFound, "serves no version '01'"),
        (ALICE, "digits", "0", NotFound, "serves no version '0'"),
        (ALICE, "digits", "-1", NotFound, "serves no version"),
        (ALICE, "digits", "canary", NotFound, "serves no version 'canary'"),
        (ALICE, "digits", "gone", NotFound, "serves no version 'gone'"),
        (ALICE, "empty", "", NotFound, "serves no version"),
        (ALICE, "digits", "3", Unavailable, "version 3 is not loaded yet: not enough memory"),
        (ALICE, "digits", "next", Unavailable, "version 3 is not loaded yet: not enough memory"),
        (ALICE, "digits", "4", Unavailable, "version 4 is not loaded yet"),
        (ALICE, "loading", "", Unavailable, "version 2 is not loaded yet: fetching"),
        (ALICE, "x" * 5000, "", NotFound, "does not exist"),
        (ALICE, "caf\u00e9\r\n", "", NotFound, r"'caf\xe9\r\n'"),
    ],
)
def test_refusals(key: bytes | None, model: str, version: str, error: type[BerthError], says: str) -> None:
    for _ in range(2):
        with pytest.raises(error) as refused:
            Routes(TABLE).resolve(key, model, version)
        assert says in refused.value.detail
        assert len(refused.value.detail) < 400
        assert refused.value.detail.isascii()


@given(st.sampled_from(["", "1", "stable", "9", "x"]), st.text(max_size=20))
def test_someone_elses_model_looks_like_none(version: str, name: str) -> None:
    def refusal(table: RouteTable, model: str) -> tuple[type[BerthError], str, object]:
        with pytest.raises(BerthError) as refused:
            resolve(table, ALICE, model, version)
        return type(refused.value), refused.value.detail, dict(refused.value.fields)

    bobs = RouteTable(
        order=TABLE.order,
        models={ModelKey("bob", name): ModelRoute(ModelKey("bob", name), 1, {"x": 1}, (VersionRoute(1, ("r1",)),))},
        replicas=TABLE.replicas,
        keys=TABLE.keys,
    )
    nobodys = RouteTable(order=TABLE.order, replicas=TABLE.replicas, keys=TABLE.keys)
    assert refusal(bobs, name) == refusal(nobodys, name)


def test_answers_are_remembered_and_refusals_are_not() -> None:
    routes = Routes(TABLE)
    assert routes.resolve(ALICE, "digits", "") is routes.resolve(ALICE, "digits", "")
    for number in range(100):
        with pytest.raises(NotFound):
            routes.resolve(ALICE, f"m{number}", "")
    assert repr(routes).endswith("remembered=1>")
