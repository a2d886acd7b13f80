"""Tells a long path from a full one by its round trips. Pure: time is an argument.

A window that grows until something is lost fills every buffer on the way first; then a keystroke waits behind a second
of bulk data. So growth stops when the round trip is clearly longer than the shortest one seen lately. The window is
not made smaller for it: others may be those who fill the buffer.
"""

from __future__ import annotations

import math

FULL_S = 0.05
"""So much above the shortest round trip counts as a queue."""
MEMORY_S = 300.0
"""A path may change: the shortest round trip is that of the last five to ten minutes."""


class QueueingDelay:
    """Watches the round trips of one association."""

    def __init__(self) -> None:
        self._shortest = math.inf
        self._shortest_before = math.inf
        self._since = -math.inf

    def add(self, now: float, round_trip_s: float) -> None:
        """Note a measured round trip."""
        if now - self._since > MEMORY_S:
            self._shortest_before, self._shortest = self._shortest, math.inf
            self._since = now
        self._shortest = min(self._shortest, round_trip_s)

    def is_high(self, smoothed_s: float) -> bool:
        """Whether the smoothed round trip shows that packets queue somewhere."""
        return smoothed_s > min(self._shortest, self._shortest_before) + FULL_S
