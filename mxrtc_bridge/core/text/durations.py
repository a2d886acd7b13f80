"""How long something lasts, as people type it and read it: ``90m``, ``2 hours``, ``1h30m``.

The same in chats, at the command line and in the configuration.
"""

from __future__ import annotations

import re

MAX_DURATION_S = 90 * 24 * 3600
"""The longest time that can be asked for; what may be given is limited by the configuration."""
MIN_DURATION_S = 1
HOW_TO_WRITE = "write 30m, 2h or 3d, at most 90d"
"""What people read who have typed something else, in chats and at the command line."""
_DURATION = re.compile(r"(?:\d{1,9}[a-z]{1,7})+")
_PART = re.compile(r"(\d{1,9})([a-z]{1,7})")
_UNITS = {
    0.001: ("ms",),
    1: ("s", "sec", "secs", "second", "seconds"),
    60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hr", "hrs", "hour", "hours"),
    86400: ("d", "day", "days"),
    604800: ("w", "week", "weeks"),
}
_SECONDS = {word: seconds for seconds, words in _UNITS.items() for word in words}


def parse_duration(text: str, *, least_s: float = MIN_DURATION_S, most_s: float = MAX_DURATION_S) -> float | None:
    """Read ``500ms``, ``45s``, ``30m``, ``2h``, ``3d``, ``1w`` or ``1h30m`` as seconds; None where it is none of these.

    Args:
        text: what was typed.
        least_s: what is shorter is none.
        most_s: what is longer is none.
    """
    folded = text.lower()
    if len(folded) > 40 or not folded.isascii() or _DURATION.fullmatch(folded) is None:
        return None
    seconds = 0.0
    for number, unit in _PART.findall(folded):
        if unit not in _SECONDS:
            return None
        seconds += int(number) * _SECONDS[unit]
    return seconds if least_s <= seconds <= most_s else None


def take_duration(words: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """Read whole seconds from the first word, or from the first two (``2 hours``); returns them and the other words."""
    if not words:
        return None, words
    taken = 2 if words[0].isascii() and words[0].isdigit() and len(words) > 1 else 1
    seconds = parse_duration("".join(words[:taken]))
    return None if seconds is None else int(seconds), words[taken:]


def typed_duration(text: str) -> int | None:
    """Read all of a text as whole seconds, as it is typed as one argument; None where it is none."""
    seconds, more = take_duration(tuple(text.split()))
    return None if more else seconds


def say_rest(seconds: float) -> str:
    """Write how long something lasts yet: to the nearest minute where it is an hour or more, so that 2h are 2h."""
    unit = 1 if seconds < 3570 else 60
    return say_duration(round(seconds / unit) * unit)


def say_duration(seconds: float) -> str:
    """Write a time the way it can be typed: at most two units, rounded down."""
    left = max(0, int(seconds))
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
