"""What the virtual users need from others: the homeserver, a directory of their rooms, and somebody who listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts


class PeerServer(Protocol):
    """What this module needs of the homeserver."""

    async def register_user(self, user: UserId) -> bool: ...

    async def set_displayname(self, user: UserId, name: str) -> bool: ...

    async def joined_rooms(self, as_user: UserId | None = None) -> tuple[RoomId, ...]: ...

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]: ...

    async def room_facts(self, room: RoomId, as_user: UserId | None = None) -> RoomFacts: ...

    async def join(self, room: RoomId, as_user: UserId | None = None) -> None: ...

    async def leave(self, room: RoomId, as_user: UserId | None = None, reason: str | None = None) -> None: ...


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
