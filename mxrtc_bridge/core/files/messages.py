"""Control messages of ``file.v1.mxrtc``: text to frozen values and back.

The only reader and the only writer of this language; docs/reference/file-protocol.md is its specification. As in
:mod:`mxrtc_bridge.core.stream.messages`, text from a channel is hostile, and nothing of it is repaired: :func:`decode`
answers any string with a value, with None (a message that must be ignored) or with :class:`WireError`.

What is checked here is what holds for a message by itself. Whether a path can be a name on this machine is the
receiver's business (:mod:`mxrtc_bridge.core.files.names`); that it stays below the receiver's directory is checked here
already.

One file: the only reader and writer of one language: a message and its two directions stand together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.stream.json_message import (
    CODE,
    MAX_CONTROL_BYTES,
    MAX_COUNT,
    Fields,
    read_count,
    read_items,
    read_matching,
    read_object,
    read_text,
    refuse,
    sendable,
    write_object,
)
from mxrtc_bridge.core.stream.messages import MAX_WINDOW

PROTOCOL_FILE = "file.v1.mxrtc"

CHUNK_BYTES = 1024 * 1024
"""A file is verified, and can be resumed, in pieces of this size."""
MAX_PATH_BYTES = 1024
MAX_PATTERNS = 64
MAX_OPEN_ENTRIES = 1024
"""Entries that were announced and not answered for good."""
MAX_OPEN_PATH_BYTES = 256 * 1024
"""Their paths together."""
MAX_OPEN_WANTS = 256
"""Wanted files that are not published, refused or failed yet."""

_VERSION = re.compile(r"[!-~]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAYBE_SHA256 = re.compile(r"(?:[0-9a-f]{64})?")


class FileCode(Enum):
    """Why a job, or one entry of it, cannot be done; the value goes over the wire.

    Codes that we do not know count as ``unavailable``.
    """

    DENIED = "denied"
    """There is no right to do it."""
    UNKNOWN = "unknown"
    """There is no such thing here."""
    LIMIT = "limit"
    """Too large, or too many."""
    QUOTA = "quota"
    """The user's share, or everybody's, is used up."""
    SPACE = "space"
    """The disk is full, or nearly."""
    NAME = "name"
    """The name is not one that the receiver gives to a file."""
    EXISTS = "exists"
    """There is something else of that name already."""
    CHANGED = "changed"
    """The source file is not what was announced any more."""
    GONE = "gone"
    """The source file is not there any more."""
    IO = "io"
    """A disk did not do what it should."""
    INTEGRITY = "integrity"
    """What arrived is not what was sent."""
    STOPPED = "stopped"
    """The source ends a file because the receiver does not want it any more."""
    VIOLATION = "violation"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    """Somebody ended it; it can go on later."""
    UNAVAILABLE = "unavailable"
    """It does not work at the moment."""


class EntryKind(Enum):
    """What an entry is. There are no others: links and special files are never offered, never made."""

    FILE = "f"
    DIRECTORY = "d"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file or directory that the source offers."""

    path: str
    """Relative, with ``/`` between the components, 1 to 1024 bytes of UTF-8."""
    kind: EntryKind
    size: int = 0
    """In bytes; 0 for a directory."""
    modified_ms: int = 0
    """Modification time in milliseconds since 1970."""
    version: str = ""
    """Differs when the source file has changed: 1 to 64 printable ASCII characters; empty for a directory."""
    origin: str = ""
    """How the source itself finds it. Never sent."""


@dataclass(frozen=True, slots=True)
class Put:
    """``put``: the opener is the source."""


@dataclass(frozen=True, slots=True)
class Get:
    """``get``: the opener is the receiver of what these paths or patterns select."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ls:
    """``ls``: the opener wants to know what there is; an empty path is the whole service."""

    path: str


@dataclass(frozen=True, slots=True)
class Ok:
    """``ok``: the job begins. The window counts if the acceptor is the receiver."""

    window: int


@dataclass(frozen=True, slots=True)
class Err:
    """``err``: there will be no transfer."""

    code: FileCode
    message: str


@dataclass(frozen=True, slots=True)
class Announce:
    """``f``: an entry, from the source."""

    index: int
    entry: FileEntry


@dataclass(frozen=True, slots=True)
class AnnouncedAll:
    """``fend``: that was the last entry."""

    count: int
    size: int
    """The sizes of all files together."""
    skipped: int = 0
    """Things that the source could not offer."""


@dataclass(frozen=True, slots=True)
class Want:
    """``want``: the receiver asks for a file, from an offset on."""

    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class No:
    """``no``: from the receiver, it will not have this entry; from the source, it cannot give (the rest of) it."""

    index: int
    code: FileCode
    message: str


@dataclass(frozen=True, slots=True)
class Got:
    """``got``: the receiver has the entry, safe and under its name."""

    index: int
    name: str
    sha256: str
    """Empty for a directory, and if the receiver does not know it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """``seen``: all entries of a listing up to this index were taken."""

    index: int


