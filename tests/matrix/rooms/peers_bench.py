"""Peers among fakes: a homeserver in memory, a directory, a listener."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.access.revocations import MembershipChange, read_news
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.api.room_event import RoomEvent, encode
from mxrtc_bridge.matrix.rooms.bot_rooms import ALL_S, ENTER_S, BotRooms
from mxrtc_bridge.matrix.rooms.departures import LEAVE_S
from mxrtc_bridge.matrix.rooms.members import MemberLists
from mxrtc_bridge.matrix.rooms.peers import HANDLE_TIMEOUT_S, Peers
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S
from mxrtc_bridge.matrix.rooms.room_index import MAX_ROOMS_PER_PAIR, RoomIndex
from tests.honesty import Honesty, failure

ALICE = UserId("@alice:example.org")
MALLORY = UserId("@mallory:example.org")
PEER = UserId("@rtc_build:example.org")
PEER_2 = UserId("@rtc_logs:example.org")
BOT = UserId("@rtc_bot:example.org")
ROOM = RoomId("!room:example.org")
_ids = itertools.count(1)


@dataclass
class FakeHomeserver:
    """Rooms in memory, with what was asked of them.

    A test that needs a lie about who is in all rooms sets ``honesty``, after what it is stale about; ``stale`` says it
    for one room, and ``failures`` for each kind of request.
    """

    stale: dict[RoomId, frozenset[UserId]] = field(default_factory=dict)
    members: dict[RoomId, set[UserId]] = field(default_factory=dict)
    facts: dict[RoomId, RoomFacts] = field(default_factory=dict)
    log: list[tuple[object, ...]] = field(default_factory=list)
    names: dict[UserId, str] = field(default_factory=dict)
    failures: dict[str, HomeserverError] = field(default_factory=dict)
    broken: set[RoomId] = field(default_factory=set)
    """Rooms about which every question fails."""
    locked: set[UserId] = field(default_factory=set)
    """Users whose requests it refuses."""
    hanging: set[RoomId] = field(default_factory=set)
    """Rooms about which no question is answered."""
    notices: list[tuple[RoomId, UserId, str]] = field(default_factory=list)
    aliases: dict[str, RoomId] = field(default_factory=dict)
    busy: int = 0
    most_busy: int = 0

    @property
    def honesty(self) -> Honesty:
        """About who is in all rooms."""
        if (error := self.failures.get("members")) is not None:
            return Honesty.WRONG if error.status == 200 else Honesty.SILENT
        return Honesty.STALE if self.stale else Honesty.TRUE

    @honesty.setter
    def honesty(self, honesty: Honesty) -> None:
        self.failures.pop("members", None)
        if (error := failure(honesty)) is not None:
            self.failures["members"] = error
        stale = honesty is Honesty.STALE
        self.stale = {room: frozenset(members) for room, members in self.members.items()} if stale else {}

    async def _request(self, name: str, *details: object) -> None:
        self.log.append((name, *details))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        await asyncio.sleep(0)
        self.busy -= 1
        if self.hanging.intersection(each for each in details if isinstance(each, str)):
            await asyncio.get_running_loop().create_future()
        if self.broken.intersection(each for each in details if isinstance(each, str)):
            raise HomeserverError("the homeserver answered 500", 500)
        if name != "register" and self.locked.intersection(each for each in details if isinstance(each, str)):
            raise HomeserverError("the homeserver answered 401 M_USER_LOCKED", 401, "M_USER_LOCKED")
        if name in self.failures:
            raise self.failures[name]

    def of(self, *names: str) -> list[tuple[object, ...]]:
        return [entry for entry in self.log if entry[0] in names]

    async def register_user(self, user: UserId) -> bool:
        await self._request("register", user)
        return True

    async def set_displayname(self, user: UserId, name: str) -> bool:
        await self._request("name", user)
        self.names[user] = name
        return True

    async def joined_rooms(self, as_user: UserId | None = None) -> tuple[RoomId, ...]:
        await self._request("rooms", as_user)
        return tuple(room for room, members in self.members.items() if as_user in members)

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        await self._request("members", room)
        if as_user not in self.members.get(room, set()):
            raise HomeserverError("not in the room", 403, "M_FORBIDDEN")
        return self.stale.get(room, frozenset(self.members[room]))

    async def state(self, room: RoomId, event_type: str, as_user: UserId | None = None) -> dict[str, object] | None:
        """No room has an access list."""
        return None

    async def room_facts(self, room: RoomId, as_user: UserId | None = None, *, succession: bool = False) -> RoomFacts:
        await self._request("facts", room)
        return self.facts.get(room, RoomFacts(encrypted=False, join_rule="invite", room_type=None))

    async def join(self, room: RoomId, as_user: UserId | None = None) -> None:
        await self._request("join", room, as_user)
        assert as_user is not None
        self.members.setdefault(room, set()).add(as_user)

    async def leave(self, room: RoomId, as_user: UserId | None = None, reason: str | None = None) -> None:
        assert reason is None, "peers leave without a word"
        await self._request("leave", room, as_user)
        assert as_user is not None
        self.members.get(room, set()).discard(as_user)

    async def resolve_alias(self, alias: str, as_user: UserId | None = None) -> RoomId:
        await self._request("resolve", alias)
        if alias not in self.aliases:
            raise HomeserverError("no such alias", 404, "M_NOT_FOUND")
        return self.aliases[alias]

    async def join_alias(self, alias: str, as_user: UserId | None = None) -> RoomId:
        await self.join(self.aliases[alias], as_user)
        return self.aliases[alias]


@dataclass(frozen=True)
class StoredRoom:
    peer: UserId
    room_id: RoomId
    user: UserId
    last_active_ms: int


class FakeDirectory:
    def __init__(self, *rooms: StoredRoom) -> None:
        self.rooms = {(room.peer, room.room_id): room for room in rooms}

    async def upsert(self, peer: UserId, room_id: RoomId, user: UserId, now_ms: int) -> None:
        self.rooms[peer, room_id] = StoredRoom(peer, room_id, user, now_ms)

    async def touch(self, peer: UserId, room_id: RoomId, now_ms: int) -> None:
        room = self.rooms[peer, room_id]
        self.rooms[peer, room_id] = StoredRoom(peer, room_id, room.user, now_ms)

    async def remove(self, peer: UserId, room_id: RoomId) -> None:
        self.rooms.pop((peer, room_id), None)

    async def idle_since(self, before_ms: int) -> list[StoredRoom]:
        return [room for room in self.rooms.values() if room.last_active_ms < before_ms]

    async def all(self) -> list[StoredRoom]:
        return list(self.rooms.values())


@dataclass
class Recorder:
    heard: list[tuple[object, ...]] = field(default_factory=list)

    def member_left(self, room: RoomId, user: UserId) -> None:
        self.heard.append(("left", room, user))

    def room_changed(self, room: RoomId) -> None:
        self.heard.append(("changed", room))


@dataclass
class Bench:
    """Peers among fakes."""

    homeserver: FakeHomeserver = field(default_factory=FakeHomeserver)
    directory: FakeDirectory = field(default_factory=FakeDirectory)
    listener: Recorder = field(default_factory=Recorder)
    granted: set[tuple[UserId, UserId]] = field(default_factory=lambda: {(ALICE, PEER), (ALICE, PEER_2)})
    now_ms: int = 1_000_000_000
    profiles: tuple[PeerProfile, ...] = (PeerProfile(PEER, "Build"), PeerProfile(PEER_2, "Logs"))
    named: dict[str, str] = field(default_factory=dict)
    each_s: float = ENTER_S
    all_s: float = ALL_S
    max_rooms_per_pair: int = MAX_ROOMS_PER_PAIR
    handle_timeout_s: float = HANDLE_TIMEOUT_S
    leave_s: float = LEAVE_S
    changed: Callable[[], None] = lambda: None
    entered: Callable[[RoomId, bool], None] = lambda _room, _unsure: None
    was_read: Callable[[RoomId, bool], None] = lambda _room, _fit: None
    reads_encrypted: Callable[[], bool] = lambda: False
    joined: list[tuple[RoomId, UserId, UserId]] = field(default_factory=list)

    async def _note_joined(self, room: RoomId, peer: UserId, user: UserId) -> None:
        self.joined.append((room, peer, user))

    def _lists_changed(self, _users: Collection[UserId]) -> None:
        self.changed()

    def __post_init__(self) -> None:
        self.lists = MemberLists(self.homeserver, BOT, self._lists_changed, lambda: self.now_ms / 1000)
        self.bot_rooms = BotRooms(
            self.homeserver, BOT, self.named, self.lists, entered=self.entered, enter_s=self.each_s, all_s=self.all_s
        )
        self.index = RoomIndex(
            self.bot_rooms, lambda user: user.startswith("@rtc_"), max_rooms_per_pair=self.max_rooms_per_pair
        )
        self.peers = Peers(
            self.homeserver,
            self.directory,
            self.listener,
            index=self.index,
            profiles=self.profiles,
            tell=lambda room, sender, text, key: self.homeserver.notices.append((room, sender, text)),
            may_use=lambda user, peer: (user, peer) in self.granted,
            wall_ms=lambda: self.now_ms,
            monotonic=lambda: self.now_ms / 1000,
            handle_timeout_s=self.handle_timeout_s,
            leave_s=self.leave_s,
            was_read=self.was_read,
            reads_encrypted=self.reads_encrypted,
            joined=self._note_joined,
        )

    async def arrive(self, each: RoomEvent) -> None:
        """Deliver an event: it is looked at when it arrives, then handled in its turn."""
        news = read_news(json.loads(encode(each)))
        if news is not None:
            self.peers.membership.look(news)
        if isinstance(news, MembershipChange) and self.bot_rooms.look(news.room, news.user, joined=news.joined):
            await self.bot_rooms.learn_again(news.room, self.lists)
        await self.peers.handle(each)

    async def start(self) -> None:
        """Start, and have all rooms read and left."""
        await self.peers.start()
        for room in tuple(self.peers.discovery.reader.doubtful()):
            await self.peers.discovery.reader.confirm(room)
        await self.peers.leave_unused()

    async def settle(self) -> None:
        """Let the time go by in which an answer may be too old, and ask for what is doubtful."""
        self.now_ms += round(SETTLE_S * 1000)
        for room in tuple(self.peers.membership.refresher.doubtful()):
            await self.peers.membership.refresher.confirm(room)

    async def member(
        self,
        user: UserId,
        membership: object,
        *,
        sender: UserId | None = None,
        room: RoomId = ROOM,
        invite_state: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        """Let the homeserver know first, as it is in reality, then deliver the event."""
        members = self.homeserver.members.setdefault(room, set())
        if membership == "join":
            members.add(user)
        elif membership != "invite":
            members.discard(user)
        await self.arrive(event("m.room.member", {"membership": membership}, sender or user, user, room, invite_state))

    async def invited(self, peer: UserId = PEER, by: UserId = ALICE, **more: Any) -> None:
        self.homeserver.members.setdefault(more.get("room", ROOM), {by})
        await self.member(peer, "invite", sender=by, **more)


def event(
    kind: str,
    content: Mapping[str, Any],
    sender: UserId = ALICE,
    state_key: str | None = None,
    room: RoomId = ROOM,
    invite_state: tuple[Mapping[str, Any], ...] = (),
) -> RoomEvent:
    return RoomEvent(EventId(f"${next(_ids)}"), room, kind, sender, 0, content, state_key, invite_state)


def stripped(kind: str, **content: object) -> Mapping[str, Any]:
    return {"type": kind, "state_key": "", "content": content}
