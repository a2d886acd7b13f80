"""One odd value makes nothing else unreadable; what is no JSON stays none."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.text.foreign_json import (
    MAX_BRACKETS,
    MAX_INTEGER_CHARS,
    inside,
    list_inside,
    object_inside,
    read_foreign_json,
)
from tests.hostile_json import FOREIGN, RAW, TEXT, to_body

LIMIT = 10


def nested(levels: int) -> Any:
    value: Any = 1
    for number in range(levels):
        value = [value] if number % 2 else {"a": value}
    return value


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ).filter(lambda value: depth(value) <= LIMIT)
)
def test_what_is_not_too_deep_is_read_as_it_is(value: object) -> None:
    assert read_foreign_json(json.dumps(value, ensure_ascii=True).encode(), LIMIT) == value


@given(st.lists(FOREIGN, max_size=3), FOREIGN)
def test_what_stands_beside_odd_values_is_read(odd: list[object], within: object) -> None:
    good = {"text": 'quote " and \\ and [[{{', "n": -5}
    read = read_foreign_json(to_body([*odd, {"good": good, "odd": within}, *odd, good]), LIMIT)
    assert isinstance(read, list)
    assert read[len(odd)]["good"] == read[-1] == good
    assert depth(read) <= LIMIT


@pytest.mark.parametrize("levels", [LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2, 500])
def test_what_is_cut_out_is_what_is_beyond_the_limit(levels: int) -> None:
    read = read_foreign_json(json.dumps(nested(levels)).encode(), LIMIT)
    assert depth(read) == min(levels, LIMIT)
    assert (read == nested(levels)) is (levels <= LIMIT)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"9" * MAX_INTEGER_CHARS, int("9" * MAX_INTEGER_CHARS)),
        (b"9" * (MAX_INTEGER_CHARS + 1), None),
        (RAW["@digits"], None),
        (b"1e400", None),
        (b"NaN", None),
        (b"-Infinity", None),
        (b"1.5", 1.5),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_numbers_beyond_any_use_are_null(text: bytes, value: object) -> None:
    assert read_foreign_json(b'{"a":%s,"b":1}' % text, LIMIT) == {"a": value, "b": 1}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 5000, b"[1]" * 2, b'{"a":' * 5000, b'"\xff"', b"[" * 20 + b"}" * 20, b'["' + b"[" * 100],
    ids=lambda body: repr(body)[:20],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_foreign_json(body, LIMIT)


def test_a_text_of_brackets_takes_no_long_time() -> None:
    levels = MAX_BRACKETS // 2
    began = time.process_time()
    assert read_foreign_json(b"[" * levels + b"]" * levels, LIMIT) == nested_lists(LIMIT)
    with pytest.raises(ValueError, match="too much"):
        read_foreign_json(b"[" * levels * 8 + b"]" * levels * 8, LIMIT)
    assert time.process_time() - began < 5.0


def nested_lists(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "found"),
    [({"a": {"b": [1]}}, [1]), ({"a": {"b": {"c": 1}}}, {"c": 1}), ({"a": {}}, None), ({"a": [1]}, None), ("a", None)],
)
def test_what_stands_in_objects_is_found_and_nothing_else(value: object, found: object) -> None:
    assert inside(value, "a", "b") == found
    assert list_inside(value, "a", "b") == (found if isinstance(found, list) else [])
    assert object_inside(value, "a", "b") == (found if isinstance(found, dict) else {})
    assert inside(value) == value
