"""Who is in the rooms for calls: what makes a room unfit counts when it arrives, what makes it fit is asked for.

A room is fit for a call while exactly its peer and its user are joined. That one of them is not any more, or that a
third one is, counts at once, whatever else the event is like and whatever waits in front of it, and also when it is an
old event that has come again. Everything else, and what to do then, follows from the homeserver's answer: only that
makes a room fit again, and no room is left because of an event alone.

An answer may be older than an event (see :data:`SETTLE_S`): what made the room unfit lately counts for more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from mxrtc_bridge.core.access.revocations import EncryptionChange, MembershipChange, News, UnreadableChange
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.ports import RoomListener
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S, Refresher
from mxrtc_bridge.matrix.rooms.room_index import Heard, PeerRoom, RoomIndex

log = logging.getLogger(__name__)

MAX_HEARD = 100
"""Members of one room that news are kept of. Beyond that the room is unfit anyway."""
MAX_MEANWHILE = 1000
"""News that are kept while a room is being entered; beyond that the answer is asked for again."""


class PeerMembership:
    """See the head of this module. Its :attr:`refresher` must run.

    Args:
        homeserver: acts as any peer.
        index: the rooms.
        listener: told what ends calls.
        gone: called when the peer or the user of a room, which it is given, has left it; has the room forgotten.
        third: called when somebody else is in a room.
        monotonic: seconds.
    """

    def __init__(
        self,
        homeserver: QuietHomeserver,
        index: RoomIndex,
        listener: RoomListener,
        *,
        gone: Callable[[PeerRoom, UserId], Awaitable[None]],
        third: Callable[[PeerRoom], None],
        monotonic: Callable[[], float] = elapsed_s,
    ) -> None:
        self._homeserver = homeserver
        self._index = index
        self._listener = listener
        self._gone = gone
        self._third = third
        self._monotonic = monotonic
        self._meanwhile: dict[RoomId, list[News]] = {}
        self.refresher = Refresher("who is in a room for calls", self._compare, monotonic=monotonic)

    @contextmanager
    def entering(self, room: RoomId) -> Iterator[None]:
        """While somebody finds out who is in a room, to enter it into the index: what arrives meanwhile counts then."""
        outermost = room not in self._meanwhile
        self.expect(room)
        try:
            yield
        finally:
            if outermost:
                self.entered(room)

    def expect(self, room: RoomId) -> None:
        """As :meth:`entering`, until :meth:`entered`: a room whose turn comes later."""
        self._meanwhile.setdefault(room, [])

    def entered(self, room: RoomId) -> None:
        """The room is in the index, or will not be."""
        for news in self._meanwhile.pop(room, ()):
            self.look(news)

    def look(self, news: News) -> None:
        """Take news into account as soon as they arrive."""
        if not isinstance(news, MembershipChange | EncryptionChange | UnreadableChange):
            return
        if news.room is None:
            for each in (*self._meanwhile, *(room.room_id for room in self._index)):
                self.look(UnreadableChange(each))
            return
        meanwhile = self._meanwhile.get(news.room)
        if meanwhile is not None:
            meanwhile.append(news if len(meanwhile) < MAX_MEANWHILE else UnreadableChange(news.room))
            del meanwhile[MAX_MEANWHILE + 1 :]
        room = self._index.get(news.room)
        if room is None:
            return
        match news:
            case EncryptionChange():
                room.encrypted = True
            case UnreadableChange():
                room.changes += 1
                room.unread = True
                self.refresher.doubt(room.room_id)
            case MembershipChange(user=user, joined=joined):
                self._look_at_member(room, user, joined=joined)

    def compare(self, rooms: Iterable[RoomId], older_than_s: float, limit: int) -> None:
        """Have the homeserver asked who is in some rooms: those whose last answer is too old, the oldest first."""
        ages = {room: self.refresher.age(room) for room in rooms if self._index.get(room) is not None}
        due = sorted((float("-inf") if age is None else -age, room) for room, age in ages.items())
        for age, room in due[:limit]:
            if -age >= older_than_s:
                self.refresher.doubt(room)

    def _look_at_member(self, room: PeerRoom, user: UserId, *, joined: bool) -> None:
        fits = joined == (user in (room.peer, room.user))
        if fits and joined == (user in room.members):
            return
        # A question that is under way may be older than this.
        room.changes += 1
        known = joined == (user in room.members)
        if not known:
            self.refresher.doubt(room.room_id)
        if fits:
            # Back, or gone again, perhaps: only a question that is asked from now on can say.
            room.heard.pop(user, None)
            return
        if user in room.heard or len(room.heard) < MAX_HEARD:
            before = room.heard.get(user)
            lost = not known or (before is not None and before.changed)
            room.heard[user] = Heard(joined, self._monotonic(), lost)
        if known:
            return
        if joined:
            room.members.add(user)
            self._listener.room_changed(room.room_id)
        else:
            room.members.discard(user)
            self._listener.member_left(room.room_id, user)

    async def _compare(self, room_id: RoomId) -> float | None:
        room = self._index.get(room_id)
        if room is None:
            self.refresher.forget(room_id)
            return None
        changes, began = room.changes, self._monotonic()
        if room.unread:
            if (await self._homeserver.room_facts(room_id, room.peer)).encrypted:
                room.encrypted = True
            room.unread = False
        found = await self._members_now(room)
        if self._index.get(room_id) is not room:
            return None
        if room.changes != changes:
            return 0.0
        return await self._take_over(room, found, began)

    async def _take_over(self, room: PeerRoom, found: frozenset[UserId], began: float) -> float | None:
        before, heard = room.members, room.heard.get(room.user)
        was_there = room.user in before or (heard is not None and heard.changed)
        room.members = self._with_what_was_heard(room, found, began)
        # Of a peer that is not there itself nothing is known of the others.
        lost = room.user if room.peer in found else room.peer
        if lost in before - found:
            self._listener.member_left(room.room_id, lost)
        if lost not in found and (was_there or lost == room.peer):
            await self._gone(room, lost)
            return None
        if room.members != before:
            self._listener.room_changed(room.room_id)
        if found - {room.peer, room.user}:
            self._third(room)
        return SETTLE_S if room.members != found else None

    def _with_what_was_heard(self, room: PeerRoom, found: frozenset[UserId], began: float) -> set[UserId]:
        """The members by an answer, which may be older than the latest news."""
        members = set(found)
        for user, news in tuple(room.heard.items()):
            if news.at <= began - SETTLE_S:
                del room.heard[user]
            elif news.joined:
                members.add(user)
            else:
                members.discard(user)
        return members

    async def _members_now(self, room: PeerRoom) -> frozenset[UserId]:
        """The members by the homeserver; nobody when it says that the peer is not there itself."""
        try:
            return await self._homeserver.joined_members(room.room_id, room.peer)
        except HomeserverError as error:
            if not error.is_outside:
                raise
            return frozenset()
