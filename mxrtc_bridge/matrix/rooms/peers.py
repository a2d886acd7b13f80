"""The virtual users: their registration, their rooms, and who is in them.

A peer must never be in a room that its user has no grant for, never stay where it is not used, and never tell an
uninvited caller anything: an invitation that is not taken is declined without a word. One user's invitations must not
hold up anybody else (:mod:`.invitations`; and the inbox answers few of them at the same time).

How it works: :meth:`Peers.start` registers the users and has their rooms found (:mod:`.room_discovery`). Who else is
there is asked for afterwards, beside all else, and at once for a room in which something happens: before, it takes no
calls. :attr:`Peers.membership` sees all that arrives, at once, and knows who is in which room. :meth:`Peers.handle`
takes the events in the order of their room: there it answers invitations, and waits until what arrived before is
settled. What cannot be left now is remembered and left at the next sweep (:mod:`.departures`).

One file: an invitation, a join and a departure of the same room must see the same state.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator
from contextlib import contextmanager

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.rooms.departures import LEAVE_S, Departures
from mxrtc_bridge.matrix.rooms.invitations import Invitations, Unfit, is_closed, judge_invite
from mxrtc_bridge.matrix.rooms.peer_membership import PeerMembership
from mxrtc_bridge.matrix.rooms.ports import PeerProfile, RoomDirectory, RoomListener
from mxrtc_bridge.matrix.rooms.room_discovery import RoomDiscovery
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom, RoomIndex

log = logging.getLogger(__name__)

CONCURRENCY = 8
"""Requests at the same time while many users or rooms are gone through."""
MAX_NAMELESS = 1000
"""Rooms that peers have joined while they made some; beyond that the next start leaves them."""
SWEEP_S = 60.0
"""How long declining what had no answer may take at a sweep."""
HANDLE_TIMEOUT_S = 50.0
"""Limit for one event, requests included: events of the same room wait behind it."""
TOUCH_EVERY_MS = 10 * 60 * 1000
"""A room's last use is stored at most this often: idle times are counted in days."""

_ENCRYPTED = (
    "This room is encrypted, and encryption is switched off in this bridge: calls from here do not reach me. "
    "Please start a direct chat with me without encryption, or ask the bridge's admin."
)
_THIRD = "I take calls only in rooms that hold exactly one other person. Calls work again once the others have left."


async def _nobody_listens(_room: RoomId, _peer: UserId, _user: UserId) -> None:
    pass


