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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.errors import LocalError, WireError
from mxrtc_bridge.core.files.names import MAX_PATH_BYTES
from mxrtc_bridge.core.files.patterns import MAX_PATTERNS
from mxrtc_bridge.core.stream.json_message import (
    Field,
    Fields,
    MessageFormat,
    code,
    count,
    matching,
    read_count,
    read_items,
    read_matching,
    read_text,
    refuse,
    text,
)
from mxrtc_bridge.core.stream.messages import MAX_WINDOW

PROTOCOL_FILE = "file.v1.mxrtc"

CHUNK_BYTES = 1024 * 1024
"""A file is verified, and can be resumed, in pieces of this size."""
MAX_OPEN_ENTRIES = 1024
"""Entries that were announced and not answered for good."""
MAX_OPEN_PATH_BYTES = 256 * 1024
"""Their paths together."""
MAX_OPEN_WANTS = 256
"""Wanted files that are not published, refused or failed yet."""

MAX_TOLD_SKIPPED = 10_000
"""Things that a source could not offer and tells of by name and reason; of further ones it tells the number."""

NO_FILES = "this service is not for files: use mxrtc nc or connect with it"
NO_INBOX = "files can be fetched from this service, and not put there: use mxrtc get or ls with it"
NO_SHARE = "files can be put into this service, and not be seen there: use mxrtc send with it"
WRONG_KIND = frozenset({NO_FILES, NO_INBOX, NO_SHARE})
"""Said beside ``denied`` to somebody with the right to a service, who wants what it is not for."""

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
    """A disk did not do what it should, or a file has more or less in it than its size says."""
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


class FileError(LocalError):
    """One file, or one job, cannot go on; ``str`` is the sentence. It names no path of this machine."""

    def __init__(self, code: FileCode, message: str) -> None:
        super().__init__(message)
        self.code = code


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
    inode: str = ""
    """By which the source knows the file again that has grown. Never sent."""


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
class FileOk:
    """``ok``: the job begins. The window counts if the acceptor is the receiver."""

    window: int


