"""Who is joined to the rooms that grants name, as far as the bot can see.

Only an answer of the homeserver makes anybody a member; an event only ever takes a member away, when it arrives, and
else is a reason to ask. So no event that comes late, twice or forged lets anybody in, and one that never comes is found
out by the next answer. Where nothing is known nobody is a member, so a grant to the members of that room gives nothing.

An answer may be older than an event, also when it was asked for later: a homeserver of several processes may answer by
what it knew a moment ago. So whoever was just taken away stays away for :data:`SETTLE_S`, and the room is asked for
once more then; and so it is after a change of its access list. A room with more than :data:`MAX_MEMBERS` members is not
kept: nobody counts as one of its members until it is asked for again and has fewer.

Whose server the room's access list shuts out (:mod:`mxrtc_bridge.core.access.server_acl`) counts as no member: such
people can do nothing in the room any more, and are joined to it still.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mxrtc_bridge.core.access.server_acl import ACL_TYPE, ServerAcl
from mxrtc_bridge.core.ids import RoomId, UserId, server_of
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S

log = logging.getLogger(__name__)

MAX_MEMBERS = 20_000
MAX_GONE = 1000
"""Members of one room that were taken away lately; beyond that the whole answer has to be younger."""


@dataclass(frozen=True, slots=True)
class _Gone:
    """Somebody who was taken away: younger than every answer whose question was asked before."""

    number: int
    """Of the news, in the order of arrival."""
    until: float
    """Questions that are asked before this time do not count either."""


class MemberLists:
    """The lists.

    Args:
        homeserver: acts as the bot.
        bot: who sees.
        changed: told after each change for whom it is one; must not block.
        monotonic: seconds.
    """

    def __init__(
        self,
        homeserver: QuietHomeserver,
        bot: UserId,
        changed: Callable[[Collection[UserId]], None],
        monotonic: Callable[[], float] = elapsed_s,
        *,
        max_gone: int = MAX_GONE,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        self._max_members = max_members
        self._max_gone = max_gone
        self._homeserver = homeserver
        self._bot = bot
        self._changed = changed
        self._monotonic = monotonic
        self._members: dict[RoomId, set[UserId]] = {}
        self._rooms: dict[UserId, set[RoomId]] = {}
        self._asking: Counter[RoomId] = Counter()
        self._number = 0
        """Of the last news."""
        self._gone: dict[RoomId, OrderedDict[UserId, _Gone]] = {}
        self._unsure: dict[RoomId, _Gone] = {}
        """Rooms in which too many were taken away to know each of them."""
        self._forgotten: dict[RoomId, int] = {}
        """When a room was forgotten for which a question was under way."""
        self._too_large: set[RoomId] = set()
        self._settling: dict[RoomId, float] = {}
        """Rooms whose access list has changed: until then an answer may hold the one before."""
        self._seldom = RateLimitedLog(log, monotonic)

    def rooms_of(self, user: UserId) -> frozenset[RoomId]:
        """The rooms, of those that are known, that ``user`` is joined to."""
        return frozenset(self._rooms.get(user, ()))

    def members(self, room: RoomId) -> frozenset[UserId] | None:
        """The members of a room; None if they are not known."""
        found = self._members.get(room)
        return None if found is None else frozenset(found)

    def knows(self, room: RoomId) -> bool:
        """Whether this room is followed: its members are known, or too many."""
        return room in self._members or room in self._too_large

    async def learn(self, room: RoomId) -> float | None:
        """Ask who is in a room that the bot is in, and take the answer over; until then all stays as it is.

        Returns:
            After how many seconds the room must be asked for again, because the answer may be too old; or None.

        Raises:
            HomeserverError: the homeserver did not say; nothing has changed.
        """
        number, began = self._number, self._monotonic()
        self._asking[room] += 1
        try:
            # One after the other: where one is refused, nobody would wait for the other any more.
            found = await self._homeserver.joined_members(room, self._bot)
            acl = await self._homeserver.state(room, ACL_TYPE, as_user=self._bot)
            if acl is not None:  # which may hold thousands of patterns
                found = await in_new_thread(_let_in, found, acl)
        finally:
            self._asking[room] -= 1
            last = not self._asking[room]
            if last:
                del self._asking[room]
        forgotten = self._forgotten.get(room, -1) >= number
        if last:
            self._forgotten.pop(room, None)
        if forgotten:
            return None
        if (unsure := self._unsure.get(room)) is not None:
            if _overtakes(unsure, number, began):
                return SETTLE_S
            del self._unsure[room]
        gone = self._gone.get(room, OrderedDict())
        away = {user for user, end in gone.items() if _overtakes(end, number, began)}
        if last:
            for user in gone.keys() - away:
                del gone[user]
            if not gone:
                self._gone.pop(room, None)
        self._set(room, found - away)
        return SETTLE_S if self._is_settling(room, began) or found & away else None

    def forget(self, room: RoomId) -> None:
        """Know nothing of a room any more: the bot is not in it."""
        if self._asking[room]:
            self._forgotten[room] = self._number
        self._too_large.discard(room)
        self._gone.pop(room, None)
        self._unsure.pop(room, None)
        self._settling.pop(room, None)
        if members := self._members.pop(room, set()):
            self._take_away(room, members)
            self._changed(members)

    def look(self, room: RoomId, user: UserId, *, joined: bool) -> bool:
        """Take news of a membership into account as soon as they arrive, in whatever state they are.

        Returns:
            Whether the homeserver must be asked who is in the room now.
        """
        self._number += 1
        members = self._members.get(room)
        if members is None and not self._asking[room]:
            return False
        known = members is not None and user in members
        gone = self._gone.setdefault(room, OrderedDict())
        if joined:
            if user in gone:
                # Joined again, perhaps: only a question that is asked from now on can say.
                gone[user] = _Gone(self._number, 0.0)
            return not known
        # Also who does not seem to be a member: they may have joined a moment ago.
        self._note_gone(room, gone, user)
        if members is not None and known:
            members.discard(user)
            self._take_away(room, (user,))
            self._changed((user,))
        return known

    def access_list_changed(self, room: RoomId) -> None:
        """Have a room that is asked for now asked for once more, as the answer may hold its access list of before."""
        if self.knows(room) or self._asking[room]:
            self._settling[room] = self._monotonic() + SETTLE_S

    def _is_settling(self, room: RoomId, began: float) -> bool:
        """Whether an answer to a question that was asked then may hold another access list than there is."""
        if self._settling.get(room, began) > began:
            return True
        self._settling.pop(room, None)
        return False

    def _note_gone(self, room: RoomId, gone: OrderedDict[UserId, _Gone], user: UserId) -> None:
        now = self._monotonic()
        gone.pop(user, None)  # it goes to the end: they are in the order of time
        if not self._asking[room]:
            while gone and gone[first := next(iter(gone))].until <= now:
                del gone[first]
        end = _Gone(self._number, now + SETTLE_S)
        if len(gone) < self._max_gone:
            gone[user] = end
        else:
            self._unsure[room] = end

    def _set(self, room: RoomId, members: frozenset[UserId]) -> None:
        if len(members) > self._max_members:
            if room not in self._too_large:
                self._seldom.warning(
                    room, "! %s has more than %d members; nobody counts as one", room, self._max_members
                )
            self._too_large.add(room)
            members = frozenset()
        else:
            self._too_large.discard(room)
        before = self._members.pop(room, set())
        if room not in self._too_large:
            self._members[room] = set(members)
        self._take_away(room, before - members)
        for user in members - before:
            self._rooms.setdefault(user, set()).add(room)
        if before != members:
            self._changed(before ^ members)

    def _take_away(self, room: RoomId, users: Collection[UserId]) -> None:
        for user in users:
            rooms = self._rooms.get(user)
            if rooms is not None:
                rooms.discard(room)
                if not rooms:
                    del self._rooms[user]


def _let_in(members: frozenset[UserId], acl: Mapping[str, object]) -> frozenset[UserId]:
    """The members whose server the access list of their room does not shut out."""
    of_room = ServerAcl(acl)
    out = {server: of_room.shuts_out(server) for server in set(map(server_of, members))}
    return frozenset(user for user in members if not out[server_of(user)])


def _overtakes(end: _Gone, number: int, began: float) -> bool:
    """Whether news count for more than the answer to a question."""
    return end.number > number or end.until > began
