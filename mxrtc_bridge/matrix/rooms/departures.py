"""Rooms that peers must leave, until they have left them: what cannot be left now is remembered, and left later.

Must never forget a room that was not left: until then the directory has it as well, so that the next start finds it.
"""

from __future__ import annotations

import asyncio
import logging

from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.ports import RoomDirectory
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex

log = logging.getLogger(__name__)

MAX_UNLEFT = 10_000
"""Rooms remembered because leaving them failed; beyond that the next start finds them."""
LEAVE_S = 5.0
"""How long leaving one room may take while others wait for it: another homeserver may have to say something."""
AT_ONCE = 8
"""Rooms that are left at the same time."""


class Departures:
    """See the head of this module.

    Args:
        homeserver: acts as any peer.
        directory: keeps rooms over restarts.
        index: the rooms that peers are in; one that has come into it again is not left.
        leave_s: See :data:`LEAVE_S`.
    """

    def __init__(
        self, homeserver: QuietHomeserver, directory: RoomDirectory, index: RoomIndex, *, leave_s: float = LEAVE_S
    ) -> None:
        self._homeserver = homeserver
        self._directory = directory
        self._index = index
        self._leave_s = leave_s
        self._unleft: dict[tuple[UserId, RoomId], None] = {}
        self._leaving = asyncio.Lock()
        """Held by whoever goes through them: at the same time each would be left twice."""

    def __len__(self) -> int:
        return len(self._unleft)

    def __contains__(self, place: tuple[UserId, RoomId]) -> bool:
        return place in self._unleft

    def note(self, peer: UserId, room: RoomId) -> None:
        """Have a room left by the next :meth:`leave_noted`."""
        if len(self._unleft) < MAX_UNLEFT:
            self._unleft[peer, room] = None

    def forget(self, peer: UserId, room: RoomId) -> None:
        """Keep a room after all."""
        self._unleft.pop((peer, room), None)

    async def leave(self, peer: UserId, room: RoomId) -> None:
        """Leave a room now; where that fails it is noted."""
        if await self.try_to_leave(peer, room):
            self.forget(peer, room)
            await self._directory.remove(peer, room)
        else:
            self.note(peer, room)

    async def try_to_leave(self, peer: UserId, room: RoomId) -> bool:
        """Leave or decline; a refusal means that the peer is not there, any other failure is False."""
        try:
            async with asyncio.timeout(self._leave_s):
                await self._homeserver.leave(room, peer)
        except (HomeserverError, TimeoutError) as error:
            log.debug("%s could not leave %s: %s", peer, room, str(error) or "no answer in time")
            return isinstance(error, HomeserverError) and error.is_outside
        return True

    async def leave_noted(self) -> None:
        """Leave what was noted, a few rooms at a time; what cannot be left stays noted."""

        async def leave(place: tuple[UserId, RoomId]) -> None:
            kept = self._index.get(place[1])
            if place in self._unleft and (kept is None or kept.peer != place[0]):
                try:
                    await self.leave(*place)
                except StorageError as error:
                    # It is left, and is forgotten when it has been idle, or after the next start.
                    log.debug("%s has left %s, which is still stored: %s", *place, error)

        async with self._leaving:
            await each(tuple(self._unleft), leave, AT_ONCE)
