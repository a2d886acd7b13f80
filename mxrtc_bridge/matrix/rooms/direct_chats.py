"""A peer that makes the direct chat itself, and invites its user.

That way round no invite limit of the user's homeserver is in the way, and a person need not know how to start a chat
with a name that no directory lists.

Must never make a second room where one serves, and never a public one. A room that was made, and that nobody enters,
is left like any other that idles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from mxrtc_bridge.core.errors import HomeserverError, StateError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.peers import Peers
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom, RoomIndex

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DirectChat:
    """A direct chat of a user with a peer."""

    room: RoomId
    joined: bool
    """Whether the user is in it already; otherwise there is a new invitation."""


class DirectChats:
    """Makes direct chats, or finds them again."""

    def __init__(
        self, homeserver: QuietHomeserver, index: RoomIndex, peers: Peers, *, reads_encrypted: Callable[[], bool]
    ) -> None:
        self._homeserver = homeserver
        self._index = index
        self._peers = peers
        self._reads_encrypted = reads_encrypted

    async def open(self, peer: UserId, user: UserId) -> DirectChat:
        """Return a direct chat of ``user`` with ``peer``; the caller has judged that they may have one.

        Raises:
            HomeserverError: no room could be made, or nobody could be invited.
            StateError: the peer cannot be used, or not yet: its account may be a person's.
        """
        await self._peers.all_settled(peer, user)
        rooms = self._index.rooms_of(peer, user)
        for room in rooms:
            if room.is_pair and (not room.encrypted or self._reads_encrypted()):
                return DirectChat(room.room_id, joined=True)
        for room in rooms:
            if room.members == {peer} and await self._invited_again(room, user):
                return DirectChat(room.room_id, joined=False)
        if not self._peers.is_peer(peer):
            raise StateError(f"{peer} makes no room: it is not known whether its account is the bridge's")
        with self._peers.expecting(peer):
            made = await self._homeserver.create_direct_room(user, peer)
            await self._peers.adopt(made, peer, user)
        log.info("%s made a room for %s", peer, user)
        return DirectChat(made, joined=False)

    async def _invited_again(self, room: PeerRoom, user: UserId) -> bool:
        try:
            await self._homeserver.invite(room.room_id, user, room.peer)
        except HomeserverError as error:
            if not error.is_refusal:
                raise  # That says nothing about this room, and each attempt would make one more.
            log.debug("%s cannot be invited to %s: %s", user, room.room_id, error)
            return False
        return True