@dataclass(frozen=True, slots=True)
class FileErr:
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
    hidden: int = 0
    """Names that the source keeps to itself because they begin with a dot."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """``x-skip``: one of the things that the source could not offer; who does not know the message ignores it."""

    path: str
    """As the source names it; may not be a path that could be announced."""
    code: FileCode
    message: str


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
    grown_to: int = 0
    """The size that the source file has by now, if it is more than was announced; only that much of it was sent."""


@dataclass(frozen=True, slots=True)
class FileAck:
    """``ack``: so much payload is written, and so much more may be sent."""

    offset: int
    window: int


@dataclass(frozen=True, slots=True)
class Busy:
    """``busy``: a sign of life while the disk works."""


@dataclass(frozen=True, slots=True)
class FileBye:
    """``bye``: nothing is left to be done."""


@dataclass(frozen=True, slots=True)
class FileRst:
    """``rst``: the transfer ends early."""

    code: FileCode


Job = Put | Get | Ls
_OfSource = Announce | AnnouncedAll | Skipped | ChunkEnd | FileEnd
_OfReceiver = Want | Got | Seen | FileAck
Message = Job | FileOk | FileErr | _OfSource | _OfReceiver | No | Busy | FileBye | FileRst


def name_of(message: Message) -> str:
    """What errors call a message."""
    return type(message).__name__.removeprefix("File").lower()


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


def _read_entry(fields: Fields) -> FileEntry:
    path = fields.get("p")
    if not isinstance(path, str) or (refusal := path_refusal(path)) is not None:
        reason = refusal if isinstance(path, str) else "it is no text"
        raise WireError("bad_field", f"p is no path: {reason}")
    return _read_entry_at(path, fields)


def _read_entry_at(path: str, fields: Fields) -> FileEntry:
    kind, modified = read_text(fields, "k"), read_count(fields, "m")
    if kind == EntryKind.FILE.value:
        version = read_matching(fields, "x", _VERSION)
        return FileEntry(path, EntryKind.FILE, read_count(fields, "s"), modified, version)
    if kind != EntryKind.DIRECTORY.value:
        refuse("k", kind, "f or d")
    return FileEntry(path, EntryKind.DIRECTORY, modified_ms=modified)


def _write_entry(entry: FileEntry) -> Fields:
    if (refusal := path_refusal(entry.path)) is not None:
        raise WireError("bad_field", f"the path cannot be sent: {refusal}")
    fields: Fields = {"k": entry.kind.value, "p": entry.path, "m": entry.modified_ms}
    if entry.kind is EntryKind.FILE:
        fields |= {"s": entry.size, "x": entry.version}
    elif entry.size or entry.version:
        refuse("s", entry.size, "absent, like the version, for a directory")
    _read_entry_at(entry.path, fields)  # what a reader refuses is not sent
    return fields


def _checked_patterns(patterns: Sequence[object]) -> list[str]:
    if not 0 < len(patterns) <= MAX_PATTERNS:
        refuse("p", f"a list of {len(patterns)}", f"a list of 1 to {MAX_PATTERNS}")
    checked: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str) or not 0 < (_utf8_size(pattern) or 0) <= MAX_PATH_BYTES or "\0" in pattern:
            refuse("p", pattern, f"text of 1 to {MAX_PATH_BYTES} bytes")
        checked.append(pattern)
    return checked


def _checked_listing_path(path: str) -> str:
    size = _utf8_size(path)
    if size is None or size > MAX_PATH_BYTES or "\0" in path:
        refuse("p", path, f"text of at most {MAX_PATH_BYTES} bytes")
    return path


def _checked_name(name: str) -> str:
    if path_refusal(name) is not None:
        refuse("p", name, "a relative path")
    return name


def _shown_path(path: str) -> str:
    """For people only: what cannot be said of it is replaced."""
    return path.encode("utf-8", "replace")[:MAX_PATH_BYTES].decode("utf-8", "ignore")


def _checked_text(check: Callable[[str], str]) -> Field:
    return Field(lambda fields: check(read_text(fields, "p", MAX_PATH_BYTES)), lambda value: {"p": check(value)})


def _optional_count(key: str) -> Field:
    """A count that is 0 where it is absent."""
    return Field(lambda fields: read_count({key: 0, **fields}, key), lambda number: {key: number} if number else {})


_INDEX = count("i")
_OFFSET = count("o")
_SIZE = count("s")
_WINDOW = count("w", high=MAX_WINDOW)
_CODE = code("c", FileCode, FileCode.UNAVAILABLE)
_DIGEST = matching("h", _SHA256)

_FORMAT: MessageFormat[Message] = MessageFormat(
    PROTOCOL_FILE,
    {
        "put": (Put,),
        "get": (
            Get,
            Field(
                lambda fields: tuple(_checked_patterns(read_items(fields, "p", MAX_PATTERNS))),
                lambda patterns: {"p": _checked_patterns(patterns)},
            ),
        ),
        "ls": (Ls, _checked_text(_checked_listing_path)),
        "ok": (FileOk, _WINDOW),
        "err": (FileErr, _CODE, text("m")),
        "f": (Announce, _INDEX, Field(_read_entry, _write_entry)),
        "fend": (AnnouncedAll, count("n"), _SIZE, _optional_count("u"), _optional_count("d")),
        "x-skip": (Skipped, _checked_text(_shown_path), _CODE, text("m")),
        "want": (Want, _INDEX, _OFFSET),
        "no": (No, _INDEX, _CODE, text("m")),
        "got": (
            Got,
            _INDEX,
            _checked_text(_checked_name),
            Field(lambda fields: read_matching({"h": "", **fields}, "h", _MAYBE_SHA256), lambda sha256: {"h": sha256}),
        ),
        "seen": (Seen, _INDEX),
        "c": (ChunkEnd, _INDEX, count("n"), _DIGEST),
        "end": (FileEnd, _INDEX, _SIZE, _DIGEST, _optional_count("g")),
        "ack": (FileAck, _OFFSET, _WINDOW),
        "busy": (Busy,),
        "bye": (FileBye,),
        "rst": (FileRst, _CODE),
    },
)
decode = _FORMAT.decode
encode = _FORMAT.encode
