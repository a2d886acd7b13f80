"""The virtual users: their registration, their rooms, and who is in them.

A peer must never be in a room that its user has no grant for, never stay where it is not used, and never tell an
uninvited caller anything: an invitation that is not taken is declined without a word. One user's invitations must not
hold up anybody else (:mod:`.invitations`; and the inbox answers few of them at the same time).

How it works: :meth:`Peers.start` registers the users and reads from the homeserver which rooms they are in. Who else is
there is asked for afterwards, beside all else, and at once for a room in which something happens: before, it takes no
calls. :attr:`Peers.membership` sees all that arrives, at once, and knows who is in which room. :meth:`Peers.handle`
takes the events in the order of their room: there it answers invitations, and waits until what arrived before is
settled. What cannot be left now is remembered and left at the next sweep.

One file: an invitation, a join and a departure of the same room must see the same state.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.rooms.invitations import Invitations, Unfit, is_closed, judge_invite
from mxrtc_bridge.matrix.rooms.peer_membership import PeerMembership
from mxrtc_bridge.matrix.rooms.ports import PeerProfile, RoomDirectory, RoomListener
from mxrtc_bridge.matrix.rooms.refresh import Refresher
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom, RoomIndex

log = logging.getLogger(__name__)

CONCURRENCY = 8
"""Requests at the same time while many users or rooms are gone through."""
MAX_UNLEFT = 10_000
"""Rooms remembered because leaving them failed; beyond that the next start finds them."""
SWEEP_S = 60.0
"""How long declining what had no answer may take at a sweep."""
LEAVE_S = 5.0
"""How long leaving one room may take while others wait for it: another homeserver may have to say something."""
FIRST_AGAIN_S, LONGEST_AGAIN_S = 10.0, 300.0
"""Until a peer that the homeserver has refused is asked for its rooms again."""
HANDLE_TIMEOUT_S = 50.0
"""Limit for one event, requests included: events of the same room wait behind it."""
TOUCH_EVERY_MS = 10 * 60 * 1000
"""A room's last use is stored at most this often: idle times are counted in days."""

