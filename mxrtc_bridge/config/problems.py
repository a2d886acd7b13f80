"""Mistakes in a configuration: collected with their place, shown all at once.

Somebody who edits a file wants every mistake of it in one go, with the line to jump to, what was found, what is
allowed, and the name they probably meant. Nothing here prints a value that a caller has not passed through
:func:`quoted`, which bounds and escapes it; secrets are never passed at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value stands: names of keys and, for lists, positions from 0."""

Complain = Callable[[KeyPath, str], None]
"""Reports one mistake: where, and what."""

MAX_SHOWN_PROBLEMS = 50
"""More would scroll the first one off the screen."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake."""

    path: KeyPath
    message: str
    """What was found and what is allowed, as a phrase without a full stop."""
    line: int | None = None
    """Line in the file, from 1; None where the place is only known by ``path``."""


class InvalidConfigError(ConfigError):
    """The configuration has mistakes; ``str`` is the complete list, one a line.

    Attributes:
        problems: the mistakes in the order of the file, each with its line.
    """

    def __init__(self, source: str, problems: Iterable[Problem], lines: Mapping[KeyPath, int]) -> None:
        located = (Problem(p.path, p.message, p.line or line_of(p.path, lines)) for p in problems)
        self.problems = tuple(sorted(located, key=lambda problem: problem.line or 0))
        super().__init__(_report(source, self.problems))


def _report(source: str, problems: tuple[Problem, ...]) -> str:
    count = len(problems)
    rows = [f"the configuration {source} has {count} mistake{'s' if count != 1 else ''}:"]
    for problem in problems[:MAX_SHOWN_PROBLEMS]:
        where = f"{path_text(problem.path)}: " if problem.path else ""
        rows.append(f"  line {problem.line or 1}: {where}{problem.message}")
    if count > MAX_SHOWN_PROBLEMS:
        rows.append(f"  and {count - MAX_SHOWN_PROBLEMS} more")
    return "\n".join(rows)


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int | None:
    """The line of ``path``, or of its nearest parent that is in the file (a missing key has no line of its own)."""
    for length in range(len(path), -1, -1):
        line = lines.get(path[:length])
        if line is not None:
            return line
    return None


def path_text(path: KeyPath) -> str:
    """``path`` as people write it: ``grants[0].to[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{_name(part)}" if text else _name(part)
    return text


def _name(part: str) -> str:
    return part if part.isascii() and part.isprintable() and len(part) <= 64 else quoted(part)


def quoted(value: object) -> str:
    """``value`` for a message: escaped, and cut after 80 characters."""
    text = value if isinstance(value, str) else str(value)
    escaped = ascii(text[:80])
    return escaped if len(text) <= 80 else f"{escaped}..."


def near_miss(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word that is most like ``word``, or an empty string."""
    # The comparison is quadratic in the length, and nobody misspells a word into a thousand letters.
    found = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f"; did you mean {quoted(found[0])}?" if found else ""


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """The bridge runs, but perhaps not as meant."""
    FAIL = "fail"
    """The bridge cannot do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check."""

    level: Level
    what: str
    """What was found, as a sentence. Never a secret."""
    fix: str = ""
    """What to do about it; empty for ``OK``."""
