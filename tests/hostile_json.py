"""Strategies for what homeservers let through: content of any depth, any numbers, any characters."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

ROOM = "!room:example.org"
ALICE = "@alice:example.org"

TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\0\u202e\ufeff\U0010ffff"), max_size=12)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.sampled_from([-1, 0, 2**53, -(2**53), 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(["\ud800", "join", "leave", "m.room.member", ALICE, ROOM])
)


def _deep(value: Any, levels: int) -> Any:
    for number in range(levels):
        value = [value] if number % 2 else {"a": value}
    return value


def deep(levels: int) -> Any:
    """A value of so many levels."""
    value: Any = {}
    for _ in range(levels - 1):
        value = [value]
    return value


JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
) | st.builds(_deep, SCALAR, st.sampled_from([1, 28, 29, 30, 31, 32, 33, 100, 500]))


def fields(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects in which some of the fields that matter hold anything, and others that nobody knows stand beside."""
    return st.dictionaries(st.sampled_from(names) | TEXT, JSON, max_size=6)


def beside(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Fields that nobody knows, to stand beside those that are named."""
    return st.dictionaries(TEXT.filter(lambda key: key not in names), JSON, max_size=4)


RAW = {"@deep": b"[" * 5000 + b"]" * 5000, "@wide": b'{"a":' * 990 + b"1" + b"}" * 990, "@digits": b"-" + b"9" * 5000}
"""What cannot be written by ``json.dumps``, or not read by ``json.loads``, by the text that stands for it."""
FOREIGN = JSON | st.sampled_from(sorted(RAW)) | st.builds(lambda raw: {"x": [raw]}, st.sampled_from(sorted(RAW)))
"""What a homeserver could answer with; to be written by :func:`to_body`."""


def to_body(value: object) -> bytes:
    """JSON in which what stands for something of :data:`RAW` is that."""
    body = json.dumps(value).encode()
    for name, raw in RAW.items():
        body = body.replace(json.dumps(name).encode(), raw)
    return body