class Peers:
    """All virtual users of the bridge."""

    def __init__(
        self,
        homeserver: QuietHomeserver,
        directory: RoomDirectory,
        listener: RoomListener,
        *,
        index: RoomIndex,
        profiles: Iterable[PeerProfile],
        tell: Callable[..., None],
        may_use: Callable[[UserId, UserId], bool],
        wall_ms: Callable[[], int],
        reads_encrypted: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = elapsed_s,
        acts_as: Callable[[UserId], bool] = lambda _user: True,
        handle_timeout_s: float = HANDLE_TIMEOUT_S,
        leave_s: float = LEAVE_S,
        own_server: str = "",
        was_read: Callable[[RoomId, bool], None] = lambda _room, _fit: None,
        joined: Callable[[RoomId, UserId, UserId], Awaitable[None]] = _nobody_listens,
    ) -> None:
        """Make the peers; nothing is sent before :meth:`start`.

        Args:
            homeserver: acts as any virtual user.
            directory: keeps rooms over restarts.
            listener: told about members that leave and rooms that change.
            index: gets the rooms of peers, and has those that are named for the bot, which are never left here.
            profiles: the peers, and the bridge's own account, which takes direct chats like a peer.
            tell: posts a notice (:meth:`mxrtc_bridge.matrix.outbox.notices.Notices.post`); must not block.
            may_use: whether a user (first) holds a grant for a peer (second).
            wall_ms: milliseconds since the epoch.
            reads_encrypted: whether encrypted rooms are understood.
            monotonic: seconds.
            acts_as: whether a user of the namespace is ours to act as, and no person's account.
            handle_timeout_s: See :data:`HANDLE_TIMEOUT_S`.
            leave_s: See :data:`mxrtc_bridge.matrix.rooms.departures.LEAVE_S`.
            own_server: our homeserver, which has larger shares of what is limited for one server.
            was_read: told of each room of an earlier run that was read, and whether it holds two; must not block.
            joined: told of each direct chat that a peer (second) has joined by invitation of its user (third), where
                what is said can be read.
        """
        self._handle_timeout_s = handle_timeout_s
        self._homeserver = homeserver
        self._reads_encrypted = reads_encrypted
        self._acts_as = acts_as
        self._directory = directory
        self._listener = listener
        self._profiles = {profile.user_id: profile for profile in profiles}
        self._registered = dict(self._profiles)
        """As the homeserver knows them."""
        self._bot_rooms = index.bot_rooms
        self._tell = tell
        self._is_own = index.is_own
        self._may_use = may_use
        self._wall_ms = wall_ms
        self._index = index
        self._joined = joined
        self.membership = PeerMembership(
            homeserver,
            self._index,
            listener,
            gone=self._leave_after,
            third=lambda room: self._tell_once(room, "third", _THIRD),
            monotonic=monotonic,
        )
        self.departures = Departures(
            homeserver,
            directory,
            index,
            may_use=self._has_right,
            keep=self._keep,
            leave_s=leave_s,
        )
        self._expecting: Counter[UserId] = Counter()
        self._unanswered_joins: list[tuple[UserId, RoomId]] = []
        """Rooms that peers have joined while they made some; these are theirs if the answer names them."""
        self.invitations = Invitations(monotonic, own_server)
        self._seldom = RateLimitedLog(log, monotonic)
        self.discovery = RoomDiscovery(
            homeserver,
            directory,
            index=index,
            membership=self.membership,
            departures=self.departures,
            is_peer=self.is_peer,
            may_use=may_use,
            wall_ms=wall_ms,
            monotonic=monotonic,
            was_read=was_read,
        )

    def is_peer(self, user: UserId) -> bool:
        """Whether ``user`` is one of the configured peers."""
        return user in self._profiles

    # --- rooms that a peer makes

    @contextmanager
    def expecting(self, peer: UserId) -> Iterator[None]:
        """While a peer makes a room: its own join there may come before the answer that names the room."""
        self._expecting[peer] += 1
        try:
            yield
        finally:
            self._expecting[peer] -= 1
            if not self._expecting[peer]:
                del self._expecting[peer]
                self._leave_nameless(peer)

    def _leave_nameless(self, peer: UserId) -> None:
        """Have a room left that a peer has made, where no answer has named it: it would be asked for again."""
        joined, self._unanswered_joins = self._unanswered_joins, []
        for place in joined:
            if place[0] != peer:
                self._unanswered_joins.append(place)
            elif self._index.get(place[1]) is None and place[1] not in self._index.unread:
                self.discovery.note(*place, None)

    async def adopt(self, room: RoomId, peer: UserId, user: UserId) -> None:
        """Take a room into the index that ``peer`` has made for ``user``, who is invited; calls wait for the join."""
        if self._index.get(room) is None:
            with self.membership.entering(room):
                # A homeserver may encrypt every room that is made on it.
                facts = await self._homeserver.room_facts(room, peer)
                self._index.enter(PeerRoom(room, peer, user, {peer}, facts.encrypted, self._wall_ms()))
        await self._directory.upsert(peer, room, user, self._wall_ms())
        for surplus in self._index.surplus(user, peer, keep=room):
            await self._leave(surplus)

    async def settled(self, room: RoomId) -> None:
        """Return when what happens in a room can be judged: our join is answered, and who is in it is known.

        What whoever has just joined does next may be handled before their join otherwise. When the homeserver does not
        say who is in it, it is judged by what is known, which lets nobody in whose end has arrived.
        """
        await self.invitations.settled(room)
        try:
            if room in self._index.unread:
                await self.discovery.reader.confirm(room)
            if self._index.get(room) is not None and self.membership.refresher.is_doubtful(room):
                await self.membership.refresher.confirm(room)
        except HomeserverError as error:
            log.debug("who is in %s was not found out: %s", room, error)

    async def all_settled(self, peer: UserId, user: UserId) -> None:
        """As :meth:`settled`, for all rooms that ``user`` may have with ``peer``."""
        rooms = [room for room, owners in self._index.unread.items() if owners.get(peer, peer) in (user, None)]
        await each(rooms, self.settled, CONCURRENCY)

    # --- start, reload, sweep

    async def start(self, fit: Callable[[UserId], bool] = lambda _user: True) -> None:
        """Register and name all users, and list their rooms, which :meth:`run` or an event there has read.

        Args:
            fit: who can be used; the others are left out until a reload names them.

        Raises:
            HomeserverError: a user could not be registered (the registration does not cover it, or the token is wrong),
                or a list of rooms could not be read.
        """
        self._profiles = {user: profile for user, profile in self._profiles.items() if fit(user)}
        self._registered = dict(self._profiles)
        await self._register(self._profiles.values())
        await self._bot_rooms.enter()
        await self.discovery.find(self._profiles)

    async def reload(self, profiles: Iterable[PeerProfile]) -> None:
        """Take over a changed configuration: new peers appear, rooms without a right or without a peer are forgotten.

        ``may_use`` must answer by the new configuration already. No new peer waits until those rooms are left, which
        :meth:`leave_unused` does. What a cancellation cuts short is done by the next call.

        Raises:
            HomeserverError: a new user could not be registered.
        """
        wanted = {profile.user_id: profile for profile in profiles}
        new = [profile for user, profile in wanted.items() if self._registered.get(user) != profile]
        self._profiles = wanted
        self._drop_unused()
        await self._register(new)

    async def leave_unused(self) -> None:
        """Leave the rooms that nobody has a right to any more, and those that could not be left earlier.

        What cannot be left now, or is cut short by a cancellation or the end of the bridge, is left by the next call,
        the next sweep or after the next start.
        """
        self._drop_unused()
        await self.departures.leave_noted()
        if failed := self.departures.failed:
            log.warning("! %d rooms without a right could not be left yet; trying again", failed)

    def _drop_unused(self) -> None:
        """Take rooms out of the index before the first request, and back those whose right was given back in time."""
        for room in self._index:
            if not self._has_right(room.peer, room.user):
                self._drop(room, saved_by=room.user)
        self.departures.save()

    def _keep(self, peer: UserId, room: RoomId, user: UserId) -> None:
        self.discovery.note(peer, room, user)

    def _has_right(self, peer: UserId, user: UserId) -> bool:
        return self.is_peer(peer) and self._may_use(user, peer)

    async def run(self) -> None:
        """Leave what the last run has not left, and read the rooms that peers are in, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.departures.leave_noted(), name="rooms that must be left")
            tasks.create_task(self.discovery.run(), name="rooms of an earlier run")

    async def leave_idle(self, before_ms: int, *, busy: Container[RoomId] = ()) -> int:
        """Leave all rooms that were last used before ``before_ms``, and those that could not be left earlier.

        Args:
            before_ms: milliseconds since the epoch.
            busy: rooms that are in use although nothing happens in them: a call may last for days.

        Returns:
            How many were left.
        """
        await self.departures.leave_noted()
        await self.invitations.decline_unanswered(self._decline_late, SWEEP_S)
        count = 0
        for idle in await self._directory.idle_since(before_ms):
            entry = self._index.get(idle.room_id)
            if (
                idle.room_id in busy
                or idle.room_id in self._index.unread
                or (idle.peer, idle.room_id) in self.departures
            ):
                continue
            if entry is not None and entry.peer == idle.peer:
                await self._leave(entry)
                count += 1
            else:
                await self._directory.remove(idle.peer, idle.room_id)
        return count

    async def _decline_late(self, peer: UserId, room: RoomId) -> bool:
        # It may have come again, and was taken.
        kept = self._index.get(room) is not None or self._bot_rooms.is_named(room)
        return kept or await self.departures.try_to_leave(peer, room)

    # --- events

    async def handle(self, event: RoomEvent) -> None:
        """Take one event of a room into account; takes a limited time. Failures of the homeserver are logged only."""
        try:
            async with asyncio.timeout(self._handle_timeout_s):
                await self._dispatch(event)
        except TimeoutError:
            self._seldom.warning(
                event.sender, "%s of %s was not handled within %g s", event.type, event.room_id, self._handle_timeout_s
            )
        except HomeserverError as error:
            self._seldom.warning(event.sender, "%s of %s was not handled: %s", event.type, event.room_id, error)

    async def _dispatch(self, event: RoomEvent) -> None:
        if event.type == "m.room.member" and event.state_key is not None:
            await self._handle_membership(event)
        elif event.type == "m.room.encryption" and event.state_key == "":
            self._handle_encryption(event)
        else:
            await self._touch(event)

    async def _handle_membership(self, event: RoomEvent) -> None:
        # Whatever the form of the id: what the server counts as a member is one.
        target = UserId(event.state_key or "")
        membership = event.content.get("membership")
        if event.room_id in self._index.unread:
            await self.discovery.reader.confirm(event.room_id)
        if self._is_own(target) and membership == "invite":
            if not self._acts_as(target):
                return
            await self._handle_invite(event, target)
            return
        if self._index.get(event.room_id) is not None:
            # What comes next in this room is judged by who is in it: an invite of whoever has just joined, say.
            await self.membership.refresher.confirm(event.room_id)
        elif membership == "join" and self.is_peer(target) and not self._bot_rooms.is_named(event.room_id):
            if not self._expecting[target]:
                # This can only be our own join, whose answer was lost. After one that was taken back at once the
                # request is refused.
                with self.membership.entering(event.room_id):
                    await self.discovery.learn(target, event.room_id, None, shared=False)
            elif len(self._unanswered_joins) < MAX_NAMELESS:
                self._unanswered_joins.append((target, event.room_id))

    async def _leave_after(self, room: PeerRoom, gone: UserId) -> None:
        """Leave a room that one of its two has left; where it was the peer, there is nobody left to leave it."""
        if gone == room.user:
            await self._leave(room)
            return
        self._seldom.info(room.user, "%s was removed from %s", room.peer, room.room_id)
        self._index.drop(room.room_id)
        self.membership.refresher.forget(room.room_id)
        await self._directory.remove(room.peer, room.room_id)

    async def _handle_invite(self, event: RoomEvent, peer: UserId) -> None:
        known = self._index.get(event.room_id)
        if known is not None and known.peer == peer:
            # We missed that the peer left; or another homeserver has sent this for a room that the peer is in.
            await self.membership.refresher.confirm(event.room_id, 0.0)
            if (known := self._index.get(event.room_id)) is not None:
                return
        unfit = (Unfit.SECOND_PEER if known is not None else None) or judge_invite(
            event.sender,
            peer,
            event.invite_room_state,
            is_peer=self.is_peer,
            is_own=self._is_own,
            may_use=self._may_use,
        )
        if not (
            self._bot_rooms.is_named(event.room_id) or self.invitations.admits(event.sender, has_right=unfit is None)
        ):
            self.invitations.leave_unanswered(peer, event.room_id, event.sender, has_right=unfit is None)
            return
        self.invitations.answered(peer, event.room_id)
        with self.invitations.answering(event.room_id), self.membership.entering(event.room_id):
            await self._answer_invite(event, peer, unfit)

    async def _answer_invite(self, event: RoomEvent, peer: UserId, unfit: Unfit | None) -> None:
        if self._bot_rooms.is_for(peer):
            has_right = self._may_use(event.sender, peer)
            if await self._bot_rooms.invited(event.room_id, has_right=has_right):
                return
        if unfit is not None:
            log.debug("declining an invitation of %s to %s: %s", event.sender, peer, unfit.value)
            # Rooms that must be left have places of their own, which no stranger takes from them.
            if not await self.departures.try_to_leave(peer, event.room_id):
                self.invitations.leave_unanswered(peer, event.room_id, event.sender, has_right=False)
            return
        await self._homeserver.join(event.room_id, peer)
        await self._look_around(event.room_id, peer, event.sender)

    async def _look_around(self, room_id: RoomId, peer: UserId, user: UserId) -> None:
        """Decide again with the facts, now that the peer is in the room."""
        facts = await self._homeserver.room_facts(room_id, peer)
        members = await self._homeserver.joined_members(room_id, peer)
        room = PeerRoom(room_id, peer, user, set(members), facts.encrypted, self._wall_ms())
        unfit = None
        if facts.room_type is not None:
            unfit = Unfit.SPACE
        elif not is_closed(facts.join_rule):
            unfit = Unfit.OPEN_ROOM
        elif not room.is_pair:
            unfit = Unfit.NOT_A_PAIR
        if unfit is not None:
            self._seldom.info(user, "%s leaves a room of %s again: %s", peer, user, unfit.value)
            await self.departures.leave(peer, room_id)
            return
        self._index.enter(room)
        self.departures.forget(peer, room_id)
        await self._directory.upsert(peer, room_id, user, room.active_ms)
        self._seldom.info(user, "%s joined a room of %s", peer, user)
        if room.encrypted and not self._reads_encrypted():
            self._tell_once(room, "encrypted", _ENCRYPTED)
        else:
            await self._joined(room_id, peer, user)
        for surplus in self._index.surplus(user, peer, keep=room_id):
            await self._leave(surplus)

    def _handle_encryption(self, event: RoomEvent) -> None:
        room = self._index.get(event.room_id)
        if room is not None and not self._reads_encrypted():
            self._tell_once(room, "encrypted", _ENCRYPTED)

    async def _touch(self, event: RoomEvent) -> None:
        room = self._index.get(event.room_id)
        if room is None or event.sender != room.user:
            return
        now_ms = self._wall_ms()
        if now_ms - room.active_ms >= TOUCH_EVERY_MS:
            room.active_ms = now_ms
            await self._directory.touch(room.peer, room.room_id, now_ms)

    async def register_again(self, user: UserId) -> None:
        """Have the homeserver know a peer that it has forgotten, as one does that was put back from an old copy.

        Raises:
            HomeserverError: it refuses, or does not answer.
        """
        if (profile := self._profiles.get(user)) is not None:
            await self._register([profile])

    # --- steps

    async def _register(self, profiles: Iterable[PeerProfile]) -> None:
        async def register(profile: PeerProfile) -> None:
            await self._homeserver.register_user(profile.user_id)
            try:
                await self._homeserver.set_displayname(profile.user_id, profile.displayname)
            except HomeserverError as error:
                if error.retryable:
                    raise
                self._seldom.warning(profile.user_id, "! %s is not named anew: %s", profile.user_id, error)
            self._registered[profile.user_id] = profile

        await each(profiles, register, CONCURRENCY)

    async def _leave(self, room: PeerRoom) -> None:
        if self._index.get(room.room_id) is not room:
            return
        self._drop(room)
        await self.departures.leave(room.peer, room.room_id)

    def _drop(self, room: PeerRoom, *, saved_by: UserId | None = None) -> None:
        """Forget a room that is about to be left; until it is, it is one of those that must be left at last."""
        self._index.drop(room.room_id)
        self.membership.refresher.forget(room.room_id)
        self._listener.member_left(room.room_id, room.peer)
        self.departures.note(room.peer, room.room_id, saved_by=saved_by)
        self._seldom.info(room.user, "%s leaves its room with %s", room.peer, room.user)

    def _tell_once(self, room: PeerRoom, key: str, text: str) -> None:
        if key in room.told:
            return
        room.told.add(key)
        self._tell(room.room_id, room.peer, text, key=f"{key}-{self._wall_ms()}")
