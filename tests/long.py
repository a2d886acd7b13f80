"""How long the tests look: more kills and larger files, or fewer drawn examples.

``make test-long`` asks for the former with ``MXRTC_LONG_TESTS=1``, ``make fast`` for the latter with
``MXRTC_FAST_TESTS=1``; an ordinary run does the same things at the size that stands beside each test.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

LONG = os.environ.get("MXRTC_LONG_TESTS", "") not in {"", "0"}
FAST = os.environ.get("MXRTC_FAST_TESTS", "") not in {"", "0"}


def examples(usual: int) -> int:
    """Return how many examples hypothesis draws where an ordinary run draws so many."""
    return max(usual // 20, 2) if FAST else usual


Case = TypeVar("Case")


def some(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Return the cases that are tried: all, and with few drawn examples so many of them, each time the same."""
    if not FAST:
        return cases
    return [cases[index] for index in sorted(random.Random(1).sample(range(len(cases)), number))]
