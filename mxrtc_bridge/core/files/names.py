"""Names of files that come from elsewhere: which are accepted, and how the others are made safe.

A name from the other side ends up in a directory listing, on a shell's command line, in a web page, on a disk of
another operating system. This file decides by the text alone what may become a name; it never looks at a disk. What it
keeps away: escapes from the directory (``..``, absolute paths, either separator), characters that drive a terminal or
show nothing, names that are options (``-rf``) or hidden (``.bashrc``), names that Windows cannot hold, and two
spellings of what people take for one name.

The order of work for a path: whole length, components, then each component. Lengths are compared before anything
that takes time: Unicode normalisation of a long text is not free.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mxrtc_bridge.core.errors import RemoteError

MAX_COMPONENT_BYTES = 200
"""Of the 255 that file systems take; the rest is room for ``(2)`` and for names that a program derives."""
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


@dataclass(frozen=True, slots=True)
class NameRules:
    """What a place allows beyond the rules that hold everywhere."""

    leading_dot: bool = False
    """Hidden files: for a source that was asked to send them; never for what strangers put into a drop box."""


STRICT = NameRules()


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
        raise FileNameError(f"the name {name[:80]!a} is not accepted: it {reason}")


def refusal(name: str, rules: NameRules = STRICT) -> str | None:
    """Return why ``name`` cannot be a component of a path (a sentence that begins with its verb), or None if it can."""
    if not name:
        return "is empty"
    if name in {".", ".."}:
        return "leads to another directory"
    if len(name) > MAX_COMPONENT_BYTES or len(name.encode("utf-8", "surrogatepass")) > MAX_COMPONENT_BYTES:
        return f"is longer than {MAX_COMPONENT_BYTES} bytes"
    for char in name:
        if (reason := _character_refusal(char)) is not None:
            return reason
    return _shape_refusal(name, rules)


def _character_refusal(char: str) -> str | None:
    if char in _FORBIDDEN:
        return f"has the character {char!a}"
    if char in _BLANK_LETTERS or unicodedata.category(char) in _BAD_CATEGORIES or (char.isspace() and char != " "):
        return f"has the character U+{ord(char):04X}, which controls text or shows nothing"
    return None


def _shape_refusal(name: str, rules: NameRules) -> str | None:
    first = name[0]
    checks = (
        (not unicodedata.is_normalized("NFC", name), "is not in Unicode's normal form C"),
        (first == "." and not rules.leading_dot, "begins with a dot"),
        (first == "-", "begins with a dash"),
        (first == " " or name[-1] in ". ", "begins or ends with a space, or ends with a dot"),
        (
            first in _VARIATIONS or unicodedata.category(first).startswith("M"),
            "begins with a mark that belongs to a letter before it",
        ),
        (_is_reserved(name), "is reserved for a device by Windows"),
    )
    return next((reason for broken, reason in checks if broken), None)


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
    if len(text) > 4 * MAX_COMPONENT_BYTES:
        text = text[: 2 * MAX_COMPONENT_BYTES] + text[-2 * MAX_COMPONENT_BYTES :]
    composed = unicodedata.normalize("NFC", text)
    name = "".join("_" if _character_refusal(char) is not None else char for char in composed)
    name = unicodedata.normalize("NFC", name).strip(" ").rstrip(". ")
    if not name:
        return UNNAMED
    if _shape_refusal(name, rules) is not None:
        name = "_" + name
    name = _shortened(name, MAX_COMPONENT_BYTES)
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


def free_name(name: str, number: int) -> str:
    """Return the ``number``-th name beside a taken one: ``name (2).ext``; within the length limit.

    Raises:
        ValueError: ``number`` is below 2.
    """
    if number < 2:
        raise ValueError(f"number is {number}; the name itself is the first")
    stem, extension = split_extension(name)
    mark = f" ({number})"
    room = MAX_COMPONENT_BYTES - len(mark) - len(extension.encode())
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
