"""The fields of a control message: text to a checked JSON object, and each of its fields to a value within its limits.

docs/reference/protocol.md section 2 is the specification. What the messages are is decided by the language of the
channel: :mod:`mxrtc_bridge.core.stream.messages` and :mod:`mxrtc_bridge.core.files.messages`. Nothing is repaired here;
what does not fit raises :class:`WireError`.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from mxrtc_bridge.core.errors import WireError

MAX_CONTROL_BYTES = 4 * 1024
MAX_COUNT = 2**53 - 1
"""The greatest integer that every JSON reader keeps exact (RFC 8259 section 6)."""
MAX_TEXT_CHARS = 500
MAX_DEPTH = 8

CODE = re.compile(r"[a-z][a-z0-9_-]{0,31}")

Fields = dict[str, object]


def write_object(fields: Fields) -> str:
    """Write a control message."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def sendable(text: str) -> str:
    """Cut a sentence for people to what may be sent."""
    # Half a surrogate pair (from a file name, say) has no UTF-8; it must not break the channel on its way out.
    return text[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode()


def refuse(field: str, value: object, allowed: str) -> NoReturn:
    """Raise the error for a field that does not fit."""
    shown = f"{value!a}"
    raise WireError("bad_field", f"{field} is {shown[:60]}; it must be {allowed}")


def read_object(text: str) -> Fields:
    """Read a message as an object.

    Raises:
        WireError: with the code ``too_long`` or ``not_json``.
    """
    # Characters first: a text of many megabytes must not be encoded only to learn that it is too long.
    if len(text) > MAX_CONTROL_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_CONTROL_BYTES:
        raise WireError("too_long", f"a control message may have {MAX_CONTROL_BYTES} bytes")
    if _depth(text) > MAX_DEPTH:
        raise WireError("not_json", f"a control message may nest {MAX_DEPTH} levels deep")
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ValueError as error:
        raise WireError("not_json", "a control message must be one JSON object") from error
    if not isinstance(value, dict):
        raise WireError("not_json", f"a control message must be a JSON object, not {type(value).__name__}")
    return value


def _depth(text: str) -> int:
    """The deepest nesting, before the parser recurses into it; strings may hold any bracket."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return 0
    deepest = depth = 0
    for structural in _STRUCTURE.finditer(text):
        character = structural[0]
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


# A string that never ends is taken as a whole: trying again at each of its quotes would take quadratic time.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\]]', re.DOTALL)


def _unique(pairs: list[tuple[str, object]]) -> Fields:
    # Two readers may take different ones of two equal keys; what they disagree about must not be accepted.
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise WireError("not_json", "a control message may not name a key twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise WireError("not_json", f"{name} is no JSON")


def read_count(fields: Fields, key: str, low: int = 0, high: int = MAX_COUNT) -> int:
    """Return a required whole number."""
    value = fields.get(key)
    if type(value) is not int or not low <= value <= high:
        refuse(key, value, f"a whole number from {low} to {high}")
    return value


def read_text(fields: Fields, key: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Return a required text of at most ``limit`` characters."""
    value = fields.get(key)
    if not isinstance(value, str) or len(value) > limit:
        refuse(key, value, f"text of at most {limit} characters")
    return value


def read_matching(fields: Fields, key: str, pattern: re.Pattern[str]) -> str:
    """Return a required text that has the form of ``pattern``."""
    value = fields.get(key)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        refuse(key, value, f"text of the form {pattern.pattern}")
    return value


def read_items(fields: Fields, key: str, limit: int) -> list[object]:
    """Return a required list of at most ``limit``."""
    value = fields.get(key)
    if not isinstance(value, list) or len(value) > limit:
        refuse(key, value, f"a list of at most {limit}")
    return value
