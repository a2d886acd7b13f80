"""The body of a transaction: bytes to events, with nothing in one event able to spoil the others.

A body that is no transaction at all is refused. But a homeserver repeats what is refused for ever, so an event that is
merely odd never makes the whole be refused. Nor is an odd event left out, as it may be the news that a right has ended:
only the *value* in it that is nested too deeply becomes null before the parser sees it (a server passes on what its
users nest, and puts the content from before one level deeper), numbers beyond any use become null as well, and judging
the rest is the inbox's part.

Pure and synchronous: may run in a thread. There nothing holds the interpreter for long, whatever the body is: it is
gone through in slices, and each entry of its lists is parsed by itself. The longest hold is that of one slice, or of
one event, which homeservers keep below 64 KiB. And nothing stays in memory that only costs: what is beyond
:data:`MAX_CONTAINERS` in one event becomes null too, those nearest to its root last.
"""

from __future__ import annotations

import gc
import json
import re
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import Any

from mxrtc_bridge.core.access.revocations import AmbiguousObject
from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import UserId, parse_user_id
from mxrtc_bridge.core.text.foreign_json import read_fraction, read_integer

MAX_EVENTS = 1000
"""Events of one transaction. Synapse sends at most 100, and no server is known that sends more."""
MAX_NEWS = 10_000
"""Messages to devices, or changes of them, in one transaction. Synapse sends at most 100 messages."""
MAX_DEPTH = 32
"""Levels of one event, itself included; what is deeper becomes null. Standard content has fewer than ten."""
LEVELS_AROUND = 2
"""Levels around an event: the transaction object and its list."""
MAX_CONTAINERS = 4000
"""Lists and objects of one entry. The garbage collector goes through all that are kept, and 64 KiB can hold 32,000."""
MAX_SCANNED_DEPTH = 40_000
"""Levels that no event of 64 KiB can have; a body with more is left to the parser, which refuses it."""

SLICE_BYTES = 64 * 1024
"""What one call of a regular expression may see: as long as it takes, no other thread runs."""

