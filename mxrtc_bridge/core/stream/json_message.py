"""Control messages as JSON: text to frozen values within their limits, and back, by a table of the protocol.

docs/reference/protocol.md section 2 is the specification. The tables are in
:mod:`mxrtc_bridge.core.stream.messages` and :mod:`mxrtc_bridge.core.files.messages`. Nothing is repaired here; what
does not fit raises :class:`WireError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Generic, NoReturn, TypeVar

from mxrtc_bridge.core.errors import WireError

MAX_CONTROL_BYTES = 4 * 1024
MAX_COUNT = 2**53 - 1
"""The greatest integer that every JSON reader keeps exact (RFC 8259 section 6)."""
MAX_TEXT_CHARS = 500
MAX_DEPTH = 8

CODE = re.compile(r"[a-z][a-z0-9_-]{0,31}")

Fields = dict[str, object]


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
        value: object = _DECODER.decode(text)
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


# Made once: the functions of the module make new ones for each text.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


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


@dataclass(frozen=True, slots=True)
class Field:
    """How one attribute of a message is read and written."""

    read: Callable[[Fields], Any]
    """Returns the checked value; raises WireError."""
    write: Callable[[Any], Fields]
    """Returns what stands for the value."""


def count(key: str, low: int = 0, high: int = MAX_COUNT) -> Field:
    """A required whole number."""
    return Field(lambda fields: read_count(fields, key, low, high), lambda value: {key: value})


def text(key: str) -> Field:
    """A required sentence for people, cut to what may be sent."""
    return Field(lambda fields: read_text(fields, key), lambda value: {key: sendable(value)})


def matching(key: str, pattern: re.Pattern[str]) -> Field:
    """A required text that has the form of ``pattern``."""
    return Field(lambda fields: read_matching(fields, key, pattern), lambda value: {key: value})


def code(key: str, known: type[Enum], other: Enum) -> Field:
    """A required code; one that we do not know counts as ``other``."""
    codes = {member.value: member for member in known}
    return Field(lambda fields: codes.get(read_matching(fields, key, CODE), other), lambda member: {key: member.value})


M = TypeVar("M")


class MessageFormat(Generic[M]):
    """The control messages of one protocol.

    Args:
        protocol: its name, for errors.
        table: by the word of each message its class, and the fields of its attributes in their order.
    """

    def __init__(self, protocol: str, table: Mapping[str, tuple[type[Any], *tuple[Field, ...]]]) -> None:
        self._protocol = protocol
        self._table = {word: (kind, [field.read for field in row]) for word, (kind, *row) in table.items()}
        self._words = {
            kind: (
                word,
                tuple((attribute.name, field.write) for attribute, field in zip(fields(kind), row, strict=True)),
            )
            for word, (kind, *row) in table.items()
        }

    def decode(self, text: str) -> M | None:
        """Read a control message.

        Returns:
            the message, or None if it is a trial (``x-``) that must be ignored.

        Raises:
            WireError: with the code ``too_long``, ``not_json``, ``bad_field`` or ``unknown_message``.
        """
        values = read_object(text)
        word = read_text(values, "t", MAX_CONTROL_BYTES)
        if word in self._table:
            kind, row = self._table[word]
            message: M = kind(*[read(values) for read in row])
            return message
        if word.startswith("x-"):
            return None
        raise WireError("unknown_message", f"{word[:40]!a} is no message of {self._protocol}")

    def encode(self, message: M) -> str:
        """Write a control message; text for people is cut to 500 characters.

        Raises:
            WireError: ``too_long`` or ``bad_field``: a path or pattern that cannot be sent. No other message can fail.
        """
        word, row = self._words[type(message)]
        values: Fields = {"t": word}
        for name, write in row:
            values |= write(getattr(message, name))
        text = _ENCODER.encode(values)
        # A character has four bytes at most.
        if len(text) > MAX_CONTROL_BYTES // 4 and len(text.encode()) > MAX_CONTROL_BYTES:
            raise WireError("too_long", f"a control message may have {MAX_CONTROL_BYTES} bytes")
        return text
