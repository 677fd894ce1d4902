"""Names and keys: the grammar, and that servable names cannot collide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidArgument
from berth.ids import MAX_VERSION, NAME_PATTERN, VersionKey, check_name, check_sha256, parse_version

names = st.from_regex(NAME_PATTERN, fullmatch=True)
keys = st.builds(VersionKey, names, names, st.integers(1, MAX_VERSION))


@pytest.mark.parametrize("name", ["a", "7", "resnet-50", "a.b_c-d", "x" * 63])
def test_valid_names(name: str) -> None:
    assert check_name("model", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", "a-", ".a", "a.", "a/b", "a~b", "../a", "a\n", "a b", "ä", "x" * 64, "a\x00", "a%2fb"],
)
def test_refused_names_say_which_and_why(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^model name"):
        check_name("model", name)


@given(keys)
def test_servable_names_can_be_read_back(key: VersionKey) -> None:
    assert VersionKey.from_servable(key.servable) == key


@given(keys, keys)
def test_servable_names_never_collide(one: VersionKey, other: VersionKey) -> None:
    assert (one.servable == other.servable) == (one == other)


@pytest.mark.parametrize(
    "text", ["", "a~b", "a~b~0", "a~b~01", "a~b~-1", "a~b~1~1", "A~b~1", "a~~1", "a~b~" + "9" * 19]
)
def test_refused_servable_names(text: str) -> None:
    with pytest.raises(InvalidArgument):
        VersionKey.from_servable(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("42", 42), (str(MAX_VERSION), MAX_VERSION), (str(MAX_VERSION + 1), None)]
    + [(text, None) for text in ("0", "01", "+1", "-1", "1.0", "", "one", "²", "٣", "1" * 5000)],
)
def test_version_numbers_have_one_spelling(text: str, number: int | None) -> None:
    assert parse_version(text) == number


def test_a_digest_is_64_lower_case_hex_digits() -> None:
    assert check_sha256("a" * 64) == "a" * 64
    for wrong in ("", "a" * 63, "A" * 64, "../" + "a" * 61, "g" * 64):
        with pytest.raises(InvalidArgument):
            check_sha256(wrong)
