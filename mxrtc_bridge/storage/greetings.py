"""The rooms in which a peer has greeted its user: it does so once, also across restarts and when it comes again.

Bounded: beyond :data:`MAX_ROOMS` the rooms that were greeted longest ago are forgotten, and greeted again when a peer
joins them once more.
"""

from __future__ import annotations

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.ids import RoomId
from mxrtc_bridge.storage.database import Database

MAX_ROOMS = 10_000
_BATCH = 1000


class GreetingStore:
    """The table ``greeting``."""

    def __init__(self, database: Database, *, max_rooms: int = MAX_ROOMS) -> None:
        self._database = database
        self._max_rooms = max_rooms

    async def is_first(self, room: RoomId, now_ms: int) -> bool:
        """Whether nobody was greeted in this room; it counts as greeted from then on, in the same step.

        Raises:
            StorageError: the database does not take it.
        """

        async def take(connection: Connection) -> bool:
            taken = await connection.fetchval(
                "INSERT INTO greeting (room_id, at_ms) VALUES ($1, $2) ON CONFLICT (room_id) DO NOTHING RETURNING 1",
                room,
                now_ms,
            )
            if taken is None:
                return False
            await connection.execute(
                "DELETE FROM greeting WHERE room_id IN "
                "(SELECT room_id FROM greeting ORDER BY at_ms DESC, room_id LIMIT $1 OFFSET $2)",
                _BATCH,
                self._max_rooms,
            )
            return True

        return await self._database.transaction(take)
