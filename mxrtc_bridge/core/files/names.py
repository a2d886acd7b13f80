"""Names of files that come from elsewhere: which are accepted, and how the others are made safe.

A name from the other side ends up in a directory listing, on a shell's command line, in a web page, on a disk of
another operating system. This file decides by the text alone what may become a name; it never looks at a disk. There
are two kinds of rules:

    what a file system holds    everything but escapes from the directory (``..``, separators), control characters, text
                                that turns other text around, and what this program keeps beside the files. Where
                                strangers put files: no names that are hidden (``.bashrc``) or options (``-rf``).
    portable names              besides, nothing that shows nothing, that Windows cannot hold, or that somebody may take
                                for another name.

Of the characters that say in which direction text runs, the marks (LRM, RLM, ALM) and the joiners (ZWJ, ZWNJ) belong
to Arabic, Hebrew and Persian names, and the embeddings and isolates come with numbers that are copied from telephones:
they hide nothing that an Arabic letter could not, as long as they are closed in the name. The overrides make
``gpj.exe`` look like ``exe.jpg``, and nobody writes them.

The order of work for a path: whole length, components, then each component. Lengths are compared before anything
that takes time: Unicode normalisation of a long text is not free.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.errors import RemoteError
from mxrtc_bridge.core.text.display import quoted

STATE_DIRECTORY = ".mxrtc"
"""What is kept beside received files; no file from elsewhere has this name, or one that leads there."""
MAX_NAME_BYTES = 255
"""What file systems take."""
MAX_COMPONENT_BYTES = 200
"""Of a portable name; the rest is room for ``(2)`` and for names that a program derives."""
MAX_COMPONENTS = 32
MAX_PATH_BYTES = 1024

UNNAMED = "unnamed"

_FORBIDDEN = frozenset('/\\:*?"<>|')
# Letters and marks that show nothing although Unicode calls them printable.
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_VARIATIONS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
# Controls, formats (bidirectional ones among them), surrogates, private, unassigned, line and paragraph ends.
_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_DIGITS = "0123456789\u00b9\u00b2\u00b3"
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
    | {f"{device}{digit}" for device in ("com", "lpt") for digit in _DIGITS}
)
_COMPRESSIONS = frozenset({"gz", "bz2", "xz", "zst", "lz4", "z"})
_MAX_EXTENSION_BYTES = 32


class FileNameError(RemoteError):
    """A path or a pattern that is not accepted; the text gives the reason."""

    def __init__(self, message: str) -> None:
        super().__init__("name", message)


_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Controls, half surrogate pairs, line and paragraph ends: no name needs them."""
_OVERRIDES = frozenset("\u202d\u202e")
_EMBEDDINGS, _END_OF_EMBEDDING = frozenset("\u202a\u202b"), "\u202c"
_ISOLATES, _END_OF_ISOLATE = frozenset("\u2066\u2067\u2068"), "\u2069"
_TURNING = _EMBEDDINGS | _ISOLATES | {_END_OF_EMBEDDING, _END_OF_ISOLATE}


@dataclass(frozen=True, slots=True)
class NameRules:
    """What a place takes."""

    leading_dot: bool = False
    """Names of hidden files."""
    leading_dash: bool = False
    """Names that a program could take for options."""
    portable: bool = True
    """Only names that every system can hold, and that nobody takes for another."""

    @property
    def max_bytes(self) -> int:
        return MAX_COMPONENT_BYTES if self.portable else MAX_NAME_BYTES


STRICT = NameRules()
CAREFUL = NameRules(portable=False)
"""What a file system holds, for what strangers put somewhere."""
LAX = NameRules(portable=False, leading_dot=True, leading_dash=True)
"""The same, hidden files and options included."""
LAX_PORTABLE = NameRules(leading_dot=True, leading_dash=True)
"""That too, of names that every system can hold: for what a person has asked for on Windows."""


class NamePolicy(Enum):
    """What becomes of names that come from elsewhere; the value stands in the configuration."""

    KEEP = "keep"
    """What the file system can hold keeps its name; leading dots and dashes are refused."""
    ANY = "any"
    """The same, with leading dots and dashes."""
    REFUSE = "refuse"
    """What is not portable is refused."""
    SANITISE = "sanitise"
    """What is not portable is made so."""

    @property
    def rules(self) -> NameRules:
        match self:
            case NamePolicy.KEEP:
                return CAREFUL
            case NamePolicy.ANY:
                return LAX
            case NamePolicy.REFUSE | NamePolicy.SANITISE:
                return STRICT

    def remedy(self, path: str) -> str:
        """Return what can be done about a path that these rules refuse, or an empty string."""
        if self in {NamePolicy.KEEP, NamePolicy.REFUSE}:
            for wider in (NamePolicy.KEEP, NamePolicy.ANY):
                if _is_accepted(path, wider.rules):
                    return f"the admin of the other side can allow it (names: {wider.value})"
        return "give it another name"


