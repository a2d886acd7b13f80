"""Canonical JSON: the examples of the specification, and what has no canonical form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.crypto.canonical_json import MAX_DEPTH, canonical_json
from mxrtc_bridge.core.errors import EventError

# Plain text of any script; lone surrogates are no text in canonical JSON.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTEGER = st.integers(-(2**53) + 1, 2**53 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # The examples of the specification (appendices, "Canonical JSON").
        ({}, "{}"),
        ({"one": 1, "two": "Two"}, '{"one":1,"two":"Two"}'),
        ({"b": "2", "a": "1"}, '{"a":"1","b":"2"}'),
        ({"a": "日本語"}, '{"a":"日本語"}'),
        ({"本": 2, "日": 1}, '{"日":1,"本":2}'),
        ({"a": "\u65e5"}, '{"a":"日"}'),
        ({"a": None}, '{"a":null}'),
    ],
)
def test_canonical_json_has_the_form_of_the_specification(value: dict[str, Any], text: str) -> None:
    assert canonical_json(value) == text.encode()


@given(OBJECT)
def test_canonical_json_is_json_of_the_same_value_whatever_the_order(value: dict[str, Any]) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(dict(reversed(value.items()))) == text


@pytest.mark.parametrize("leaf", [1.5, float("nan"), 2**53, -(2**53), "\ud800", {1: 2}, b"x", {"\ud800": 1}])
def test_what_is_not_canonical_is_refused(leaf: object) -> None:
    with pytest.raises(EventError):
        canonical_json({"a": [leaf]})


def test_depth_is_limited() -> None:
    value: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        value = {"a": value}
    canonical_json(value)
    with pytest.raises(EventError, match="deeper"):
        canonical_json({"a": value})