@dataclass(frozen=True, slots=True)
class ChunkEnd:
    """``c``: a chunk that is not the file's last is complete."""

    index: int
    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileEnd:
    """``end``: a file is complete."""

    index: int
    size: int
    sha256: str
    """Of the whole file, whatever the offset was."""


@dataclass(frozen=True, slots=True)
class Ack:
    """``ack``: so much payload is written, and so much more may be sent."""

    offset: int
    window: int


@dataclass(frozen=True, slots=True)
class Busy:
    """``busy``: a sign of life while the disk works."""


@dataclass(frozen=True, slots=True)
class Bye:
    """``bye``: nothing is left to be done."""


@dataclass(frozen=True, slots=True)
class Rst:
    """``rst``: the transfer ends early."""

    code: FileCode


Job = Put | Get | Ls
Message = (
    Job | Ok | Err | Announce | AnnouncedAll | Want | No | Got | Seen | ChunkEnd | FileEnd | Ack | Busy | Bye | Rst
)


def decode(text: str) -> Message | None:
    """Read a control message.

    Returns:
        the message, or None if it is a trial (``x-``) that must be ignored.

    Raises:
        WireError: with the code ``too_long``, ``not_json``, ``bad_field`` or ``unknown_message``.
    """
    fields = read_object(text)
    kind = read_text(fields, "t", MAX_CONTROL_BYTES)
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(fields)
    if kind.startswith("x-"):
        return None
    raise WireError("unknown_message", f"{kind[:40]!a} is no message of {PROTOCOL_FILE}")


def encode(message: Message) -> str:
    """Write a control message; text for people is cut to 500 characters.

    Raises:
        WireError: ``too_long`` or ``bad_field``: a path or pattern that cannot be sent. No other message can fail.
    """
    fields = _fields_of(message)
    if isinstance(message, (Announce, Get, Ls, Got)):
        # Only these hold text of the caller's at length; the others are short by their construction.
        _check_sendable(message)
        text = write_object(fields)
        if len(text.encode()) > MAX_CONTROL_BYTES:
            raise WireError("too_long", f"a control message may have {MAX_CONTROL_BYTES} bytes")
        return text
    return write_object(fields)


def path_refusal(path: str) -> str | None:
    """Return why ``path`` may not be announced, or None: the rules of the wire, not those of a file system."""
    size = _utf8_size(path)
    if size is None:
        return "it is not valid Unicode"
    if not 0 < size <= MAX_PATH_BYTES:
        return f"it has {size} bytes; 1 to {MAX_PATH_BYTES} can be sent"
    if "\0" in path:
        return "it holds a NUL character"
    if any(component in {"", ".", ".."} for component in path.split("/")):
        return "a component of it is empty, '.' or '..'"
    return None


def _utf8_size(text: str) -> int | None:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def _check_sendable(message: Announce | Get | Ls | Got) -> None:
    match message:
        case Announce(entry=entry):
            _check_entry(entry)
        case Get(patterns=patterns):
            _checked_patterns(patterns)
        case Ls(path=path):
            _checked_listing_path(path)
        case Got(name=name):
            _checked_name(name)


def _check_entry(entry: FileEntry) -> None:
    if (refusal := path_refusal(entry.path)) is not None:
        raise WireError("bad_field", f"the path cannot be sent: {refusal}")
    if not 0 <= entry.size <= MAX_COUNT:
        refuse("s", entry.size, f"a whole number from 0 to {MAX_COUNT}")
    if not 0 <= entry.modified_ms <= MAX_COUNT:
        refuse("m", entry.modified_ms, f"a whole number from 0 to {MAX_COUNT}")
    if entry.kind is EntryKind.FILE and _VERSION.fullmatch(entry.version) is None:
        refuse("x", entry.version, f"text of the form {_VERSION.pattern}")
    if entry.kind is EntryKind.DIRECTORY and (entry.size or entry.version):
        refuse("s", entry.size, "absent, like the version, for a directory")


def _fields_of(message: Message) -> Fields:  # noqa: PLR0911, PLR0912, C901 - one row for each message, nothing else
    match message:
        case Put():
            return {"t": "put"}
        case Get(patterns=patterns):
            return {"t": "get", "p": list(patterns)}
        case Ls(path=path):
            return {"t": "ls", "p": path}
        case Ok(window=window):
            return {"t": "ok", "w": window}
        case Err(code=code, message=text):
            return {"t": "err", "c": code.value, "m": sendable(text)}
        case Announce(index=index, entry=entry):
            return _fields_of_entry(index, entry)
        case AnnouncedAll(count=count, size=size, skipped=skipped):
            fields: Fields = {"t": "fend", "n": count, "s": size}
            return fields | {"u": skipped} if skipped else fields
        case Want(index=index, offset=offset):
            return {"t": "want", "i": index, "o": offset}
        case No(index=index, code=code, message=text):
            return {"t": "no", "i": index, "c": code.value, "m": sendable(text)}
        case Got(index=index, name=name, sha256=sha256):
            return {"t": "got", "i": index, "p": name, "h": sha256}
        case Seen(index=index):
            return {"t": "seen", "i": index}
        case ChunkEnd(index=index, number=number, sha256=sha256):
            return {"t": "c", "i": index, "n": number, "h": sha256}
        case FileEnd(index=index, size=size, sha256=sha256):
            return {"t": "end", "i": index, "s": size, "h": sha256}
        case Ack(offset=offset, window=window):
            return {"t": "ack", "o": offset, "w": window}
        case Busy():
            return {"t": "busy"}
        case Bye():
            return {"t": "bye"}
        case Rst(code=code):
            return {"t": "rst", "c": code.value}


