"""Each header's name stands once, in lower case, and its text is the same name."""

from __future__ import annotations

from collections import Counter

from berth import headers

NAMES = {name: value for name, value in vars(headers).items() if name.isupper()}


def test_names_are_in_lower_case_and_stand_once() -> None:
    names = [value for value in NAMES.values() if isinstance(value, bytes)]
    assert all(name == name.lower() and name.isascii() for name in names)
    assert max(Counter(names).values()) == 1


def test_a_text_is_the_name_that_it_is_called_after() -> None:
    texts = {name: value for name, value in NAMES.items() if isinstance(value, str)}
    assert texts
    for name, text in texts.items():
        assert text.encode() == NAMES[name.removesuffix("_TEXT")]
