"""Who may ask for what, and what is said to those who may not."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.auth.keys import digest
from berth.errors import BerthError, NotFound, PermissionDenied, Unauthenticated, Unavailable
from berth.ids import ModelKey, VersionKey
from berth.model import (
    ApiKey,
    ModelRoute,
    Order,
    ReplicaAddress,
    RouteTable,
    Serving,
    Share,
    TenantLimits,
    VersionRoute,
)
from berth.states import Role
from router.core.routes import ANYWHERE, ELSEWHERE, HERE, NotLoaded, Resolved, Routes, resolve, router_of
from router.core.split import version_for

ALICE, BOB, ADMIN = digest("alice"), digest("bob"), digest("admin")


def no_dice() -> float:
    """Of models that one version serves alone."""
    return 0.0


def address(name: str) -> ReplicaAddress:
    return ReplicaAddress(name, "job", "local", f"{name}-1", "c:1", "g:1", "h:1")


TABLE = RouteTable(
    order=Order(1, 1),
    models={
        ModelKey("alice", "digits"): ModelRoute(
            ModelKey("alice", "digits"),
            Serving.only(2, {"stable": 1, "next": 3, "gone": 9}),
            (
                VersionRoute(1, ("r1",)),
                VersionRoute(2, ("r1", "r2")),
                VersionRoute(3, (), "not enough memory"),
                VersionRoute(4, ("vanished",)),
            ),
        ),
        ModelKey("alice", "loading"): ModelRoute(
            ModelKey("alice", "loading"), Serving(), (VersionRoute(1, (), "old"), VersionRoute(2, (), "fetching"))
        ),
        ModelKey("alice", "empty"): ModelRoute(ModelKey("alice", "empty"), Serving(), ()),
        ModelKey("bob", "secret"): ModelRoute(
            ModelKey("bob", "secret"), Serving.only(1, {"stable": 1}), (VersionRoute(1, ("r2",)),)
        ),
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
            Routes(TABLE, dice=no_dice).resolve(key, model, version)
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
        models={
            ModelKey("bob", name): ModelRoute(
                ModelKey("bob", name), Serving.only(1, {"x": 1}), (VersionRoute(1, ("r1",)),)
            )
        },
        replicas=TABLE.replicas,
        keys=TABLE.keys,
    )
    nobodys = RouteTable(order=TABLE.order, replicas=TABLE.replicas, keys=TABLE.keys)
    assert refusal(bobs, name) == refusal(nobodys, name)


def test_answers_are_remembered_and_refusals_are_not() -> None:
    routes = Routes(TABLE, dice=no_dice)
    assert routes.resolve(ALICE, "digits", "") is routes.resolve(ALICE, "digits", "")
    for number in range(100):
        with pytest.raises(NotFound):
            routes.resolve(ALICE, f"m{number}", "")
    assert repr(routes).endswith("remembered=1>")


def test_several_versions_divide_the_requests_that_name_none() -> None:
    shares = (Share(1, 3), Share(2))
    split = replace(TABLE.models[ModelKey("alice", "digits")], serving=Serving(shares, {"stable": 1}))
    thrown = iter([0.0, 0.74, 0.75, 0.99])
    routes = Routes(replace(TABLE, models={split.key: split}), dice=lambda: next(thrown, 0.0))
    assert [routes.resolve(ALICE, "digits", "").key.version for _ in range(4)] == [1, 1, 2, 2]
    for _ in range(2):
        assert [routes.resolve(ALICE, "digits", name).key.version for name in ("stable", "2")] == [1, 2]
    assert repr(routes).endswith("remembered=2>"), "what was thrown for is not remembered, what was named is"


SHARES = st.lists(st.builds(Share, st.integers(1, 9), st.integers(1, 1000)), min_size=1, max_size=5).map(tuple)


@given(SHARES)
def test_each_share_is_chosen_as_often_as_its_weight_says(shares: tuple[Share, ...]) -> None:
    total = sum(share.weight for share in shares)
    chosen = Counter(version_for(shares, (ticket + 0.5) / total) for ticket in range(total))
    wanted: Counter[int] = Counter()
    for share in shares:
        wanted[share.version] += share.weight
    assert chosen == wanted


@given(SHARES, st.floats(0, 1, exclude_max=True))
def test_whatever_is_thrown_one_of_them_answers(shares: tuple[Share, ...], dice: float) -> None:
    assert version_for(shares, dice) in {share.version for share in shares}


@pytest.mark.parametrize(
    ("shares", "dice", "version"),
    [
        ((), 0.5, 0),
        ((Share(7),), 0.0, 7),
        ((Share(7),), 0.999, 7),
        ((Share(1), Share(2)), 0.499, 1),
        ((Share(1), Share(2)), 0.5, 2),
        ((Share(2, 1), Share(1, 9)), 0.09, 2),
        ((Share(2, 1), Share(1, 9)), 0.1, 1),
    ],
)
def test_what_the_dice_fall_on(shares: tuple[Share, ...], dice: float, version: int) -> None:
    assert version_for(shares, dice) == version


# Other cells

EAST, WEST = router_of("east", "east:80", "east:81"), router_of("west", "west:80", "west:81")
OTHERS = {"west": WEST, "east": EAST}
KEY = ModelKey("alice", "m")


def of(
    *versions: VersionRoute, default: int = 0, labels: dict[str, int] | None = None, **elsewhere: tuple[str, ...]
) -> RouteTable:
    """A table with the model `m`; `v2=("east",)` means that the cell east is to hold version 2."""
    there = {int(number[1:]): cells for number, cells in elsewhere.items()}
    route = ModelRoute(KEY, Serving.only(default, labels), versions, elsewhere=there)
    return RouteTable(Order(1, 1), {KEY: route}, TABLE.replicas, TABLE.keys)


HELD, LOADING = VersionRoute(1, ("r1",)), VersionRoute(1, (), "loading")
FAILED = VersionRoute(1, (), "bad", failed=True)


@pytest.mark.parametrize(
    ("table", "version", "reach", "number", "replicas", "beyond", "assigned"),
    [
        # What is here is asked first, and the others only after.
        (of(HELD, default=1, v1=("east", "west")), "", ANYWHERE, 1, ["r1"], [WEST, EAST], True),
        (of(HELD, default=1, v1=("east",)), "1", ANYWHERE, 1, ["r1"], [EAST], True),
        (of(HELD, default=1, v2=("east",)), "1", ANYWHERE, 1, ["r1"], [], True),
        # Another cell may answer with another version, where none is asked for.
        (of(HELD, default=1, v2=("east",)), "", ANYWHERE, 1, ["r1"], [EAST], True),
        # Not here: nothing is assigned, or not loaded, or not for a moment.
        (of(v1=("east",), v2=("west",)), "", ANYWHERE, 2, [], [WEST, EAST], False),
        (of(v1=("east",), v2=("west",)), "1", ANYWHERE, 1, [], [EAST], False),
        (of(HELD, default=1, v2=("west",)), "2", ANYWHERE, 2, [], [WEST], False),
        (of(HELD, default=1, labels={"next": 2}, v2=("west",)), "next", ANYWHERE, 2, [], [WEST], False),
        (of(LOADING, v1=("east",)), "", ANYWHERE, 1, [], [EAST], True),
        (of(LOADING, v2=("east",)), "", ANYWHERE, 1, [], [EAST], True),
        (of(FAILED, v1=("east",)), "1", ANYWHERE, 1, [], [EAST], False),
        (of(VersionRoute(1, ("vanished",)), default=1, v1=("east",)), "", ANYWHERE, 1, [], [EAST], True),
        # Cells that nobody knows the way to are none.
        (of(HELD, default=1, v1=("moon",)), "1", ANYWHERE, 1, ["r1"], [], True),
        # How far it may go.
        (of(HELD, default=1, v1=("east",)), "1", HERE, 1, ["r1"], [], True),
        (of(HELD, default=1, v1=("east",)), "1", ELSEWHERE, 1, [], [EAST], True),
    ],
)
def test_who_else_may_answer(
    table: RouteTable,
    version: str,
    reach: int,
    number: int,
    replicas: list[str],
    beyond: list[ReplicaAddress],
    assigned: bool,
) -> None:
    found = resolve(table, ALICE, "m", version, reach=reach, others=OTHERS)
    key = VersionKey("alice", "m", number)
    assert found == Resolved(key, tuple(map(address, replicas)), None, b"", tuple(beyond), assigned)


@pytest.mark.parametrize(
    ("table", "version", "reach", "error", "cells"),
    [
        (of(LOADING, v1=("east", "moon")), "", HERE, NotLoaded, {"east", "moon"}),
        (of(LOADING, v1=("moon",)), "1", ANYWHERE, NotLoaded, {"moon"}),
        (of(LOADING, v2=("east",)), "1", ANYWHERE, NotLoaded, set()),
        (of(HELD, default=1), "1", ELSEWHERE, NotLoaded, set()),
        (of(v1=("moon",)), "", ANYWHERE, NotFound, None),
        (of(v1=("east",)), "", HERE, NotFound, None),
        (of(v1=("east",)), "2", ANYWHERE, NotFound, None),
        (of(HELD, default=1, v2=("east",)), "2", HERE, NotFound, None),
    ],
)
def test_who_else_cannot(
    table: RouteTable, version: str, reach: int, error: type[BerthError], cells: set[str] | None
) -> None:
    with pytest.raises(error) as refused:
        resolve(table, ALICE, "m", version, reach=reach, others=OTHERS)
    if isinstance(refused.value, NotLoaded):
        assert refused.value.cells == cells


@pytest.mark.parametrize(
    ("cells", "sender", "expected"),
    [((), "a", False), (("a",), "a", False), (("a", "c"), "a", True), (("c",), "a", True), (("c",), "", False)],
)
def test_a_third_cell(cells: tuple[str, ...], sender: str, expected: bool) -> None:
    with pytest.raises(NotLoaded) as refused:
        resolve(of(LOADING, v1=cells), ALICE, "m", "1", reach=HERE)
    assert refused.value.may_be_had_by(sender) is expected


@given(st.sampled_from(["", "1", "2", "x"]), st.sampled_from([ANYWHERE, HERE, ELSEWHERE]))
def test_someone_elses_model_is_nowhere_else_either(version: str, reach: int) -> None:
    def refusal(table: RouteTable) -> tuple[type[BerthError], str]:
        with pytest.raises(BerthError) as refused:
            resolve(table, BOB, "m", version, reach=reach, others=OTHERS)
        return type(refused.value), refused.value.detail

    nobodys = RouteTable(order=TABLE.order, replicas=TABLE.replicas, keys=TABLE.keys)
    assert refusal(of(v1=("east",), v2=("west",))) == refusal(nobodys)


def test_how_far_it_may_go_is_remembered_apart() -> None:
    routes = Routes(of(HELD, default=1, v1=("east",)), OTHERS, dice=no_dice)
    for _ in range(2):
        assert [routes.resolve(ALICE, "m", "", reach).beyond for reach in (ANYWHERE, HERE)] == [(EAST,), ()]