# Strings are matched whole, so that brackets inside them do not count.
_INSIDE = rb'(?:[^"\\]++|\\.)*+'
_STRING = rb'"' + _INSIDE + rb'"'
_REST_OF_STRING = re.compile(_INSIDE, re.DOTALL)
_WHOLE_TOKENS = re.compile(rb'(?:[^"]++|' + _STRING + rb")*+", re.DOTALL)
_NOT_STRUCTURE = re.compile(_STRING + rb"|[^\[\]{}\"]++", re.DOTALL)
_TOKEN = re.compile(_STRING + rb"|[^\[\]{}\"]++|[\[\]{}]", re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets to signed bytes: a level more, or one less."""
_STEP_OF = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_SPACE = re.compile(r"[ \t\n\r]*+")


class TransactionRefused(Exception):  # noqa: N818 - an answer, not a failure
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
    news: DeviceListChanges


def read_transaction(body: bytes, *, max_containers: int = MAX_CONTAINERS) -> Transaction:
    """Read the whole transaction.

    Raises:
        TransactionRefused: it is not JSON, not an object with a list ``events``, or the list is too long.
    """
    try:
        text = cut_deep_values(body).decode("utf-8")
        with _no_collection():
            transaction = parse_by_entries(text, max_containers)
    except (ValueError, RecursionError) as error:
        raise TransactionRefused(400, "M_NOT_JSON", "the body is not JSON in UTF-8") from error
    if not isinstance(transaction, dict):
        raise TransactionRefused(400, "M_BAD_JSON", f"the body must be an object, not {_kind(transaction)}")
    events = transaction.get("events")
    if not isinstance(events, list):
        raise TransactionRefused(400, "M_BAD_JSON", f"events must be a list, not {_kind(events)}")
    if len(events) > MAX_EVENTS:
        raise TransactionRefused(
            413, "M_TOO_LARGE", f"the transaction has {len(events)} events; the limit is {MAX_EVENTS}"
        )
    return Transaction(events, _read_news(transaction, empty=not events))


def _read_news(transaction: dict[str, Any], *, empty: bool) -> DeviceListChanges:
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
    return DeviceListChanges(waiting, whose, odd or odder or nothing)


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


def cut_deep_values(body: bytes, *, max_depth: int = MAX_DEPTH, slice_bytes: int = SLICE_BYTES) -> bytes:
    """Put null in the place of each list and object that is nested too deeply, and leave all around it as it is.

    A body that is not JSON outside of these comes out as another one that is not JSON.
    """
    limit = max_depth + LEVELS_AROUND
    pieces: list[bytes] = []
    depth, deepest = 0, 0
    for piece, is_text in slices(body, slice_bytes):
        if is_text:
            if depth <= limit:
                pieces.append(piece)
            continue
        steps = array("b", _NOT_STRUCTURE.sub(b"", piece).translate(_STEPS))
        depths = [*accumulate(steps, initial=depth)]
        deepest = max(deepest, highest := max(depths))
        if highest > MAX_SCANNED_DEPTH:
            return body
        if highest <= limit:
            pieces.append(piece)
        elif min(depths) <= limit:
            pieces += _without_deep_values(piece, depth, limit)
        depth = depths[-1]
    return body if deepest <= limit or depth > limit else b"".join(pieces)


def slices(body: bytes, slice_bytes: int = SLICE_BYTES) -> Iterator[tuple[bytes, bool]]:
    """Cut the body where no string is cut, but for those that are longer than a slice.

    Yields:
        pieces of at most ``slice_bytes``, and whether each is a part of such a string.
    """
    at, in_string = 0, False
    while at < len(body):
        stop = min(at + slice_bytes, len(body))
        if in_string:
            end = _end(_REST_OF_STRING, body, at, stop)
            if body[end : end + 1] == b'"' and end < stop:
                end, in_string = end + 1, False
            elif end == at:
                end = stop
            yield body[at:end], True
        else:
            end = _end(_WHOLE_TOKENS, body, at, stop)
            if end == at:
                end, in_string = at + 1, True
            yield body[at:end], in_string
        at = end


def _end(pattern: re.Pattern[bytes], body: bytes, at: int, stop: int) -> int:
    """Where the match of a pattern ends that always matches."""
    match = pattern.match(body, at, stop)
    assert match is not None
    return match.end()


def _without_deep_values(piece: bytes, depth: int, limit: int) -> list[bytes]:
    tokens = _TOKEN.findall(piece)
    depths = [*accumulate(map(_STEP_OF.get, tokens, repeat(0)), initial=depth)]
    return [
        token if after <= limit else b"null"
        for token, before, after in zip(tokens, depths, depths[1:], strict=False)
        if before <= limit
    ]


def parse_by_entries(text: str, max_containers: int = MAX_CONTAINERS) -> object:
    """What :func:`json.loads` returns, but parsed entry by entry: it holds the interpreter as long as it runs.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        value, at = _scan(text, at)
        return _ended(text, at, value)
    pairs: list[tuple[str, Any]] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return _ended(text, at + 1, {})
    while True:
        if text[at : at + 1] != '"':
            raise ValueError("a key must be a string")
        key, at = _scan(text, at)
        at = _skip(text, _expect(text, at, ":"))
        value, at = _scan_list(text, at, max_containers) if text[at : at + 1] == "[" else _scan(text, at)
        pairs.append((key, value))
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            return _ended(text, at + 1, _parse_object(pairs))
        at = _skip(text, _expect(text, at, ","))


_uncollected = 0
_uncollected_lock = threading.Lock()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector still: what is parsed has no cycles, and its passes would hold the interpreter."""
    global _uncollected  # noqa: PLW0603 - the collector is one for the whole process
    with _uncollected_lock:
        _uncollected += 1
        if _uncollected == 1:
            gc.disable()
    try:
        yield
    finally:
        with _uncollected_lock:
            _uncollected -= 1
            if not _uncollected:
                gc.enable()


def _scan_list(text: str, at: int, max_containers: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return values, at + 1
    while True:
        began = at
        value, at = _scan(text, at)
        if text.count("[", began, at) + text.count("{", began, at) > max_containers:
            _prune(value, max_containers)
        values.append(value)
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return values, at + 1
        at = _skip(text, _expect(text, at, ","))


def _prune(root: object, max_containers: int) -> None:
    """Put null in the place of all containers beyond the limit; those nearest to the root are kept."""
    kept: list[Any] = [root] if isinstance(root, list | dict) else []
    for container in kept:  # grows while it is gone through
        for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(value, list | dict):
                if len(kept) < max_containers:
                    kept.append(value)
                else:
                    container[key] = None


def _scan(text: str, at: int) -> tuple[Any, int]:
    return DECODER.raw_decode(text, at)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _expect(text: str, at: int, what: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != what:
        raise ValueError(f"{what} is missing")
    return at + 1


def _ended(text: str, at: int, value: object) -> object:
    if _skip(text, at) != len(text):
        raise ValueError("something comes after the value")
    return value


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else AmbiguousObject(found)


def _parse_constant(_: str) -> None:
    """NaN and the infinities, which are not JSON but which some writers emit."""


DECODER = json.JSONDecoder(
    parse_int=read_integer,
    parse_float=read_fraction,
    parse_constant=_parse_constant,
    object_pairs_hook=_parse_object,
)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
