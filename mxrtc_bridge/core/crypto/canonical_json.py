"""Canonical JSON: the one form of an object that is signed and hashed (appendices of the specification)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mxrtc_bridge.core.errors import EventError, RefusalCode

MAX_DEPTH = 16
_MAX_INTEGER = 2**53 - 1


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Return the one form of ``value`` that is signed.

    Raises:
        EventError: it holds what canonical JSON cannot: fractions, huge numbers, lone surrogates, or too deep a tree.
    """
    _check(value, 0)
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise EventError(RefusalCode.BAD_JSON, "this is not canonical JSON") from error


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise EventError(RefusalCode.BAD_JSON, f"canonical JSON deeper than {MAX_DEPTH} is not signed here")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise EventError(RefusalCode.BAD_JSON, "a key of canonical JSON is not text")
        items = list(value.values())
    elif isinstance(value, list | tuple):
        items = list(value)
    else:
        _check_leaf(value)
        return
    for item in items:
        _check(item, depth + 1)


def _check_leaf(value: object) -> None:
    if value is not None and not isinstance(value, str | int):
        raise EventError(RefusalCode.BAD_JSON, f"canonical JSON holds no {type(value).__name__}")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise EventError(RefusalCode.BAD_JSON, "a number is beyond the range of canonical JSON")
