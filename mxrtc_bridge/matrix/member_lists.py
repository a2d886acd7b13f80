"""Who is joined to the rooms that grants name, as far as the bot can see.

A list is believed only while the bot is in the room: learned from the homeserver when it joins and at every start,
then kept up to date by the events of the room, which come in order. Where nothing is known nobody is a member, so a
grant to the members of that room gives nothing. A room with more than :data:`MAX_MEMBERS` members is not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from mxrtc_bridge.core.ids import RoomId, UserId

log = logging.getLogger(__name__)

MAX_MEMBERS = 20_000
_ATTEMPTS = 5


class MemberServer(Protocol):
    """What this module needs of the homeserver."""

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]: ...


class MemberLists:
    """The lists.

    Args:
        homeserver: acts as the bot.
        bot: who sees.
        changed: called after each change; must not block.
    """

    def __init__(self, homeserver: MemberServer, bot: UserId, changed: Callable[[], None]) -> None:
        self._homeserver = homeserver
        self._bot = bot
        self._changed = changed
        self._members: dict[RoomId, set[UserId]] = {}
        self._rooms: dict[UserId, set[RoomId]] = {}
        self._events: dict[RoomId, int] = {}
        """How many events of a room were seen: a list that was asked for meanwhile is asked for again."""

    def rooms_of(self, user: UserId) -> frozenset[RoomId]:
        """The rooms, of those that are known, that ``user`` is joined to."""
        return frozenset(self._rooms.get(user, ()))

    def members(self, room: RoomId) -> frozenset[UserId] | None:
        """The members of a room; None if they are not known."""
        found = self._members.get(room)
        return None if found is None else frozenset(found)

    async def learn(self, room: RoomId) -> None:
        """Ask who is in a room, once the bot is.

        Raises:
            HomeserverError: the homeserver did not say; nobody is a member until it does.
        """
        self.forget(room)
        for _ in range(_ATTEMPTS):
            seen = self._events.get(room, 0)
            members = await self._homeserver.joined_members(room, self._bot)
            if self._events.get(room, 0) == seen:
                self._set(room, members)
                return
        log.warning("! the members of %s change too fast to be learned; nobody counts as one for now", room)

    def forget(self, room: RoomId) -> None:
        """Know nothing of a room any more."""
        for user in self._members.pop(room, ()):
            self._remove(room, user)
        self._changed()

    def apply(self, room: RoomId, user: UserId, membership: object) -> None:
        """Take a membership event of a room into account."""
        self._events[room] = self._events.get(room, 0) + 1
        members = self._members.get(room)
        if members is None:
            return
        if membership == "join":
            if user not in members and len(members) >= MAX_MEMBERS:
                log.warning("! %s has more than %d members; nobody counts as one", room, MAX_MEMBERS)
                self.forget(room)
                return
            members.add(user)
            self._rooms.setdefault(user, set()).add(room)
        elif user in members:
            members.discard(user)
            self._remove(room, user)
        else:
            return
        self._changed()

    def _set(self, room: RoomId, members: Iterable[UserId]) -> None:
        found = set(members)
        if len(found) > MAX_MEMBERS:
            log.warning("! %s has more than %d members; nobody counts as one", room, MAX_MEMBERS)
            return
        self._members[room] = found
        for user in found:
            self._rooms.setdefault(user, set()).add(room)
        self._changed()

    def _remove(self, room: RoomId, user: UserId) -> None:
        rooms = self._rooms.get(user)
        if rooms is not None:
            rooms.discard(room)
            if not rooms:
                del self._rooms[user]
