"""Which virtual users this database has made or taken over, so that no account of a person is taken for one of them."""

from __future__ import annotations

from collections.abc import Mapping

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.database import Database


class VirtualUserStore:
    """The table ``own_user``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Mapping[UserId, str]:
        """All of them, with how each came to be ours."""

        async def select(connection: Connection) -> Mapping[UserId, str]:
            rows = await connection.fetch("SELECT user_id, how FROM own_user")
            return {UserId(row["user_id"]): row["how"] for row in rows}

        return await self._database.read(select)

    async def remember(self, user: UserId, how: str, now_ms: int) -> None:
        """Note that a user is ours, and how that came about."""

        async def upsert(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO own_user (user_id, how, since_ms) VALUES ($1, $2, $3) "
                "ON CONFLICT (user_id) DO UPDATE SET how = excluded.how, since_ms = excluded.since_ms",
                user,
                how,
                now_ms,
            )

        await self._database.transaction(upsert)

    async def forget(self, user: UserId) -> None:
        """Note that a user is not ours after all."""

        async def delete(connection: Connection) -> None:
            await connection.execute("DELETE FROM own_user WHERE user_id = $1", user)

        await self._database.transaction(delete)
