"""What becomes of an end that is a time of the wall clock when that clock is set.

An end counts by whichever comes first: the wall clock shows the time that was named, or as much time has passed as was
left when it was named. So a clock that is set forward ends a right at once, as it may have been wrong before, and one
that is set back lengthens nothing. Time that passes is told by a clock that nobody sets, and that goes on while the
machine sleeps.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

SET_TOLERANCE_MS = 500
"""Differences up to this are slewing and late timers; a clock that is set by less changes nothing that counts."""
_SLACK = 64

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment, by both clocks."""

    wall_ms: int
    """Since the epoch; may be set to anything."""
    elapsed_ms: int
    """Since some moment that does not matter; never goes back."""


def set_by_ms(before: Moment, after: Moment) -> int:
    """By how much the wall clock was set between two moments; 0 for what is within the tolerance."""
    difference = (after.wall_ms - before.wall_ms) - (after.elapsed_ms - before.elapsed_ms)
    return difference if abs(difference) > SET_TOLERANCE_MS else 0


class SteadyTime:
    """A wall clock that may jump forward, and never falls behind what it was plus the time that has passed.

    Args:
        start: from when on.
    """

    def __init__(self, start: Moment) -> None:
        self._start = start

    def now_ms(self, now: Moment) -> int:
        """The time since the epoch that ends are compared with."""
        return max(now.wall_ms, self._start.wall_ms + now.elapsed_ms - self._start.elapsed_ms)


class Deadlines(Generic[KeyT]):
    """Ends of things that are added and taken out at any time. A key counts once; as many are kept as are alive."""

    def __init__(self) -> None:
        self._ends: dict[KeyT, tuple[int, int]] = {}
        self._by_wall: list[tuple[int, KeyT]] = []
        self._by_elapsed: list[tuple[int, KeyT]] = []

    def __len__(self) -> int:
        """How many are remembered, those that were taken back and not yet forgotten included."""
        return len(self._by_wall)

    def add(self, key: KeyT, until_ms: int, now: Moment) -> None:
        """Add what ends at ``until_ms`` of the wall clock."""
        end = (until_ms, now.elapsed_ms + until_ms - now.wall_ms)
        self._ends[key] = end
        heapq.heappush(self._by_wall, (end[0], key))
        heapq.heappush(self._by_elapsed, (end[1], key))

    def discard(self, key: KeyT) -> None:
        """Forget what has ended in another way."""
        self._ends.pop(key, None)
        if len(self._by_wall) > 2 * len(self._ends) + _SLACK:
            self._by_wall = [(end[0], each) for each, end in self._ends.items()]
            self._by_elapsed = [(end[1], each) for each, end in self._ends.items()]
            heapq.heapify(self._by_wall)
            heapq.heapify(self._by_elapsed)

    def take_ended(self, now: Moment) -> list[KeyT]:
        """Take out what has ended, and return it."""
        ended: list[KeyT] = []
        for which, at_ms in ((0, now.wall_ms), (1, now.elapsed_ms)):
            while (first := self._first(which)) is not None and first[0] <= at_ms:
                del self._ends[first[1]]
                ended.append(first[1])
        return ended

    def next_in_ms(self, now: Moment) -> int | None:
        """In how many milliseconds the next one ends, if nobody sets the clock; None if there is none."""
        by_wall, by_elapsed = self._first(0), self._first(1)
        if by_wall is None or by_elapsed is None:
            return None
        return max(0, min(by_wall[0] - now.wall_ms, by_elapsed[0] - now.elapsed_ms))

    def _first(self, which: int) -> tuple[int, KeyT] | None:
        heap = (self._by_wall, self._by_elapsed)[which]
        while heap:
            at_ms, key = heap[0]
            if self._ends.get(key, (None, None))[which] == at_ms:
                return heap[0]
            heapq.heappop(heap)
        return None
