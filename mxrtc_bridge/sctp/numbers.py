"""Sequence numbers of any age, and sets of them.

On the wire a TSN has 32 bits and wraps (RFC 1982 arithmetic). Inside, numbers are plain integers that never wrap:
:func:`unwrap` widens one at the border, next to a reference that is known to be near. Nothing behind the border
compares modulo anything.
"""

from __future__ import annotations

from bisect import bisect_right

MASK32 = 0xFFFFFFFF
MASK16 = 0xFFFF


def unwrap(wire: int, near: int) -> int:
    """Return the integer nearest to ``near`` whose low 32 bits are ``wire``."""
    return near + ((wire - near + 0x80000000) & MASK32) - 0x80000000


def unwrap16(wire: int, near: int) -> int:
    """Return the integer nearest to ``near`` whose low 16 bits are ``wire``."""
    return near + ((wire - near + 0x8000) & MASK16) - 0x8000


class Ranges:
    """A set of integers as sorted, disjoint, non-adjacent ranges, both ends included.

    Adding at the upper end is O(1), anywhere else O(log n) and a move inside the list.
    """

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def __len__(self) -> int:
        return len(self.starts)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self.starts, number) - 1
        return index >= 0 and number <= self.ends[index]

    def add(self, number: int) -> bool:
        """Add one number; False if it was there before."""
        starts, ends = self.starts, self.ends
        if ends and ends[-1] + 1 == number:
            ends[-1] = number
            return True
        index = bisect_right(starts, number)
        if index and number <= ends[index - 1]:
            return False
        joins_left = index > 0 and ends[index - 1] + 1 == number
        joins_right = index < len(starts) and starts[index] == number + 1
        if joins_left and joins_right:
            ends[index - 1] = ends[index]
            del starts[index], ends[index]
        elif joins_left:
            ends[index - 1] = number
        elif joins_right:
            starts[index] = number
        else:
            starts.insert(index, number)
            ends.insert(index, number)
        return True

    def add_range(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add ``start`` to ``end``; return the parts of it that were not there before, in order."""
        starts, ends = self.starts, self.ends
        first = bisect_right(starts, start) - 1
        if first >= 0 and end <= ends[first]:
            return []
        if first < 0 or ends[first] + 1 < start:
            first += 1
        missing: list[tuple[int, int]] = []
        position, last = start, first
        while last < len(starts) and starts[last] <= end + 1:
            if position < starts[last]:
                missing.append((position, starts[last] - 1))
            position = max(position, ends[last] + 1)
            last += 1
        if position <= end:
            missing.append((position, end))
        if last > first:
            start, end = min(start, starts[first]), max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]
        return missing

    def drop_to(self, number: int) -> int:
        """Remove everything up to ``number``, and what follows it without a gap; return the last number removed.

        Returns ``number`` itself when nothing follows it.
        """
        starts, ends = self.starts, self.ends
        index = bisect_right(starts, number + 1)
        if index and ends[index - 1] > number:
            number = ends[index - 1]
        del starts[:index], ends[:index]
        return number

    def discard_to(self, number: int) -> None:
        """Remove everything up to ``number``, and nothing else."""
        starts, ends = self.starts, self.ends
        index = bisect_right(starts, number)
        if index and ends[index - 1] > number:
            index -= 1
            starts[index] = number + 1
        del starts[:index], ends[:index]
