"""What the bridge knows about the rooms of its users, without asking anybody.

A room fit for calls holds exactly one peer and one user who may use it: then nobody else can answer, inject candidates
or read the addresses in a description. A room keeps its two parties for its whole life; a third member makes it unfit
until they have left again.

:class:`RoomIndex` must never be larger than the homeserver's truth allows: rooms enter it only after a join of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mxrtc_bridge.core.call.route import CallRoute, DevicePair
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.bot_rooms import BotRooms

MAX_ROOMS_PER_PAIR = 16
"""Rooms of one user with one peer; the least recently used one is left when another is joined."""


@dataclass(frozen=True, slots=True)
class Heard:
    """News of somebody's membership that made a room unfit."""

    joined: bool
    at: float
    """Seconds of a monotonic clock."""
    changed: bool
    """Whether it was news: an invitation of somebody who was no member is none."""


@dataclass(slots=True)
class PeerRoom:
    """A room that a peer is in."""

    room_id: RoomId
    peer: UserId
    user: UserId
    """The one user whose room this is."""
    members: set[UserId]
    encrypted: bool = False
    active_ms: int = 0
    """When the user was last seen to do something here, as far as it is stored."""
    told: set[str] = field(default_factory=set)
    """Notices that were given here: each is given once."""
    changes: int = 0
    """News of memberships so far: an answer to a question that is older than the last of them is not used."""
    heard: dict[UserId, Heard] = field(default_factory=dict)
    """What ended the pair lately, by whose membership."""
    unread: bool = False
    """Whether something could not be read here: perhaps that the room is encrypted now."""

    @property
    def is_pair(self) -> bool:
        """Whether exactly the peer and its user are joined."""
        return self.members == {self.peer, self.user}


class RoomIndex:
    """The rooms of all peers, and what others ask about the rooms of virtual users.

    Args:
        bot_rooms: the rooms that are named for the bot: no rooms for calls.
        is_own: whether a user is of the bridge's namespace.
    """

    def __init__(
        self, bot_rooms: BotRooms, is_own: Callable[[UserId], bool], *, max_rooms_per_pair: int = MAX_ROOMS_PER_PAIR
    ) -> None:
        self._max_rooms_per_pair = max_rooms_per_pair
        self.bot_rooms = bot_rooms
        self.is_own = is_own
        self._rooms: dict[RoomId, PeerRoom] = {}
        self._of_pair: dict[tuple[UserId, UserId], dict[RoomId, PeerRoom]] = {}
        """The same by peer and user: each invitation and notice asks for those of one pair."""
        self.unread: dict[RoomId, dict[UserId, UserId | None]] = {}
        """Rooms that peers were in at the start, and of which nobody has asked yet who else is: the peers, with the
        user whose room it is as far as that is stored. Nothing is taken and nothing is said there."""

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[PeerRoom]:
        return iter(tuple(self._rooms.values()))

    def get(self, room: RoomId) -> PeerRoom | None:
        """The room, if a peer is in it."""
        return self._rooms.get(room)

    def members(self, route: CallRoute) -> frozenset[UserId] | None:
        """The joined members of a room, or the users of two devices; None for a room in which no peer is."""
        if isinstance(route, DevicePair):
            return frozenset({route.local, route.remote})
        entry = self._rooms.get(route)
        return None if entry is None else frozenset(entry.members)

    def is_encrypted(self, room: RoomId) -> bool:
        """Whether the state of a room says that it is encrypted; False for a room in which no virtual user is."""
        entry = self._rooms.get(room)
        return bool(self.bot_rooms.is_encrypted(room)) if entry is None else entry.encrypted

    def peer_in(self, room: RoomId) -> UserId | None:
        """The peer of a room."""
        entry = self._rooms.get(room)
        return None if entry is None else entry.peer

    def speaker_in(self, room: RoomId) -> UserId | None:
        """Our user in a room: its peer, or the bot in a room that is named for it."""
        return self.peer_in(room) or self.bot_rooms.speaker_in(room)

    def chat_with(self, peer: UserId, user: UserId) -> RoomId | None:
        """Where a peer tells its user something; perhaps a room that is not read yet, where that has to wait."""
        pair = (room.room_id for room in self.rooms_of(peer, user) if room.is_pair)
        return next(pair, None) or next((room for room, of in self.unread.items() if of.get(peer) == user), None)

    def teller_in(self, room: RoomId) -> UserId | None:
        """As :meth:`speaker_in`, also for a room that is not read yet, where what is said has to wait."""
        return self.speaker_in(room) or next(iter(self.unread.get(room, ())), None)

    def rooms_of(self, peer: UserId, user: UserId) -> tuple[PeerRoom, ...]:
        """The rooms of ``user`` with ``peer``, the last used first."""
        return tuple(sorted(self._of_pair.get((peer, user), {}).values(), key=lambda room: -room.active_ms))

    def enter(self, room: PeerRoom) -> None:
        """Add a room that a peer has joined, in the place of what was known of it."""
        self.drop(room.room_id)
        self._rooms[room.room_id] = room
        self._of_pair.setdefault((room.peer, room.user), {})[room.room_id] = room

    def drop(self, room: RoomId) -> PeerRoom | None:
        """Forget a room."""
        entry = self._rooms.pop(room, None)
        if entry is not None:
            of_pair = self._of_pair[entry.peer, entry.user]
            del of_pair[room]
            if not of_pair:
                del self._of_pair[entry.peer, entry.user]
        return entry

    def surplus(self, user: UserId, peer: UserId, *, keep: RoomId) -> list[PeerRoom]:
        """Rooms of ``user`` with ``peer`` beyond the limit, least recently used first, ``keep`` never among them."""
        rooms = list(self._of_pair.get((peer, user), {}).values())
        excess = len(rooms) - self._max_rooms_per_pair
        rooms.sort(key=lambda room: (room.room_id == keep, room.active_ms))
        return rooms[: max(excess, 0)]
