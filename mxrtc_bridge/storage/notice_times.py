"""When each user was last sent a notice: a refused user hears from us once in a while, also across restarts.

Bounded: beyond :data:`MAX_USERS` the users who have waited longest are forgotten and may be told again. So a crowd can
at most bring each of its own members another notice, never fill the disk.
"""

from __future__ import annotations

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.database import Database

MAX_USERS = 10_000
_BATCH = 1000


class NoticeStore:
    """The table ``notice``."""

    def __init__(self, database: Database, *, max_users: int = MAX_USERS) -> None:
        self._database = database
        self._max_users = max_users

    async def may_notify(self, user: UserId, now_ms: int, every_ms: int) -> bool:
        """Whether ``user`` may be sent a notice now; if so, the time is taken down in the same step."""

        async def take(connection: Connection) -> bool:
            # A time in the future was written before the clock was set back; it must not silence us for ever.
            taken = await connection.fetchval(
                "INSERT INTO notice (user_id, last_ms) VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE "
                "SET last_ms = excluded.last_ms WHERE notice.last_ms <= $3 OR notice.last_ms > $2 RETURNING 1",
                user,
                now_ms,
                now_ms - every_ms,
            )
            if taken is None:
                return False
            await connection.execute(
                "DELETE FROM notice WHERE user_id IN "
                "(SELECT user_id FROM notice ORDER BY last_ms DESC, user_id LIMIT $1 OFFSET $2)",
                _BATCH,
                self._max_users,
            )
            return True

        return await self._database.transaction(take)