def _is_accepted(path: str, rules: NameRules) -> bool:
    try:
        check_relative_path(path, rules)
    except FileNameError:
        return False
    return True


def check_relative_path(text: str, rules: NameRules = STRICT) -> tuple[str, ...]:
    """Return the components of a relative path.

    Args:
        text: components joined by ``/``, as they came.
        rules: what the place allows.

    Raises:
        FileNameError: with the part that is not accepted, and why.
    """
    # Characters first: a text of megabytes must not be encoded only to learn that it is too long.
    if len(text) > MAX_PATH_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise FileNameError(f"the path is longer than {MAX_PATH_BYTES} bytes")
    parts = tuple(text.split("/"))
    if len(parts) > MAX_COMPONENTS:
        raise FileNameError(f"the path has {len(parts)} parts; the limit is {MAX_COMPONENTS}")
    for part in parts:
        check_name(part, rules)
    return parts


def check_name(name: str, rules: NameRules = STRICT) -> None:
    """Accept one component of a path.

    Raises:
        FileNameError: with the reason.
    """
    reason = refusal(name, rules)
    if reason is not None:
        raise FileNameError(f"the name {quoted(name)} is not accepted: it {reason}")


def refusal(name: str, rules: NameRules = STRICT) -> str | None:
    """Return why ``name`` cannot be a component of a path (a sentence that begins with its verb), or None if it can."""
    if not name:
        return "is empty"
    if name in {".", ".."}:
        return "leads to another directory"
    if len(name) > rules.max_bytes or len(name.encode("utf-8", "surrogatepass")) > rules.max_bytes:
        return f"is longer than {rules.max_bytes} bytes"
    for char in name:
        if (reason := _character_refusal(char, rules)) is not None:
            return reason
    if _leads_to_state(name):
        return "is one that this program keeps for itself"
    return _shape_refusal(name, rules)


def _leads_to_state(name: str) -> bool:
    """Whether some file system takes this for the name of the state directory.

    Some ignore case, some the characters that show nothing (HFS+), some dots and spaces at the end (FAT, NTFS).
    """
    if len(name) > 4 * len(STATE_DIRECTORY) or not name.isascii():
        kept = "".join(char for char in name if unicodedata.category(char) not in {"Cf", "Mn"})
        name = unicodedata.normalize("NFKC", kept)
    return name.casefold().rstrip(". ") == STATE_DIRECTORY


def _character_refusal(char: str, rules: NameRules) -> str | None:
    if not rules.portable:
        if char in _OVERRIDES:
            return f"has the character U+{ord(char):04X}, which shows text backwards"
        if char in "/\0" or unicodedata.category(char) in _CONTROLS:
            return f"has the character U+{ord(char):04X}, which controls text"
        return None
    if char in _FORBIDDEN:
        return f"has the character {quoted(char)}"
    if char in _BLANK_LETTERS or unicodedata.category(char) in _BAD_CATEGORIES or (char.isspace() and char != " "):
        return f"has the character U+{ord(char):04X}, which controls text or shows nothing"
    return None


def _is_closed(name: str) -> bool:
    """Whether every embedding and isolate ends in the name, so that what stands behind it is shown as it is.

    Unicode Standard Annex 9, BD9 and X1 to X8, but stricter: an embedding that an isolate cuts off is not closed.
    """
    open_: list[str] = []
    for char in name:
        if char in _EMBEDDINGS or char in _ISOLATES:
            open_.append(char)
        elif char == _END_OF_EMBEDDING:
            if not open_ or open_.pop() not in _EMBEDDINGS:
                return False
        elif char == _END_OF_ISOLATE and (not open_ or open_.pop() not in _ISOLATES):
            return False
    return not open_


def _shape_refusal(name: str, rules: NameRules) -> str | None:
    first = name[0]
    leading = (
        (first == "." and not rules.leading_dot, "begins with a dot"),
        (first == "-" and not rules.leading_dash, "begins with a dash"),
    )
    more = _portable_shape(name) if rules.portable else _closed_shape(name)
    return next((reason for broken, reason in (*leading, *more) if broken), None)


