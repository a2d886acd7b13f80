"""Rooms that have taken the place of others: a room that is upgraded ends, and its members go to a new one.

Both rooms must say so: the old one by ``m.room.tombstone``, which only those may send who could let anybody into it as
well, and the new one in its ``m.room.create``, which nobody can change. Both are asked of the homeserver; an event that
says so is a reason to ask. The new room is joined to find out, so the bot has to be invited there, or anybody let in.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId, server_of
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver, RoomFacts

log = logging.getLogger(__name__)

MAX_SERVERS = 3
"""Of those in the old room, by which a new one is joined that our homeserver does not know."""
MAX_SUCCESSORS = 10
"""Rooms that are followed one after the other; the tenth keeps the name until its id is written down."""


class Successions:
    """See the head of this module.

    Args:
        homeserver: acts as the bot.
        bot: who joins the new rooms.
        mistaken: told of each room that was joined, or that the bot was in, and that is not what the old one says.
    """

    def __init__(self, homeserver: QuietHomeserver, bot: UserId, mistaken: Callable[[RoomId], None]) -> None:
        self._mistaken = mistaken
        self._homeserver = homeserver
        self._bot = bot
        self._after: dict[RoomId, RoomId] = {}
        self._closed: dict[RoomId, RoomId] = {}
        self.joining: set[RoomId] = set()
        """New rooms that are being joined, of which it is not known yet whether they are what the old ones say."""

    def note(self, old: RoomId, new: RoomId) -> None:
        """From now on ``new``, which was entered, stands for ``old``."""
        self._after[old] = new
        self._closed.pop(old, None)

    def now(self, room: RoomId) -> RoomId:
        """The room that stands for ``room``: itself, if no other has taken its place."""
        for _ in range(MAX_SUCCESSORS):
            room = self._after.get(room, room)
        return room

    def way(self, room: RoomId) -> frozenset[RoomId]:
        """The rooms by which the one is found that stands for ``room``, both included."""
        found = {room}
        while (room := self._after.get(room, room)) not in found:
            found.add(room)
        return frozenset(found)

    def is_awaited(self, room: RoomId) -> bool:
        """Whether a room that we know says that ``room`` has taken its place, where we were not let in yet."""
        return room in self._closed.values()

    def as_named(self, rooms: Collection[RoomId]) -> frozenset[RoomId]:
        """What some rooms stand for: one whose place was taken stands for nothing, and the new one for the old as well.

        Who is left in the old room counts no more: whoever is kicked is kicked from the new one.
        """
        if not self._after:
            return frozenset(rooms)
        return frozenset(room for room in rooms if room not in self._after) | frozenset(
            old for old in self._after if self.now(old) in rooms
        )

    async def follow(self, room: RoomId) -> tuple[Sequence[tuple[RoomId, RoomFacts]], str]:
        """Go from a room that the bot is in to the one that stands for it now.

        Returns:
            The rooms on the way, the last one that could be entered at the end, and why it goes no further, or "".

        Raises:
            HomeserverError: what the first one is like could not be found out.
        """
        facts = await self._homeserver.room_facts(room, self._bot, succession=True)
        way = [(room, facts)]
        while (new := facts.replaced_by) is not None:
            if new in [each for each, _ in way] or len(way) > MAX_SUCCESSORS:
                return way, f"{room} says that {new} has taken its place, which leads in a circle or too far"
            self.joining.add(new)
            try:
                await self._join(new, room)
                facts = await self._homeserver.room_facts(new, self._bot, succession=True)
                if facts.predecessor != room:
                    self._mistaken(new)
                    return way, f"{room} says that {new} has taken its place, which does not say so itself"
            except HomeserverError as error:
                self._closed[room] = new
                return way, f"{room} was replaced by {new}, which it cannot enter: {error}"
            finally:
                self.joining.discard(new)
            way.append((new, facts))
            room = new
        return way, ""

    async def _join(self, new: RoomId, old: RoomId) -> None:
        """Join the new room, which is often in reach only by servers that are in the old one.

        Raises:
            HomeserverError: it cannot be joined.
        """
        try:
            await self._homeserver.join(new, self._bot)
        except HomeserverError as error:
            # An id says nothing about where the room is, so a homeserver that nobody has invited does not find it.
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            members = await self._homeserver.joined_members(old, self._bot)
            servers = Counter(server_of(user) for user in members if server_of(user) != server_of(self._bot))
            for server, _ in servers.most_common(MAX_SERVERS):
                try:
                    await self._homeserver.join_by(new, server, self._bot)
                except HomeserverError as other:
                    log.debug("%s cannot be joined by %s: %s", new, server, other)
                else:
                    return
            raise
