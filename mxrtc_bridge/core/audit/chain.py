"""The audit: who was let in to what and by which rule, as a chain of lines that nobody changes unseen.

A line is one JSON object, ASCII, with sorted keys and no spaces. It has a number (``n``), one more than that of the
line before, and the SHA-256 of the line before (``prev``, without the line's end; 64 zeros before the first). So a
line that is changed, taken out, put in or moved breaks the chain at the line behind it. What no chain can show by
itself is a change of its last line, or its absence: for that, :class:`Head` of the chain is kept elsewhere as well.

Everybody can compute a hash, so a line of format 2 also ends with ``mac``: the HMAC-SHA256 (RFC 2104), with a key that
only the bridge has, of the line as it is without it. Lines of format 1 have no ``mac``; they are what earlier versions
have written, and the first line of format 2 vouches for them by its ``prev``.

What a record can hold is bounded and listed in :class:`AuditRecord`; there is no field for addresses, contents or
secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import UserId, folded, host_of
from mxrtc_bridge.core.text.display import display

MAX_LINE_BYTES = 16384
MAX_REASON = 300
"""Columns of a reason, which people may have written."""
KEY_BYTES = 32
FORMAT = 2
_ZERO = "0" * 64
_MAC = re.compile(r',"mac":"([0-9a-f]{64})"}')
_MAC_CHARS = len(',"mac":""}') + 64
_NUMBER = re.compile(rb'[{,]"n":(\d{1,16})[,}]')
_PREVIOUS = re.compile(rb'[{,]"prev":"([0-9a-f]{64})"[,}]')


class AuditKind(Enum):
    """What has happened."""

    START = "start"
    """The bridge begins to take calls. Sessions of the run before have ended."""
    STOP = "stop"
    CALL = "call"
    """A call was decided: may the user reach the peer at all."""
    SERVICE = "service"
    """The use of a service was decided: a stream or a transfer of files."""
    END = "end"
    """A session has ended."""
    REQUEST = "request"
    """Somebody asks for access, or takes that back."""
    ANSWER = "answer"
    """An admin has answered a request."""
    GRANT = "grant"
    """A grant was given."""
    GRANT_END = "grant_end"
    """A given grant was revoked, has been used up or has ended by itself."""
    KICK = "kick"
    PAUSE = "pause"
    RESUME = "resume"
    RELOAD = "reload"
    VERIFY = "verify"
    """An admin has compared what a user's device and a peer's show."""
    TAKE_OVER = "take_over"
    """An account, or the place of an identity, was taken over for a user of the bridge."""
    REMOVED = "removed"
    """The bridge is about to remove its oldest file, which ends with the line ``line``."""


class Retention(Enum):
    """By whom room is taken that a record needs, so that nobody's records push out those of others."""

    ACT = "act"
    """What admins and the bridge do."""
    LET_IN = "let in"
    """What users do who have a right: theirs has a share for each user."""
    TURNED_AWAY = "turned away"
    """What users try who have none, who can be as many as they like: theirs has a share for each server."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One thing that has happened; what does not apply is None."""

    kind: AuditKind
    at_ms: int
    """Wall-clock milliseconds since 1970."""
    user: str | None = None
    """Whom it is about: the caller, or the subject of a grant."""
    peer: str | None = None
    service: str | None = None
    allowed: bool | None = None
    rule: str | None = None
    """By which rule it was decided."""
    by: str | None = None
    """Who did it, if not the user."""
    device: str | None = None
    """The device that has called, with how far it is trusted; None where only the homeserver vouches for the user."""
    session: int | None = None
    """Number of the session, since the last start."""
    grant: int | None = None
    request: int | None = None
    until_ms: int | None = None
    """When a grant ends."""
    path: str | None = None
    """Kind of the path, direct or relayed; never an address."""
    lasted_ms: int | None = None
    """How long the session was connected."""
    sent: int | None = None
    """Payload bytes to the user."""
    received: int | None = None
    reason: str | None = None
    count: int | None = None
    """How many times it has happened, where one record stands for many."""
    line: int | None = None
    """The last line that is missing on purpose: the bridge has removed it and all before it."""


