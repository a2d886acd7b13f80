"""What a check of the installation found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
