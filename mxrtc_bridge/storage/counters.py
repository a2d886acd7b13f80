"""Numbers that people type, and that never stand for anything else again.

They are taken in blocks. What is left of a block at the end of a run, or after a failure whose outcome nobody knows, is
never used: numbers may be skipped, and never repeat.
"""

from __future__ import annotations

from mxrtc_bridge.storage.database import Database


class CounterStore:
    """The table ``counter``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(self, name: str, count: int) -> int:
        """Take the next ``count`` numbers of a counter, which begins at 1; returns the first of them.

        Raises:
            StorageError: the database does not take it.
        """
        rows = await self._database.write(
            "INSERT INTO counter (name, last) VALUES ($1, $2) "
            "ON CONFLICT (name) DO UPDATE SET last = counter.last + $2 RETURNING last",
            (name, count),
        )
        return int(rows[0]["last"]) - count + 1
