"""What the virtual users need from others: the homeserver, a directory of their rooms, and somebody who listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core.ids import RoomId, UserId


class StoredRoom(Protocol):
    """A room as the directory keeps it."""

    @property
    def peer(self) -> UserId: ...

    @property
    def room_id(self) -> RoomId: ...

    @property
    def user(self) -> UserId: ...


class RoomDirectory(Protocol):
    """Remembers durably which room belongs to whom, and when it was last used."""

    async def upsert(self, peer: UserId, room_id: RoomId, user: UserId, now_ms: int) -> None: ...

    async def touch(self, peer: UserId, room_id: RoomId, now_ms: int) -> None: ...

    async def remove(self, peer: UserId, room_id: RoomId) -> None: ...

    async def idle_since(self, before_ms: int) -> Sequence[StoredRoom]:
        """Rooms that were last used before ``before_ms``."""
        ...

    async def all(self) -> Sequence[StoredRoom]: ...


class RoomListener(Protocol):
    """Told about what ends calls; must not block."""

    def member_left(self, room: RoomId, user: UserId) -> None:
        """A party of the room has left it."""
        ...

    def room_changed(self, room: RoomId) -> None:
        """A third member has joined, or the others have left again."""
        ...


@dataclass(frozen=True, slots=True)
class PeerProfile:
    """A virtual user as the configuration has it."""

    user_id: UserId
    displayname: str
