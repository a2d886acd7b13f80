"""What a person typed into a room, as bounded words.

Must never raise for anything that a homeserver can deliver, and never give back more than it was allowed to read.

Pure. Which words of a message are its sender's own is said in :mod:`mxrtc_bridge.core.message_text`, and what they mean
in :mod:`mxrtc_bridge.core.commands`.
"""

from __future__ import annotations

import re
import unicodedata

PREFIX = "!rtc"
"""Begins a command in rooms that are not a direct chat."""
MAX_TEXT_CHARS = 4000
"""Of a message; what is longer is no command."""
MAX_WORDS = 200
MAX_FREE_TEXT_CHARS = 200
"""Of a reason that a person gives."""
MAX_DURATION_S = 90 * 24 * 3600
"""The longest time that can be written; what may be given is limited by the configuration."""
MIN_DURATION_S = 1

_REPLACEMENT = "\ufffd"
_DURATION = re.compile(r"(?:\d{1,6}[a-z]{1,7})+")
_PART = re.compile(r"(\d{1,6})([a-z]{1,7})")
_UNITS = {
    1: ("s", "sec", "secs", "second", "seconds"),
    60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hr", "hrs", "hour", "hours"),
    86400: ("d", "day", "days"),
    604800: ("w", "week", "weeks"),
}
_SECONDS = {word: seconds for seconds, words in _UNITS.items() for word in words}
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"


def command_words(text: str, *, direct: bool) -> tuple[str, ...] | None:
    """Return the words of a command, without the prefix; None where the message is not meant for us.

    Args:
        text: of the message, as its sender has typed it.
        direct: whether the room is a direct chat, where no prefix is needed.
    """
    words = tuple(text.split(maxsplit=MAX_WORDS)[:MAX_WORDS])
    if words and words[0].lower() == PREFIX:
        return words[1:] or ("help",)
    return words if direct and words else None


def unquoted(word: str) -> str:
    """Return a word without the quotes that a person or a client put around it."""
    return word.strip(_QUOTES)


def free_text(words: tuple[str, ...]) -> str:
    """Return a reason as one line that can be stored and shown: what has no form of its own is replaced."""
    text = " ".join(words)[: MAX_FREE_TEXT_CHARS + 1]
    if len(text) > MAX_FREE_TEXT_CHARS:
        text = text[: MAX_FREE_TEXT_CHARS - 1] + "\u2026"
    return "".join(char if unicodedata.category(char)[0] != "C" else _REPLACEMENT for char in text).strip(_QUOTES + " ")


def parse_duration(text: str) -> int | None:
    """Read ``45s``, ``30m``, ``2h``, ``3d``, ``1w`` or ``1h30m`` as seconds; None where it is none of these."""
    folded = text.lower()
    if len(folded) > 40 or not folded.isascii() or _DURATION.fullmatch(folded) is None:
        return None
    seconds = 0
    for number, unit in _PART.findall(folded):
        if unit not in _SECONDS:
            return None
        seconds += int(number) * _SECONDS[unit]
    return seconds if MIN_DURATION_S <= seconds <= MAX_DURATION_S else None


def take_duration(words: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """Read a duration from the first word, or from the first two (``2 hours``); returns it and the other words."""
    if not words:
        return None, words
    if words[0].isascii() and words[0].isdigit() and len(words) > 1:
        return parse_duration(words[0] + words[1]), words[2:]
    return parse_duration(words[0]), words[1:]


def say_duration(seconds: float) -> str:
    """Write a time the way it can be typed: at most two units, rounded down."""
    left = max(0, int(seconds))
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
