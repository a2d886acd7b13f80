"""What a person typed into a room, as bounded words.

Must never raise for anything that a homeserver can deliver, and never give back more than it was allowed to read.

Pure. Which words of a message are its sender's own is said in :mod:`mxrtc_bridge.core.bot.message_text`, and what they
mean in :mod:`mxrtc_bridge.core.bot.parser`.
"""

from __future__ import annotations

import unicodedata
from itertools import dropwhile

from mxrtc_bridge.core.text.display import INVISIBLE

PREFIX = "!rtc"
"""Begins a command in rooms that are not a direct chat."""
MAX_TEXT_CHARS = 4000
"""Of a message; what is longer is no command."""
MAX_WORDS = 200
MAX_FREE_TEXT_CHARS = 200
"""Of a reason that a person gives."""

_REPLACEMENT = "\ufffd"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"


def command_words(text: str, *, direct: bool) -> tuple[str, ...] | None:
    """Return the words of a command, without the prefix; None where the message is not meant for us.

    Args:
        text: of the message, as its sender has typed it.
        direct: whether the room is a direct chat, where no prefix is needed.
    """
    words = tuple(text.split(maxsplit=MAX_WORDS)[:MAX_WORDS])
    # What comes along with something that is copied must not keep a command from being heard, and so from an answer.
    seen = tuple(dropwhile(lambda word: not _seen(word), words))
    if seen and _seen(seen[0]).lower() == PREFIX:
        return seen[1:] or ("help",)
    if not direct or not words:
        return None
    # As commands of clients are written, which send one that they do not know.
    return (words[0].removeprefix("/") or words[0], *words[1:])


def _seen(word: str) -> str:
    """The word without what nobody sees around it."""
    unseen = {char for char in word if not char.isprintable() or char in INVISIBLE}
    return word.strip("".join(unseen)) if unseen else word


def unquoted(word: str) -> str:
    """Return a word without the quotes that a person or a client put around it."""
    return word.strip(_QUOTES)


def free_text(words: tuple[str, ...]) -> str:
    """Return a reason as one line that can be stored and shown: what has no form of its own is replaced."""
    text = " ".join(words)[: MAX_FREE_TEXT_CHARS + 1]
    if len(text) > MAX_FREE_TEXT_CHARS:
        text = text[: MAX_FREE_TEXT_CHARS - 1] + "\u2026"
    return "".join(char if unicodedata.category(char)[0] != "C" else _REPLACEMENT for char in text).strip(_QUOTES + " ")
