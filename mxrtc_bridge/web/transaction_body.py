"""The body of a transaction: bytes to events, with nothing in one event able to spoil the others.

A body that is no transaction at all is refused. But a homeserver repeats what is refused for ever, so an event that is
merely odd never makes the whole be refused. Nor is an odd event left out, as it may be the news that a right has ended:
only the *value* in it that is nested too deeply becomes null before the parser sees it (a server passes on what its
users nest, and puts the content from before one level deeper), numbers beyond any use become null as well, and judging
the rest is the inbox's part.

Pure and synchronous: may run in a thread.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.device_news import DeviceNews
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import UserId, parse_user_id
from mxrtc_bridge.core.revocations import AmbiguousObject

MAX_EVENTS = 1000
"""Events of one transaction. Synapse sends at most 100, and no server is known that sends more."""
MAX_NEWS = 10_000
"""Messages to devices, or changes of them, in one transaction. Synapse sends at most 100 messages."""
MAX_DEPTH = 32
"""Levels of one event, itself included; what is deeper becomes null. Standard content has fewer than ten."""
_AROUND = 2
"""Levels around an event: the transaction object and its list."""
MAX_SCANNED_DEPTH = 40_000
"""Levels that no event of 64 KiB can have; a body with more is left to the parser, which refuses it."""
MAX_INTEGER_CHARS = 20
"""Enough for every 64-bit integer; Python refuses to convert more than 4300 digits, which would spoil the whole."""

# Strings are matched whole, so that brackets inside them do not count. An unterminated one reaches to the end:
# otherwise the search would begin again inside it, and take quadratic time.
_STRING = rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_STRUCTURE = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NOT_STRUCTURE = re.compile(_STRING + rb"|[^\[\]{}\"]++", re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """What was sent is not taken.

    Attributes:
        status: the HTTP status to answer with.
        errcode: the Matrix error code.
    """

    def __init__(self, status: int, errcode: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.errcode = errcode


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was sent."""

    events: list[object] = field(repr=False)
    """The entries of ``events``, whatever they are."""
    news: DeviceNews


def read_transaction(body: bytes) -> Transaction:
    """Read the whole transaction.

    Raises:
        Refusal: it is not JSON, not an object with a list ``events``, or the list is too long.
    """
    try:
        text = cut_deep_values(body).decode("utf-8")
        transaction = json.loads(
            text,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=_parse_constant,
            object_pairs_hook=_parse_object,
        )
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "M_NOT_JSON", "the body is not JSON in UTF-8") from error
    if not isinstance(transaction, dict):
        raise Refusal(400, "M_BAD_JSON", f"the body must be an object, not {_kind(transaction)}")
    events = transaction.get("events")
    if not isinstance(events, list):
        raise Refusal(400, "M_BAD_JSON", f"events must be a list, not {_kind(events)}")
    if len(events) > MAX_EVENTS:
        raise Refusal(413, "M_TOO_LARGE", f"the transaction has {len(events)} events; the limit is {MAX_EVENTS}")
    return Transaction(events, _read_news(transaction, empty=not events))


def _read_news(transaction: dict[str, Any], *, empty: bool) -> DeviceNews:
    """Read who has messages, and whose devices have changed; what is odd makes it incomplete and never fails."""
    messages = _first(transaction, "to_device", "de.sorunome.msc2409.to_device")
    lists = _first(transaction, "device_lists", "org.matrix.msc3202.device_lists")
    changed = lists.get("changed") if isinstance(lists, dict) else lists
    waiting, odd = _users([each.get("to_user_id") if isinstance(each, dict) else None for each in _list(messages)])
    whose, odder = _users(_list(changed))
    # A homeserver that sends a transaction again may have kept its events only: then nothing may be left of it.
    nothing = (
        empty and not waiting and not whose and not _first(transaction, "ephemeral", "de.sorunome.msc2409.ephemeral")
    )
    return DeviceNews(waiting, whose, odd or odder or nothing)


def _first(transaction: dict[str, Any], *names: str) -> Any:
    return next((transaction[name] for name in names if name in transaction), None)


def _list(value: object) -> list[Any]:
    # Not a list, or one too many: an entry that is no user says that something is missing.
    if value is None:
        return []
    return value if isinstance(value, list) and len(value) <= MAX_NEWS else [None]


def _users(names: list[Any]) -> tuple[frozenset[UserId], bool]:
    found, odd = set(), False
    for name in names:
        try:
            found.add(parse_user_id(name))
        except EventError:
            odd = True
    return frozenset(found), odd


def cut_deep_values(body: bytes) -> bytes:
    """Put null in the place of each list and object that is nested too deeply, and leave all around it as it is.

    A body that is not JSON outside of these comes out as another one that is not JSON.
    """
    limit = MAX_DEPTH + _AROUND
    if _is_shallow(body, limit):
        return body
    pieces: list[bytes] = []
    depth = taken = 0
    for match in _STRUCTURE.finditer(body):
        mark = body[match.start()]
        if mark in b"[{":
            depth += 1
            if depth > MAX_SCANNED_DEPTH:
                return body
            if depth == limit + 1:
                pieces += [body[taken : match.start()], b"null"]
        elif mark in b"]}":
            if depth == limit + 1:
                taken = match.end()
            depth -= 1
    if depth > limit:
        return body
    return b"".join([*pieces, body[taken:]])


def _is_shallow(body: bytes, limit: int) -> bool:
    """Whether no value is nested deeper than ``limit``; exact for JSON, and fast because no loop here is in Python."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return True
    brackets = _NOT_STRUCTURE.sub(b"", body).translate(_SQUARE)
    for _ in range(limit):
        # Takes the innermost level away, and no more than that: what becomes adjacent is not looked at again.
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return True
    return False


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else AmbiguousObject(found)


def _parse_int(text: str) -> int | None:
    return int(text) if len(text) <= MAX_INTEGER_CHARS else None


def _parse_float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _parse_constant(_: str) -> None:
    """NaN and the infinities, which are not JSON but which some writers emit."""


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