def _closed_shape(name: str) -> Iterator[tuple[bool, str]]:
    yield not _is_closed(name), "turns around the text behind it (U+202A to U+202C, U+2066 to U+2069)"


def _portable_shape(name: str) -> Iterator[tuple[bool, str]]:
    first = name[0]
    yield not unicodedata.is_normalized("NFC", name), "is not in Unicode's normal form C"
    yield first == " " or name[-1] in ". ", "begins or ends with a space, or ends with a dot"
    yield (
        first in _VARIATIONS or unicodedata.category(first).startswith("M"),
        "begins with a mark that belongs to a letter before it",
    )
    yield _is_reserved(name), "is reserved for a device by Windows"


def _is_reserved(name: str) -> bool:
    return name.partition(".")[0].rstrip(" ").casefold() in _RESERVED


def collision_key(name: str) -> str:
    """Return what two names have in common that some file system, or a reader, takes for the same.

    Canonical caseless matching (Unicode, section 3.13, D145), without the marks that only choose a glyph.
    """
    kept = "".join(char for char in name if char not in _VARIATIONS)
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", kept).casefold())
    return unicodedata.normalize("NFC", folded)


def sanitise_name(text: str, rules: NameRules = STRICT) -> str:
    """Return an acceptable name that people recognise ``text`` in; ``text`` itself where it is acceptable.

    What is not allowed becomes ``_``; long names keep their extension. Two texts may become one name: whoever
    publishes must not overwrite.
    """
    if refusal(text, rules) is None:
        return text
    # Twice the limit is enough to know the beginning; the end holds the extension.
    limit = rules.max_bytes
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + text[-2 * limit :]
    if rules.portable:
        text = unicodedata.normalize("NFC", text)
    elif not _is_closed(text):
        text = "".join("_" if char in _TURNING else char for char in text)
    name = "".join("_" if _character_refusal(char, rules) is not None else char for char in text)
    if rules.portable:
        name = unicodedata.normalize("NFC", name).strip(" ").rstrip(". ")
    if not name:
        return UNNAMED
    if _shape_refusal(name, rules) is not None or _leads_to_state(name):
        name = "_" + name
    name = _shortened(name, limit)
    # A belt for what a future Unicode version may do to the steps above.
    return name if refusal(name, rules) is None else UNNAMED


def sanitise(text: str, rules: NameRules = STRICT) -> tuple[str, ...]:
    """Return the components of an acceptable relative path that people recognise ``text`` in.

    Empty components and ``.`` go, ``..`` becomes ``_``; of a path that is too deep or too long, the components
    nearest to the file stay.
    """
    if len(text) > 4 * MAX_PATH_BYTES:
        text = text[-4 * MAX_PATH_BYTES :]
    parts = [sanitise_name("_" if part == ".." else part, rules) for part in text.split("/") if part not in {"", "."}]
    parts = parts[-MAX_COMPONENTS:] or [UNNAMED]
    while len("/".join(parts).encode()) > MAX_PATH_BYTES:
        del parts[0]
    return tuple(parts)


def free_name(name: str, number: int, max_bytes: int = MAX_COMPONENT_BYTES) -> str:
    """Return the ``number``-th name beside a taken one: ``name (2).ext``; within the length limit.

    Raises:
        ValueError: ``number`` is below 2.
    """
    if number < 2:
        raise ValueError(f"number is {number}; the name itself is the first")
    stem, extension = split_extension(name)
    mark = f" ({number})"
    room = max_bytes - len(mark) - len(extension.encode())
    return _cut(stem, room) + mark + extension


def split_extension(name: str) -> tuple[str, str]:
    """Return stem and extension, which together are ``name``; ``.tar.gz`` and the like are one extension."""
    stem, dot, last = name.rpartition(".")
    if not dot or not stem.strip(". ") or not last or len(last.encode()) >= _MAX_EXTENSION_BYTES or " " in last:
        return name, ""
    if last.lower() in _COMPRESSIONS and stem.lower().endswith(".tar") and stem[:-4].strip(". "):
        return stem[:-4], f"{stem[-4:]}.{last}"
    return stem, f".{last}"


def _shortened(name: str, limit: int) -> str:
    if len(name.encode()) <= limit:
        return name
    stem, extension = split_extension(name)
    return _cut(stem, limit - len(extension.encode())) + extension


def _cut(text: str, limit: int) -> str:
    """The beginning of ``text`` in at most ``limit`` bytes, in whole characters, without spaces and dots at its end."""
    return text.encode()[:limit].decode("utf-8", "ignore").rstrip(". ") if len(text.encode()) > limit else text
