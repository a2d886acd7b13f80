"""Untrusted text for terminals, logs and messages to people.

Names, reasons and error texts of others may hold escape sequences that drive a terminal, line ends that forge log
lines, and bidirectional or invisible characters that make one name look like another. :func:`display` is the one way
for such text to a person. It never interprets and never drops a character: what cannot be shown becomes an escape.
"""

from __future__ import annotations

import re
import unicodedata

DEFAULT_LIMIT = 120
"""Columns; enough for every name that people type."""

ELLIPSIS = "\u2026"
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")

INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
"""Letters, marks and symbols that Unicode counts as printable but that show nothing."""


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def _piece(char: str, *, first: bool) -> tuple[str, int]:
    """Return what stands for ``char``, and its columns."""
    if char == "\\":
        return "\\\\", 2
    # A leading combining mark would change whatever stands before the text.
    if not char.isprintable() or char in INVISIBLE or (first and unicodedata.category(char).startswith("M")):
        escape = _escape(char)
        return escape, len(escape)
    # A combining mark takes no column, but counts as one, or a name could carry thousands of them.
    return char, 2 if unicodedata.east_asian_width(char) in "WF" else 1


def display(text: str, limit: int = DEFAULT_LIMIT) -> str:
    r"""Return ``text`` in a form that is safe to print, at most ``limit`` columns wide.

    Control and format characters (C0, C1, escape, bidirectional controls, zero width), lone surrogates, unassigned
    code points and blanks other than the space become ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``; a backslash is doubled,
    so that nobody can imitate an escape. Text that does not fit ends in an ellipsis; an escape is never cut.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}, it must be at least 1 column")
    if len(text) <= limit and text.isascii() and text.isprintable() and "\\" not in text:
        return text  # as almost every name is: each character is one column and stands for itself
    pieces: list[tuple[str, int]] = []
    width = 0
    # No character takes less than a column: what lies beyond the limit need not be looked at.
    for index, char in enumerate(text[: limit + 1]):
        piece, columns = _piece(char, first=index == 0)
        pieces.append((piece, columns))
        width += columns
        if width > limit:
            while width > limit - 1:
                width -= pieces.pop()[1]
            pieces.append((ELLIPSIS, 1))
            break
    return "".join(piece for piece, _ in pieces)


def presentable(text: str) -> str:
    """Return a foreign part of an error, which may be logged, sent, and is shown by :func:`display` at last.

    What cannot be shown is a replacement character: an escape would be escaped once more where the error is shown.
    """
    # Whatever stands before it is not what a mark may stand upon.
    pieces = (_piece(char, first=index == 0)[0] for index, char in enumerate(text))
    return "".join(char if piece in (char, "\\\\") else "\ufffd" for char, piece in zip(text, pieces, strict=True))


def quoted(text: str, limit: int = 80) -> str:
    """Return the beginning of a foreign name for an error; see :func:`presentable`."""
    return f"'{presentable(text[:limit])}'"


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: bytes of a command line that are none become lone surrogates, as may JSON."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def sentence(text: str) -> str:
    """Return a refusal as a whole sentence: with a capital, and a full stop unless it ends in a line to copy.

    Errors are written so that they can stand inside of another sentence; whoever shows one alone uses this. What may be
    a name at the beginning stays as it is.
    """
    if re.match("[a-z]+[ ,;]", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ":")) or "\n" in text else f"{text}."


def size_words(size: float) -> str:
    """Return a number of bytes for people, ``999 B`` or ``1.5 MiB``: three digits that matter."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in _UNITS:
        size /= 1024
        if size < 1023.5 or unit == _UNITS[-1]:
            return f"{size:.{0 if size >= 99.95 else 1}f} {unit}"
    raise AssertionError("the last unit takes everything")
