"""Which virtual users this database has made or taken over, so that no account of a person is taken for one of them."""

from __future__ import annotations

from collections.abc import Mapping

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.database import Database


class VirtualUserStore:
    """The table ``own_user``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Mapping[UserId, str]:
        """All of them, with how each came to be ours."""
        rows = await self._database.rows("SELECT user_id, how FROM own_user")
        return {UserId(row["user_id"]): row["how"] for row in rows}

    async def remember(self, user: UserId, how: str, now_ms: int) -> None:
        """Note that a user is ours, and how that came about."""
        await self._database.write(
            "INSERT INTO own_user (user_id, how, since_ms) VALUES ($1, $2, $3) "
            "ON CONFLICT (user_id) DO UPDATE SET how = excluded.how, since_ms = excluded.since_ms",
            (user, how, now_ms),
        )

    async def forget(self, user: UserId) -> None:
        """Note that a user is not ours after all."""
        await self._database.write("DELETE FROM own_user WHERE user_id = $1", (user,))
