"""How many rows a table may still get before anybody can have too many of them.

To find out who has too much, a whole table is counted. That is of no use while fewer rows were written since the last
time than were missing then, so until that many were written nobody counts. Nothing of it is stored: after a start it is
counted once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

TOLERATED = 1000
"""Rows by which a table may pass its bound until it is counted again: one that is full would be at each writing."""


class SpareRows:
    """Of one table, or of a part of it.

    Args:
        tolerated: see :data:`TOLERATED`.
    """

    def __init__(self, tolerated: int = TOLERATED) -> None:
        self._tolerated = tolerated
        self._written = 0
        self._enough_until = -1

    def write(self, rows: int) -> None:
        """Rows are about to be written; whether they are stored need not be known."""
        self._written += rows

    async def may_be_exceeded(self, missing: Callable[[], Awaitable[int]]) -> bool:
        """Whether there are too many rows, as far as that may be.

        Args:
            missing: counts, and returns how many are missing to the bound; less than 0 where there are too many.
        """
        if self._written <= self._enough_until:
            return False
        before = self._written
        spare = await missing()
        self._enough_until = before + max(spare, self._tolerated)
        return spare < 0
