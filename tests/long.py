"""How long the tests look: more kills and larger files, or fewer drawn examples.

``make test-long`` asks for the former with ``MXRTC_LONG_TESTS=1``, ``make fast`` for the latter with
``MXRTC_FAST_TESTS=1``; an ordinary run does the same things at the size that stands beside each test.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

LONG = os.environ.get("MXRTC_LONG_TESTS", "") not in {"", "0"}
FAST = os.environ.get("MXRTC_FAST_TESTS", "") not in {"", "0"}


# Where the quick run has just been, only what does more in an ordinary one is run.
AFTER_FAST = os.environ.get("MXRTC_AFTER_FAST_TESTS", "") not in {"", "0"}


def is_the_same_when_fast(file: Path) -> bool:
    """Whether a quick run does all that an ordinary one does with this file of tests."""
    if not file.name.startswith("test_") or "sinks" in file.parts:  # on both loops, and on one for a quick look
        return False
    text = file.read_text()
    return "hypothesis" not in text and "tests.long" not in text


def examples(usual: int) -> int:
    """Return how many examples hypothesis draws where an ordinary run draws so many."""
    return max(usual // 20, 2) if FAST else usual


def size(usual: int, fast: int) -> int:
    """Return how much is made, sent or counted, where only the time that it takes is not the same for less."""
    return fast if FAST else usual


Case = TypeVar("Case")


def some(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Return the cases that are tried: all, and with few drawn examples so many of them, each time the same."""
    if not FAST:
        return cases
    return [cases[index] for index in sorted(random.Random(1).sample(range(len(cases)), number))]


def if_long(*cases: Case) -> tuple[Case, ...]:
    """Return the cases for a long run, and none for another."""
    return cases if LONG else ()
