"""JSON that strangers have a hand in: one value in it that nobody could use must not make the rest unreadable.

A homeserver passes on what its users and other servers write: content and keys nested hundreds of levels deep, numbers
of any length. A parser gives up on the whole, and with it what the answer says about everybody else is lost: that a
device is gone, who was invited, what a policy list says. So the *value* that is nested too deeply becomes null before
the parser sees it, and so does a number beyond any use.

Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MAX_INTEGER_CHARS = 20
"""Enough for every 64-bit integer; Python refuses to convert more than 4300 digits, which would spoil the whole."""
MAX_BRACKETS = 1_000_000
"""In a text that is nested too deeply: finding what is to be cut out takes some hundred milliseconds then."""

# Strings are matched whole, so that brackets inside them do not count. An unterminated one reaches to the end:
# otherwise the search would begin again inside it, and take quadratic time.
_STRING = rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_STRUCTURE = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NOT_STRUCTURE = re.compile(_STRING + rb"|[^\[\]{}\"]++", re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")


class TooDeepError(ValueError):
    """So much of it is nested too deeply that none of it is read: nobody writes that by accident."""


def read_foreign_json(body: bytes, max_depth: int) -> object:
    """Read JSON in UTF-8; what is nested deeper than ``max_depth`` is null, and so are numbers that are none.

    Raises:
        ValueError: it is not JSON.
        TooDeepError: too much of it is nested too deeply.
    """
    try:
        value: object = json.loads(
            _cut(body, max_depth).decode("utf-8"),
            parse_int=read_integer,
            parse_float=read_fraction,
            parse_constant=lambda _: None,
        )
    except RecursionError as error:
        raise TooDeepError("it is nested too deeply") from error
    return value


def inside(value: object, *keys: str) -> Any:
    """What stands under ``keys``, each in the object under the one before; None where there is no such thing."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def object_inside(value: object, *keys: str) -> Mapping[str, Any]:
    """As :func:`inside`, where only an object is of use; an empty one where there is none."""
    found = inside(value, *keys)
    return found if isinstance(found, Mapping) else {}


def list_inside(value: object, *keys: str) -> list[Any]:
    """As :func:`inside`, where only a list is of use; an empty one where there is none."""
    found = inside(value, *keys)
    return found if isinstance(found, list) else []


def _cut(body: bytes, limit: int) -> bytes:
    """Put null in the place of each list and object that is nested too deeply, and leave all around it as it is.

    A body that is not JSON outside of these comes out as another one that is not JSON.
    """
    brackets = _NOT_STRUCTURE.sub(b"", body).translate(_SQUARE) if _count(body) > limit else b""
    if _is_shallow(brackets, limit):
        return body
    if len(brackets) > MAX_BRACKETS:
        raise TooDeepError("too much of it is nested too deeply")
    pieces: list[bytes] = []
    depth = taken = 0
    for match in _STRUCTURE.finditer(body):
        mark = body[match.start()]
        if mark in b"[{":
            depth += 1
            if depth == limit + 1:
                pieces += [body[taken : match.start()], b"null"]
        elif mark in b"]}":
            if depth == limit + 1:
                taken = match.end()
            depth -= 1
    if depth > limit:
        raise ValueError("it ends before what it has begun")
    return b"".join([*pieces, body[taken:]])


def _count(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _is_shallow(brackets: bytes, limit: int) -> bool:
    """Whether no value is nested deeper than ``limit``; exact for JSON, and fast because no loop here is in Python."""
    for _ in range(limit):
        if not brackets:
            return True
        # Takes the innermost level away, and no more than that: what becomes adjacent is not looked at again.
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def read_integer(text: str) -> int | None:
    """Read a whole number; None for one that is too long to be of any use."""
    return int(text) if len(text) <= MAX_INTEGER_CHARS else None


def read_fraction(text: str) -> float | None:
    """Read a number with a fraction or an exponent; None for one that is beyond what can be held."""
    value = float(text)
    return value if math.isfinite(value) else None