def _fields_of_entry(index: int, entry: FileEntry) -> Fields:
    fields: Fields = {"t": "f", "i": index, "k": entry.kind.value, "p": entry.path, "m": entry.modified_ms}
    if entry.kind is EntryKind.FILE:
        fields |= {"s": entry.size, "x": entry.version}
    return fields


def _code(fields: Fields) -> FileCode:
    code = read_matching(fields, "c", CODE)
    return FileCode(code) if code in _CODES else FileCode.UNAVAILABLE


def _read_announce(fields: Fields) -> Announce:
    kind = read_text(fields, "k")
    path = fields.get("p")
    if not isinstance(path, str) or (refusal := path_refusal(path)) is not None:
        reason = refusal if isinstance(path, str) else "it is no text"
        raise WireError("bad_field", f"p is no path: {reason}")
    index, modified = read_count(fields, "i"), read_count(fields, "m")
    if kind == EntryKind.FILE.value:
        version = read_matching(fields, "x", _VERSION)
        return Announce(index, FileEntry(path, EntryKind.FILE, read_count(fields, "s"), modified, version))
    if kind != EntryKind.DIRECTORY.value:
        refuse("k", kind, "f or d")
    return Announce(index, FileEntry(path, EntryKind.DIRECTORY, modified_ms=modified))


def _read_get(fields: Fields) -> Get:
    return Get(_checked_patterns(read_items(fields, "p", MAX_PATTERNS)))


def _checked_patterns(patterns: object) -> tuple[str, ...]:
    assert isinstance(patterns, (list, tuple))
    if not 0 < len(patterns) <= MAX_PATTERNS:
        refuse("p", f"a list of {len(patterns)}", f"a list of 1 to {MAX_PATTERNS}")
    checked: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str) or not 0 < (_utf8_size(pattern) or 0) <= MAX_PATH_BYTES or "\0" in pattern:
            refuse("p", pattern, f"text of 1 to {MAX_PATH_BYTES} bytes")
        checked.append(pattern)
    return tuple(checked)


def _read_ls(fields: Fields) -> Ls:
    return Ls(_checked_listing_path(read_text(fields, "p", MAX_PATH_BYTES)))


def _checked_listing_path(path: str) -> str:
    size = _utf8_size(path)
    if size is None or size > MAX_PATH_BYTES or "\0" in path:
        refuse("p", path, f"text of at most {MAX_PATH_BYTES} bytes")
    return path


def _checked_name(name: str) -> str:
    if path_refusal(name) is not None:
        refuse("p", name, "a relative path")
    return name


def _read_got(fields: Fields) -> Got:
    name = _checked_name(read_text(fields, "p", MAX_PATH_BYTES))
    return Got(read_count(fields, "i"), name, read_matching({"h": "", **fields}, "h", _MAYBE_SHA256))


def _read_announced_all(fields: Fields) -> AnnouncedAll:
    return AnnouncedAll(read_count(fields, "n"), read_count(fields, "s"), read_count({"u": 0, **fields}, "u"))


_CODES = frozenset(code.value for code in FileCode)

_READERS: Mapping[str, Callable[[Fields], Message]] = {
    "put": lambda fields: Put(),  # noqa: ARG005 - it has no fields
    "get": _read_get,
    "ls": _read_ls,
    "ok": lambda fields: Ok(read_count(fields, "w", high=MAX_WINDOW)),
    "err": lambda fields: Err(_code(fields), read_text(fields, "m")),
    "f": _read_announce,
    "fend": _read_announced_all,
    "want": lambda fields: Want(read_count(fields, "i"), read_count(fields, "o")),
    "no": lambda fields: No(read_count(fields, "i"), _code(fields), read_text(fields, "m")),
    "got": _read_got,
    "seen": lambda fields: Seen(read_count(fields, "i")),
    "c": lambda fields: ChunkEnd(read_count(fields, "i"), read_count(fields, "n"), read_matching(fields, "h", _SHA256)),
    "end": lambda fields: FileEnd(
        read_count(fields, "i"), read_count(fields, "s"), read_matching(fields, "h", _SHA256)
    ),
    "ack": lambda fields: Ack(read_count(fields, "o"), read_count(fields, "w", high=MAX_WINDOW)),
    "busy": lambda fields: Busy(),  # noqa: ARG005 - it has no fields
    "bye": lambda fields: Bye(),  # noqa: ARG005 - it has no fields
    "rst": lambda fields: Rst(_code(fields)),
}
