"""The rooms that peers are in, each with the one user it is for and the time of the last activity."""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.storage.database import Database

MAX_LISTED = 100_000
"""Rooms that one answer holds; with more than that, ask again after leaving some."""


@dataclass(frozen=True, slots=True)
class PeerRoomRow:
    """One room of one peer."""

    peer: UserId
    room_id: RoomId
    user: UserId


class RoomStore:
    """The table ``peer_room``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def upsert(self, peer: UserId, room_id: RoomId, user: UserId, now_ms: int) -> None:
        """Store that ``peer`` is in the room for ``user``, active now."""
        await self._database.write(
            "INSERT INTO peer_room (peer, room_id, user_id, last_active_ms) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (peer, room_id) DO UPDATE "
            "SET user_id = excluded.user_id, last_active_ms = excluded.last_active_ms",
            (peer, room_id, user, now_ms),
        )

    async def touch(self, peer: UserId, room_id: RoomId, now_ms: int) -> None:
        """Move the last activity forward; never back, and nothing happens for a room that is not stored."""
        await self._database.write(
            "UPDATE peer_room SET last_active_ms = $3 WHERE peer = $1 AND room_id = $2 AND last_active_ms < $3",
            (peer, room_id, now_ms),
        )

    async def remove(self, peer: UserId, room_id: RoomId) -> None:
        """Forget the room; removing it again is harmless."""
        await self._database.write("DELETE FROM peer_room WHERE peer = $1 AND room_id = $2", (peer, room_id))

    async def idle_since(self, before_ms: int) -> list[PeerRoomRow]:
        """Rooms whose last activity was before ``before_ms``, the longest idle first."""
        return await self._list("WHERE last_active_ms < $2", before_ms)

    async def all(self) -> list[PeerRoomRow]:
        """All rooms, the longest idle first."""
        return await self._list("")

    async def _list(self, condition: str, *values: int) -> list[PeerRoomRow]:
        rows = await self._database.rows(
            f"SELECT peer, room_id, user_id FROM peer_room {condition} "  # noqa: S608 - ours
            "ORDER BY last_active_ms, peer, room_id LIMIT $1",
            (MAX_LISTED, *values),
        )
        return [PeerRoomRow(*row) for row in rows]