def retention(record: AuditRecord) -> tuple[Retention, str]:
    """Whose share a record counts against: the kind, and a user or a server."""
    user = record.user or ""
    by_user = record.by is None or record.by == record.user
    if record.kind in (AuditKind.REQUEST, AuditKind.ANSWER) and by_user:
        return Retention.TURNED_AWAY, server_name(user)
    if record.kind in (AuditKind.CALL, AuditKind.SERVICE) and not record.allowed:
        return Retention.TURNED_AWAY, server_name(user)
    if record.kind in (AuditKind.CALL, AuditKind.SERVICE, AuditKind.END) and user:
        return Retention.LET_IN, user
    return Retention.ACT, ""


def found_as(user: str | None) -> str | None:
    """What records about a user are found by: the id with its server in lower case; other subjects as they are."""
    return folded(UserId(user)) if user is not None and user.startswith("@") else user


def server_name(user: str) -> str:
    """The server of a user id as it stands in a record, without what its owner can choose anew: its port."""
    return host_of(user.partition(":")[2])


_FIELDS = tuple(each.name for each in fields(AuditRecord))
_ENCODE = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode
_TEXTS = {"user", "peer", "service", "rule", "by", "path", "reason", "device"}
_NUMBERS = {"at_ms", "session", "grant", "request", "until_ms", "lasted_ms", "sent", "received", "count", "line"}
MAX_NUMBER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain."""

    number: int
    digest: str
    """SHA-256 of the line, in hexadecimal."""


NO_LINES = Head(0, _ZERO)


@dataclass(frozen=True, slots=True)
class ChainLink:
    """What a line says of its place in the chain, without the rest of it being read."""

    number: int
    """0 where it says none."""
    digest: str
    previous: str


class ChainError(MxrtcError):
    """A line is not what the chain says it must be."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A line of the chain."""

    line: str
    """As it stands in the file, without its end."""
    head: Head
    previous: str
    record: AuditRecord
    keyed: bool = False
    """Whether it has a ``mac``; whether that is right, :func:`is_authentic` says."""


def entry_after(head: Head, record: AuditRecord, key: bytes | None = None) -> AuditEntry:
    """Write a record as the line behind ``head``, in format 2; without a key in format 1, as a test's stand-in."""
    content: dict[str, Any] = {"n": head.number + 1, "prev": head.digest}
    if key is not None:
        content["v"] = FORMAT
    for name in _FIELDS:
        value = getattr(record, name)
        if value is not None:
            content[name] = _bounded(value)
    line = _ENCODE(content)
    if key is not None:
        line = f'{line[:-1]},"mac":"{_mac(key, line)}"}}'
    return AuditEntry(line, Head(head.number + 1, digest_of(line.encode())), head.digest, record, key is not None)


def is_authentic(entry: AuditEntry, key: bytes) -> bool:
    """Whether somebody who has the key has written this line."""
    found = _MAC.fullmatch(entry.line, max(0, len(entry.line) - _MAC_CHARS))
    return found is not None and hmac.compare_digest(found[1], _mac(key, f"{entry.line[: found.start()]}}}"))


def _mac(key: bytes, line: str) -> str:
    return hmac.digest(key, line.encode(), "sha256").hex()


def digest_of(line: bytes) -> str:
    """SHA-256 of a line without its end, in hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def number_of(line: bytes) -> int | None:
    """The number that a line says it has, without reading the rest of it."""
    found = _NUMBER.search(line)
    return None if found is None else int(found[1])


def link_of(line: bytes) -> ChainLink:
    """The place that a line says it has, and its own digest."""
    previous = _PREVIOUS.search(line)
    return ChainLink(number_of(line) or 0, digest_of(line), "" if previous is None else previous[1].decode())


def read_line(line: bytes) -> AuditEntry:
    """Read a line, without its end.

    Raises:
        ChainError: it cannot be one.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ChainError(f"it has {len(line)} bytes; the limit is {MAX_LINE_BYTES}")
    try:
        text = line.decode("ascii")
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ChainError("it is not JSON") from None
    if not isinstance(content, dict):
        raise ChainError("it is not an object")
    number, previous = content.pop("n", None), content.pop("prev", None)
    if not _is_number(number) or number < 1:
        raise ChainError("its number is missing")
    if not isinstance(previous, str) or len(previous) != len(_ZERO):
        raise ChainError("the hash of the line before is missing")
    version, mac = content.pop("v", None), content.pop("mac", None)
    keyed = version is not None
    # Exactly 2, and no True or 2.0, which Python takes for equal to a number.
    if (keyed and (type(version) is not int or version != FORMAT)) or keyed is not isinstance(mac, str):
        raise ChainError(f"it is neither of format 1 nor of format {FORMAT}")
    return AuditEntry(text, Head(number, digest_of(line)), previous, _record(content), keyed)