_ENCRYPTED = (
    "This room is encrypted, and encryption is switched off in this bridge: calls from here do not reach me. "
    "Please start a direct chat with me without encryption, or ask the bridge's admin."
)
_THIRD = "I take calls only in rooms that hold exactly one other person. Calls work again once the others have left."


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
            leave_s: See :data:`LEAVE_S`.
            own_server: our homeserver, which has larger shares of what is limited for one server.
        """
        self._leave_s = leave_s
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
        self.membership = PeerMembership(
            homeserver,
            self._index,
            listener,
            gone=self._leave_after,
            third=lambda room: self._tell_once(room, "third", _THIRD),
            monotonic=monotonic,
        )
        self._unleft: dict[tuple[UserId, RoomId], None] = {}
        self._leaving = asyncio.Lock()
        """Held by whoever goes through them: at the same time each would be left twice."""
        self._expecting: Counter[UserId] = Counter()
        self.invitations = Invitations(monotonic, own_server)
        self._seldom = RateLimitedLog(log, monotonic)
        self.reader = Refresher("members and state", self._read, monotonic=monotonic)
        """Asks about the rooms in which peers were at the start, each once."""
        self._unlisted: set[UserId] = set()
        """Peers of which the homeserver has refused to say in which rooms they are."""

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
                await self.reader.confirm(room)
            if self._index.get(room) is not None and self.membership.refresher.is_doubtful(room):
                await self.membership.refresher.confirm(room)
        except HomeserverError as error:
            log.debug("who is in %s was not found out: %s", room, error)

    async def all_settled(self, peer: UserId, user: UserId) -> None:
        """As :meth:`settled`, for all rooms that ``user`` may have with ``peer``."""
        rooms = [room for room, owners in self._index.unread.items() if owners.get(peer, peer) in (user, None)]
        await each(rooms, self.settled, CONCURRENCY)

    # --- start, reload, sweep

    async def start(self) -> None:
        """Register and name all users, and list their rooms, which :meth:`run` or an event there has read.

        Raises:
            HomeserverError: a user could not be registered (the registration does not cover it, or the token is wrong),
                or a list of rooms could not be read.
        """
        await self._register(self._profiles.values())
        await self._bot_rooms.enter()
        await self._find_rooms(self._profiles)

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
        await self._leave_unleft()
        if self._unleft:
            log.warning("! %d rooms without a right could not be left yet; trying again", len(self._unleft))

    def _drop_unused(self) -> None:
        """Take rooms out of the index before the first request: no call is taken there from now on."""
        for room in self._index:
            if not (self.is_peer(room.peer) and self._may_use(room.user, room.peer)):
                self._drop(room)

    async def _find_rooms(self, peers: Iterable[UserId]) -> None:
        """Note which rooms peers are in, to be read, and forget those that they are not in."""
        asked = frozenset(peers)
        found, unlisted = await self._list_rooms(asked)
        stored = {
            (room.peer, room.room_id): room.user
            for room in await self._directory.all()
            if room.peer not in unlisted and (room.peer in asked or not self.is_peer(room.peer))
        }
        for peer, room in found:
            owner = stored.pop((peer, room), None)
            if self._index.get(room) is None or self._is_of_another(peer, room):
                self._index.unread.setdefault(room, {})[peer] = owner
                self.membership.expect(room)
                self.reader.doubt(room)
        for peer, room in stored:
            if self.is_peer(peer):
                await self._directory.remove(peer, room)
            elif len(self._unleft) < MAX_UNLEFT:
                # Taken out of the configuration while the bridge was down, or before it had left.
                self._unleft[peer, room] = None
        # Last: where the database fails, or this is cut short, all of them are asked for again.
        self._unlisted = unlisted
        log.info("%d peers in %d rooms", len(asked), len(found))

    async def _list_rooms(self, peers: Iterable[UserId]) -> tuple[list[tuple[UserId, RoomId]], set[UserId]]:
        """The rooms that peers are in, but for those of the bot, and the peers whom the homeserver refuses."""
        found: list[tuple[UserId, RoomId]] = []
        unlisted: set[UserId] = set()

        async def list_rooms(peer: UserId) -> None:
            try:
                rooms = await self._homeserver.joined_rooms(peer)
            except HomeserverError as error:
                if error.retryable:
                    raise
                self._seldom.warning(peer, "! %s takes no calls in rooms: %s", peer, error)
                unlisted.add(peer)
            else:
                found.extend((peer, room) for room in rooms if not self._bot_rooms.keeps(peer, room))

        await each(peers, list_rooms, CONCURRENCY)
        return found, unlisted

    def _is_of_another(self, peer: UserId, room_id: RoomId) -> bool:
        room = self._index.get(room_id)
        return room is not None and room.peer != peer

    async def run(self) -> None:
        """Leave what the last run has not left, and read the rooms that peers are in, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._leave_unleft(), name="rooms that must be left")
            tasks.create_task(self.reader.run(), name="rooms of an earlier run")
            tasks.create_task(self._find_later(), name="peers that were refused")

    async def _find_later(self) -> None:
        """Find the rooms of peers that the homeserver has refused at the start, as one that is locked."""
        tries = 0
        while self._unlisted:
            tries += 1
            await asyncio.sleep(Backoff(FIRST_AGAIN_S, LONGEST_AGAIN_S).pause_s(tries))
            try:
                await self._find_rooms(filter(self.is_peer, self._unlisted))
            except (HomeserverError, StorageError) as error:
                log.debug("rooms of %d peers are found later: %s", len(self._unlisted), error)

    async def _read(self, room: RoomId) -> None:
        """Take a room that peers were in at the start into the index, or leave it."""
        owners = self._index.unread.get(room, {})
        for peer, owner in tuple(owners.items()):
            await self._learn_room(peer, room, owner, shared=len(owners) > 1 or self._is_of_another(peer, room))
        if self._index.unread.pop(room, None) is not None and not self._index.unread:
            log.info("all rooms of peers are read")
        self.reader.forget(room)
        self.membership.entered(room)

    @property
    def unleft(self) -> int:
        """Rooms that could not be left or declined yet, and are at the next sweep."""
        return len(self._unleft)

    async def leave_idle(self, before_ms: int, *, busy: Container[RoomId] = ()) -> int:
        """Leave all rooms that were last used before ``before_ms``, and those that could not be left earlier.

        Args:
            before_ms: milliseconds since the epoch.
            busy: rooms that are in use although nothing happens in them: a call may last for days.

        Returns:
            How many were left.
        """
        await self._leave_unleft()
        await self.invitations.decline_unanswered(self._decline_late, SWEEP_S)
        count = 0
        for idle in await self._directory.idle_since(before_ms):
            entry = self._index.get(idle.room_id)
            if idle.room_id in busy or idle.room_id in self._index.unread or (idle.peer, idle.room_id) in self._unleft:
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
        return kept or await self._try_to_leave(peer, room)

    async def _leave_unleft(self) -> None:
        async def leave(place: tuple[UserId, RoomId]) -> None:
            kept = self._index.get(place[1])
            if place in self._unleft and (kept is None or kept.peer != place[0]):
                try:
                    await self._request_leave(*place)
                except StorageError as error:
                    # It is left, and is forgotten when it has been idle, or after the next start.
                    log.debug("%s has left %s, which is still stored: %s", *place, error)

        async with self._leaving:
            await each(tuple(self._unleft), leave, CONCURRENCY)

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
            await self.reader.confirm(event.room_id)
        if self._is_own(target) and membership == "invite":
            if not self._acts_as(target):
                return
            await self._handle_invite(event, target)
            return
        if self._index.get(event.room_id) is not None:
            # What comes next in this room is judged by who is in it: an invite of whoever has just joined, say.
            await self.membership.refresher.confirm(event.room_id)
        elif membership == "join" and self._is_lost_join(event.room_id, target):
            # After a join that was taken back at once the request is refused.
            with self.membership.entering(event.room_id):
                await self._learn_room(target, event.room_id, None, shared=False)

    def _is_lost_join(self, room: RoomId, user: UserId) -> bool:
        """Whether this can only be our own join, whose answer was lost."""
        return self.is_peer(user) and not self._expecting[user] and not self._bot_rooms.is_named(room)

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
        if self._bot_rooms.is_for(peer) and await self._bot_rooms.invited(event.room_id):
            return
        if unfit is not None:
            log.debug("declining an invitation of %s to %s: %s", event.sender, peer, unfit.value)
            # Rooms that must be left have places of their own, which no stranger takes from them.
            if not await self._try_to_leave(peer, event.room_id):
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
            await self._request_leave(peer, room_id)
            return
        self._index.enter(room)
        self._unleft.pop((peer, room_id), None)
        await self._directory.upsert(peer, room_id, user, room.active_ms)
        self._seldom.info(user, "%s joined a room of %s", peer, user)
        if room.encrypted and not self._reads_encrypted():
            self._tell_once(room, "encrypted", _ENCRYPTED)
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

    async def _learn_room(self, peer: UserId, room_id: RoomId, stored_owner: UserId | None, *, shared: bool) -> None:
        """Take a room that the peer is in already into the index, or leave it."""
        try:
            members = await self._homeserver.joined_members(room_id, peer)
            facts = await self._homeserver.room_facts(room_id, peer)
        except HomeserverError as error:
            if error.retryable or error.errcode == "M_UNRECOGNIZED":
                raise
            log.debug("%s is not in %s after all: %s", peer, room_id, error)
            return
        others = members - {peer}
        owner = stored_owner
        if owner is None and len(others) == 1:
            (owner,) = others
        fit = owner in others and not shared and facts.room_type is None and is_closed(facts.join_rule)
        may_stay = fit and owner is not None and not self._is_own(owner) and self.is_peer(peer)
        if owner is None or not may_stay or not self._may_use(owner, peer):
            await self._request_leave(peer, room_id)
            return
        room = PeerRoom(room_id, peer, owner, set(members), facts.encrypted)
        # A room that is known already was told these things when it became so.
        room.told.update(("encrypted",) if room.encrypted else ())
        self._index.enter(room)
        if stored_owner is None:
            # Only then: a start is no use of the room, and must not make an idle one look busy.
            await self._directory.upsert(peer, room_id, owner, self._wall_ms())

    async def _leave(self, room: PeerRoom) -> None:
        if self._index.get(room.room_id) is not room:
            return
        self._drop(room)
        await self._request_leave(room.peer, room.room_id)

    def _drop(self, room: PeerRoom) -> None:
        """Forget a room that is about to be left; until it is, it is one of those that must be left at last."""
        self._index.drop(room.room_id)
        self.membership.refresher.forget(room.room_id)
        self._listener.member_left(room.room_id, room.peer)
        if len(self._unleft) < MAX_UNLEFT:
            self._unleft[room.peer, room.room_id] = None
        self._seldom.info(room.user, "%s leaves its room with %s", room.peer, room.user)

    async def _request_leave(self, peer: UserId, room: RoomId) -> None:
        """Leave; what fails is tried again later, also after the next start: until then the directory has the room."""
        if await self._try_to_leave(peer, room):
            self._unleft.pop((peer, room), None)
            await self._directory.remove(peer, room)
        elif len(self._unleft) < MAX_UNLEFT:
            self._unleft[peer, room] = None

    async def _try_to_leave(self, peer: UserId, room: RoomId) -> bool:
        """Leave or decline; a refusal means that the peer is not there, any other failure is False."""
        try:
            async with asyncio.timeout(self._leave_s):
                await self._homeserver.leave(room, peer)
        except (HomeserverError, TimeoutError) as error:
            log.debug("%s could not leave %s: %s", peer, room, str(error) or "no answer in time")
            return isinstance(error, HomeserverError) and error.is_outside
        return True

    def _tell_once(self, room: PeerRoom, key: str, text: str) -> None:
        if key in room.told:
            return
        room.told.add(key)
        self._tell(room.room_id, room.peer, text, key=f"{key}-{self._wall_ms()}")
