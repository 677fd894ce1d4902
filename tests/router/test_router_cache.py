"""The prediction cache: its bounds hold after every step, and nothing crosses from one key to another."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ids import VersionKey
from router.core.cache import ENTRY_OVERHEAD, AnswerCache, CacheKey, digest_of

V1, V2 = VersionKey("alice", "m", 1), VersionKey("alice", "m", 2)
BOBS = VersionKey("bob", "m", 1)
ROOM = 8 * (ENTRY_OVERHEAD + 100)


def key(version: VersionKey, name: str) -> CacheKey:
    return CacheKey(version, digest_of("rest", (), name.encode()))


def test_what_is_kept_is_given_back_until_it_is_too_old() -> None:
    cache: AnswerCache[str] = AnswerCache(ROOM, ttl=10.0)
    assert cache.keep(key(V1, "a"), "answer", 100, now=0.0)
    assert cache.get(key(V1, "a"), 9.9) == "answer"
    assert cache.get(key(V2, "a"), 0.0) is None
    assert cache.get(key(BOBS, "a"), 0.0) is None
    assert cache.get(key(V1, "b"), 0.0) is None
    assert cache.get(key(V1, "a"), 10.0) is None
    assert (len(cache), cache.size) == (0, 0)
    cache.validate()


def test_the_least_recently_used_goes_first() -> None:
    cache: AnswerCache[int] = AnswerCache(ROOM, ttl=10.0)
    for number in range(8):
        cache.keep(key(V1, str(number)), number, 100, 0.0)
    assert cache.get(key(V1, "0"), 1.0) == 0
    cache.keep(key(V1, "8"), 8, 100, 1.0)
    assert cache.get(key(V1, "0"), 1.0) == 0
    assert cache.get(key(V1, "1"), 1.0) is None
    assert len(cache) == 8


def test_what_is_too_large_is_not_kept_and_replaces_what_was() -> None:
    cache: AnswerCache[str] = AnswerCache(ROOM, ttl=10.0)
    cache.keep(key(V1, "a"), "old", 1, 0.0)
    assert not cache.keep(key(V1, "a"), "new", 101, 0.0)
    assert cache.get(key(V1, "a"), 0.0) is None
    cache.validate()


def test_versions_that_left_are_forgotten() -> None:
    cache: AnswerCache[int] = AnswerCache(ROOM, ttl=10.0)
    for version in (V1, V2, BOBS):
        cache.keep(key(version, "a"), 1, 10, 0.0)
    cache.retain(lambda version: version == V2)
    assert [cache.get(key(version, "a"), 0.0) for version in (V1, V2, BOBS)] == [None, 1, None]
    cache.validate()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("rest", (), b"x"), ("grpc", (), b"x")),
        (("rest", (("a", "b"),), b"x"), ("rest", (("ab", ""),), b"x")),
        (("rest", (("a", "bc"),), b"x"), ("rest", (("ab", "c"),), b"x")),
        (("rest", (("a", "b"),), b""), ("rest", (), b"ab")),
        (("rest", (("a", ""),), b""), ("rest", (), b"")),
        (("rest", (), b"\x00"), ("rest", (), b"\x00\x00")),
    ],
)
def test_what_differs_has_another_digest(
    one: tuple[str, tuple[()], bytes], other: tuple[str, tuple[()], bytes]
) -> None:
    assert digest_of(*one) != digest_of(*other)
    assert digest_of(*one) == digest_of(*one)
    assert len(digest_of(*one)) == 32


def test_the_order_of_headers_does_not_matter() -> None:
    assert digest_of("rest", (("a", "1"), ("b", "2")), b"") == digest_of("rest", (("b", "2"), ("a", "1")), b"")


versions = st.sampled_from([V1, V2, BOBS])
names = st.sampled_from("abcdefghij")
Step = Callable[[AnswerCache[tuple[VersionKey, str]], float], None]


def _put(version: VersionKey, name: str, size: int) -> Step:
    def step(cache: AnswerCache[tuple[VersionKey, str]], now: float) -> None:
        cache.keep(key(version, name), (version, name), size, now)

    return step


def _get(version: VersionKey, name: str) -> Step:
    def step(cache: AnswerCache[tuple[VersionKey, str]], now: float) -> None:
        assert cache.get(key(version, name), now) in (None, (version, name))

    return step


def _retain(version: VersionKey) -> Step:
    return lambda cache, _: cache.retain(lambda one: one != version)


steps = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.one_of(
            st.builds(_put, versions, names, st.integers(0, 200)),
            st.builds(_get, versions, names),
            st.builds(_retain, versions),
        ),
    ),
    max_size=60,
)


@given(steps)
def test_the_bounds_hold_whatever_happens(story: list[tuple[float, Step]]) -> None:
    cache: AnswerCache[tuple[VersionKey, str]] = AnswerCache(ROOM, ttl=5.0)
    now = 0.0
    for wait, step in story:
        now += wait
        step(cache, now)
        cache.validate()