def read_chain(lines: Iterable[bytes], key: bytes | None = None, since: int = 1) -> Iterator[AuditEntry]:
    """Read lines that follow each other; the first may have any number, because older files may be gone.

    Args:
        lines: without their ends.
        key: with it, each line must have been written by who has it.
        since: number of the first line that was written with the key.

    Raises:
        ChainError: a line does not fit to the one before, or was not written by the bridge; names it.
    """
    last: Head | None = None
    for place, line in enumerate(lines, 1):
        try:
            entry = read_line(line)
            problem = _misfit(last, entry)
            if problem is None and key is not None and entry.head.number >= since and not is_authentic(entry, key):
                problem = f"it has the number {entry.head.number}, and the bridge has not written it (its mac is wrong)"
        except ChainError as error:
            problem = str(error)
        if problem is not None:
            raise ChainError(f"line {place}: {problem}")
        last = entry.head
        yield entry


def _misfit(last: Head | None, entry: AuditEntry) -> str | None:
    """Why a line cannot stand behind another one; None if it can."""
    if last is None:
        return "the first line of all has one before it" if entry.head.number == 1 and entry.previous != _ZERO else None
    if entry.head.number != last.number + 1:
        return f"its number is {entry.head.number}, behind {last.number}: lines are missing or moved"
    if entry.previous != last.digest:
        return "the line before it is not the one that stood there when it was written"
    return None


def check_head(entries: Iterable[AuditEntry], head: Head) -> int:
    """Read a chain to its end and compare it with what was kept elsewhere; returns the number of lines.

    Lines behind ``head`` are none of its business: they were written after it was read.

    Raises:
        ChainError: a line is wrong, or the chain does not reach or does not hold ``head``.
    """
    count, last = 0, NO_LINES
    for entry in entries:
        count, last = count + 1, entry.head
        if last.number == head.number and last.digest != head.digest:
            raise ChainError(f"the line with number {head.number} is not the one that the database knows")
    if last.number < head.number:
        raise ChainError(f"it ends with number {last.number}; the database knows {head.number}: lines are missing")
    return count


class Removals:
    """Watches which lines the bridge has removed itself: whatever else is missing at the beginning, somebody took."""

    def __init__(self) -> None:
        self.first: AuditEntry | None = None
        self._vouched = 0

    def watch(self, entries: Iterable[AuditEntry]) -> Iterator[AuditEntry]:
        """Hand on the lines of a chain."""
        for entry in entries:
            self.first = self.first or entry
            self._vouched = max(self._vouched, entry.record.line or 0)
            yield entry

    def check(self) -> None:
        """Judge how the chain begins.

        Raises:
            ChainError: lines are missing before the first one that the bridge has not removed.
        """
        before = 0 if self.first is None else self.first.head.number - 1
        if before > self._vouched:
            raise ChainError(
                f"the lines {self._vouched + 1} to {before} are missing, and the bridge has not removed them: "
                "a file was taken away"
            )


def _bounded(value: object) -> object:
    if isinstance(value, AuditKind):
        return value.value
    if isinstance(value, str):
        return display(value, MAX_REASON)
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, min(value, MAX_NUMBER))
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER


def _record(content: dict[str, Any]) -> AuditRecord:
    unknown = content.keys() - set(_FIELDS)
    if unknown:
        raise ChainError(f"it has a field {min(unknown)[:40]!a} that no record has")
    for name, value in content.items():
        right = (
            isinstance(value, str)
            if name in _TEXTS or name == "kind"
            else _is_number(value)
            if name in _NUMBERS
            else isinstance(value, bool)
        )
        if not right:
            raise ChainError(f"its field {name} is of the wrong type")
    if "at_ms" not in content:
        raise ChainError("its time is missing")
    try:
        kind = AuditKind(content.pop("kind", None))
    except ValueError:
        raise ChainError("its kind is none that there is") from None
    return AuditRecord(kind=kind, **content)
