"""Rooms that peers are in already: found at the start, and read afterwards, beside all else.

A room is taken into the index with the one user whose it is, or left. Must never let anybody be heard in a room that is
not read yet, nor forget one of a peer that the homeserver refuses for a while, as one whose account is locked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.departures import Departures
from mxrtc_bridge.matrix.rooms.invitations import is_closed
from mxrtc_bridge.matrix.rooms.peer_membership import PeerMembership
from mxrtc_bridge.matrix.rooms.ports import RoomDirectory
from mxrtc_bridge.matrix.rooms.refresh import Refresher
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom, RoomIndex

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Peers that are asked for at the same time."""
FIRST_AGAIN_S, LONGEST_AGAIN_S = 10.0, 300.0
"""Until a peer that the homeserver has refused is asked for its rooms again."""


class RoomDiscovery:
    """See the head of this module."""

    def __init__(
        self,
        homeserver: QuietHomeserver,
        directory: RoomDirectory,
        *,
        index: RoomIndex,
        membership: PeerMembership,
        departures: Departures,
        is_peer: Callable[[UserId], bool],
        may_use: Callable[[UserId, UserId], bool],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        was_read: Callable[[RoomId, bool], None] = lambda _room, _fit: None,
    ) -> None:
        """Make it; nothing is asked before :meth:`find`.

        Args:
            homeserver: acts as any peer.
            directory: keeps rooms over restarts.
            index: gets the rooms.
            membership: keeps what arrives about a room until it was read.
            departures: leaves what may not be kept.
            is_peer: whether a user is one of the configured peers.
            may_use: whether a user (first) holds a grant for a peer (second).
            wall_ms: milliseconds since the epoch.
            monotonic: seconds.
            was_read: told of each room that was read, and whether it holds two; must not block.
        """
        self._was_read = was_read
        self._homeserver = homeserver
        self._directory = directory
        self._index = index
        self._membership = membership
        self._departures = departures
        self._is_peer = is_peer
        self._may_use = may_use
        self._wall_ms = wall_ms
        self._seldom = RateLimitedLog(log, monotonic)
        self.reader = Refresher("members and state", self._read, monotonic=monotonic)
        """Asks about the rooms that were found, each once."""
        self._unlisted: set[UserId] = set()
        """Peers of which the homeserver has refused to say in which rooms they are."""

    async def run(self) -> None:
        """Read what was found, and find the rooms of peers that were refused, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.reader.run(), name="rooms of an earlier run")
            tasks.create_task(self._find_later(), name="peers that were refused")

    async def find(self, peers: Iterable[UserId]) -> None:
        """Note which rooms peers are in, to be read, and forget those that they are not in.

        Raises:
            HomeserverError: it does not answer; a refusal to one peer is not raised.
        """
        asked = frozenset(peers)
        found, unlisted = await self._list_rooms(asked)
        stored = {
            (room.peer, room.room_id): room.user
            for room in await self._directory.all()
            if room.peer not in unlisted and (room.peer in asked or not self._is_peer(room.peer))
        }
        for peer, room in found:
            owner = stored.pop((peer, room), None)
            if self._index.get(room) is None or self._is_of_another(peer, room):
                self.note(peer, room, owner)
        for (peer, room), user in stored.items():
            if self._is_peer(peer):
                await self._directory.remove(peer, room)
            else:
                # Taken out of the configuration while the bridge was down, or before it had left.
                self._departures.note(peer, room, saved_by=user)
        # Last: where the database fails, or this is cut short, all of them are asked for again.
        self._unlisted = unlisted
        log.info("%d peers in %d rooms", len(asked), len(found))

    def note(self, peer: UserId, room: RoomId, owner: UserId | None) -> None:
        """Have a room read that a peer is in; ``owner`` is the user whose room it is, as far as that is known."""
        self._index.unread.setdefault(room, {})[peer] = owner
        self._membership.expect(room)
        self.reader.doubt(room)

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
                found.extend((peer, room) for room in rooms if not self._index.bot_rooms.keeps(peer, room))

        await each(peers, list_rooms, AT_ONCE)
        return found, unlisted

    def _is_of_another(self, peer: UserId, room_id: RoomId) -> bool:
        room = self._index.get(room_id)
        return room is not None and room.peer != peer

    async def _find_later(self) -> None:
        """Find the rooms of peers that the homeserver has refused at the start, as one that is locked."""
        tries = 0
        while self._unlisted:
            tries += 1
            await asyncio.sleep(Backoff(FIRST_AGAIN_S, LONGEST_AGAIN_S).pause_s(tries))
            try:
                await self.find(filter(self._is_peer, self._unlisted))
            except (HomeserverError, StorageError) as error:
                log.debug("rooms of %d peers are found later: %s", len(self._unlisted), error)

    async def _read(self, room: RoomId) -> None:
        """Take a room that peers were in at the start into the index, or leave it."""
        owners, read = self._index.unread.get(room, {}), set[UserId]()
        # Until there is none: another peer may be found in it meanwhile.
        while left := owners.keys() - read:
            for peer in left:
                shared = len(owners) > 1 or self._is_of_another(peer, room)
                await self.learn(peer, room, owners[peer], shared=shared)
            read |= left
        if self._index.unread.pop(room, None) is not None and not self._index.unread:
            log.info("all rooms of peers are read")
        self.reader.forget(room)
        self._membership.entered(room)
        known = self._index.get(room)
        self._was_read(room, known is not None and known.is_pair)

    async def learn(self, peer: UserId, room_id: RoomId, stored_owner: UserId | None, *, shared: bool) -> None:
        """Take a room that the peer is in already into the index, or leave it.

        Args:
            peer: the peer.
            room_id: the room.
            stored_owner: the user whose room it is, as far as that is stored.
            shared: whether another peer is in it as well, so that it is no room for calls.

        Raises:
            HomeserverError: it does not answer.
        """
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
        may_stay = fit and owner is not None and not self._index.is_own(owner) and self._is_peer(peer)
        if owner is None or not may_stay or not self._may_use(owner, peer):
            await self._departures.leave(peer, room_id)
            return
        room = PeerRoom(room_id, peer, owner, set(members), facts.encrypted)
        # A room that is known already was told these things when it became so.
        room.told.update(("encrypted",) if room.encrypted else ())
        self._index.enter(room)
        self._departures.forget(peer, room_id)
        if stored_owner is None:
            # Only then: a start is no use of the room, and must not make an idle one look busy.
            await self._directory.upsert(peer, room_id, owner, self._wall_ms())
