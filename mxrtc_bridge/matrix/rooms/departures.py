"""Rooms that peers must leave, until they have left them: what cannot be left now is remembered, and left later.

Must never forget a room that was not left: until then the directory has it as well, so that the next start finds it.
Nor leave one twice at the same time, or one whose user has got the right back before it was left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

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

Place = tuple[UserId, RoomId]
"""A peer, and a room that it is in."""


class Departures:
    """See the head of this module.

    Args:
        homeserver: acts as any peer.
        directory: keeps rooms over restarts.
        index: the rooms that peers are in; one that has come into it again is not left.
        may_use: whether a user (second) has a right to a peer (first) now.
        keep: given a peer, a room and its user, where the peer is to stay: it has to be read anew.
        leave_s: See :data:`LEAVE_S`.
    """

    def __init__(
        self,
        homeserver: QuietHomeserver,
        directory: RoomDirectory,
        index: RoomIndex,
        *,
        may_use: Callable[[UserId, UserId], bool],
        keep: Callable[[UserId, RoomId, UserId], None],
        leave_s: float = LEAVE_S,
    ) -> None:
        self._homeserver = homeserver
        self._directory = directory
        self._index = index
        self._leave_s = leave_s
        self._may_use = may_use
        self._keep = keep
        self._unleft: dict[Place, UserId | None] = {}
        self._leaving: set[Place] = set()
        """What is being left just now: whoever else wants that leaves it alone."""

    def __len__(self) -> int:
        return len(self._unleft)

    def __contains__(self, place: Place) -> bool:
        return place in self._unleft

    @property
    def failed(self) -> int:
        """How many could not be left yet, and are not being left just now."""
        return len(self._unleft.keys() - self._leaving)

    def note(self, peer: UserId, room: RoomId, *, saved_by: UserId | None = None) -> None:
        """Have a room left by the next :meth:`leave_noted`.

        Args:
            peer: who is in it.
            room: the room.
            saved_by: the user who has lost the right to the peer: who gets it back in time keeps the room.
        """
        if len(self._unleft) < MAX_UNLEFT:
            self._unleft[peer, room] = saved_by

    def forget(self, peer: UserId, room: RoomId) -> None:
        """Keep a room after all."""
        self._unleft.pop((peer, room), None)

    def save(self) -> None:
        """Keep the rooms whose users have got the right back, and which are not being left yet."""
        for place in tuple(self._unleft):
            self._save(place)

    def _save(self, place: Place) -> bool:
        user = self._unleft.get(place)
        if user is None or place in self._leaving or not self._may_use(place[0], user):
            return False
        del self._unleft[place]
        if not self._is_kept(place):
            self._keep(*place, user)
        return True

    def _is_kept(self, place: Place) -> bool:
        known = self._index.get(place[1])
        return known is not None and known.peer == place[0]

    async def leave(self, peer: UserId, room: RoomId) -> None:
        """Leave a room now; where that fails it is noted."""
        place = (peer, room)
        if place in self._leaving:
            return
        self._leaving.add(place)
        try:
            left = await self.try_to_leave(peer, room)
        finally:
            self._leaving.discard(place)
        if left:
            self.forget(peer, room)
            await self._directory.remove(peer, room)
        elif not self._is_kept(place) and not self._save(place):
            self.note(peer, room, saved_by=self._unleft.get(place))

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

        async def leave(place: Place) -> None:
            if place in self._unleft and not self._is_kept(place) and not self._save(place):
                try:
                    await self.leave(*place)
                except StorageError as error:
                    # It is left, and is forgotten when it has been idle, or after the next start.
                    log.debug("%s has left %s, which is still stored: %s", *place, error)

        await each(tuple(self._unleft), leave, AT_ONCE)
