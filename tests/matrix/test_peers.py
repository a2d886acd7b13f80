"""Which rooms peers are in, and what they do about those who come and go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix import liveness
from mxrtc_bridge.matrix import peers as peers_module
from mxrtc_bridge.matrix import rooms as rooms_module
from mxrtc_bridge.matrix.homeserver import Homeserver, RoomFacts
from mxrtc_bridge.matrix.peers import PeerProfile, Peers
from mxrtc_bridge.matrix.room_event import RoomEvent
from mxrtc_bridge.matrix.rooms import Change, PeerRoom, RoomBook, Unfit, judge_invite
from tests.matrix.conftest import APPSERVICE_ID, BridgeWorld, MakePerson

ALICE = UserId("@alice:example.org")
MALLORY = UserId("@mallory:example.org")
PEER = UserId("@rtc_build:example.org")
PEER_2 = UserId("@rtc_logs:example.org")
BOT = UserId("@rtc_bot:example.org")
ROOM = RoomId("!room:example.org")
_ids = itertools.count(1)


@dataclass
class FakeHomeserver:
    """Rooms in memory, with what was asked of them."""

    members: dict[RoomId, set[UserId]] = field(default_factory=dict)
    facts: dict[RoomId, RoomFacts] = field(default_factory=dict)
    log: list[tuple[object, ...]] = field(default_factory=list)
    names: dict[UserId, str] = field(default_factory=dict)
    failures: dict[str, HomeserverError] = field(default_factory=dict)
    notices: list[tuple[RoomId, UserId | None, str]] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    async def _request(self, name: str, *details: object) -> None:
        self.log.append((name, *details))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        await asyncio.sleep(0)
        self.busy -= 1
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
        return frozenset(self.members[room])

    async def room_facts(self, room: RoomId, as_user: UserId | None = None) -> RoomFacts:
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

    async def send_notice(self, room: RoomId, text: str, txn_id: str, as_user: UserId | None = None) -> EventId:
        await self._request("notice", room)
        self.notices.append((room, as_user, text))
        return EventId("$e")


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

    def __post_init__(self) -> None:
        self.peers = Peers(
            self.homeserver,
            self.directory,
            self.listener,
            profiles=self.profiles,
            bot=PeerProfile(BOT, "Bridge"),
            is_own=lambda user: user.startswith("@rtc_"),
            may_use=lambda user, peer: (user, peer) in self.granted,
            wall_ms=lambda: self.now_ms,
        )

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
        await self.peers.handle(
            event("m.room.member", {"membership": membership}, sender or user, user, room, invite_state)
        )

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


# --- start


async def test_start_registers_and_names_everybody_a_few_at_a_time() -> None:
    profiles = tuple(PeerProfile(UserId(f"@rtc_{n}:example.org"), f"Peer {n}") for n in range(50))
    bench = Bench(profiles=profiles)
    await bench.peers.start()
    assert bench.homeserver.names == {p.user_id: p.displayname for p in profiles} | {BOT: "Bridge"}
    assert 1 < bench.homeserver.most_busy <= peers_module.CONCURRENCY


async def test_start_fails_with_the_homeservers_sentence_when_a_user_cannot_be_registered() -> None:
    bench = Bench()
    bench.homeserver.failures["register"] = HomeserverError("could not register: M_EXCLUSIVE", 400, "M_EXCLUSIVE")
    with pytest.raises(HomeserverError, match="M_EXCLUSIVE"):
        await bench.peers.start()


async def test_start_learns_rooms_and_leaves_those_that_must_not_be() -> None:
    good, known, crowd, foreign, shared, empty, space = (
        RoomId(f"!{name}:example.org") for name in ["good", "known", "crowd", "foreign", "shared", "empty", "space"]
    )
    bench = Bench(
        directory=FakeDirectory(
            StoredRoom(PEER, known, ALICE, 5),
            StoredRoom(PEER, RoomId("!gone:example.org"), ALICE, 5),
            StoredRoom(UserId("@rtc_old:example.org"), RoomId("!old:example.org"), ALICE, 5),
        )
    )
    bench.homeserver.members = {
        good: {ALICE, PEER},
        known: {ALICE, PEER, MALLORY},
        crowd: {ALICE, PEER, MALLORY},
        foreign: {MALLORY, PEER},
        shared: {ALICE, PEER, PEER_2},
        empty: {PEER},
        space: {ALICE, PEER},
    }
    bench.homeserver.facts[space] = RoomFacts(encrypted=False, join_rule="invite", room_type="m.space")
    await bench.peers.start()
    assert bench.peers.members(good) == {ALICE, PEER}
    assert bench.peers.members(known) == {ALICE, PEER, MALLORY}, "its owner is known, and the third may leave again"
    for room in (crowd, foreign, shared, empty, space):
        assert bench.peers.members(room) is None
    left = {entry[1:] for entry in bench.homeserver.of("leave")}
    assert left == {(room, PEER) for room in (crowd, foreign, shared, empty, space)} | {
        (shared, PEER_2),
        (RoomId("!old:example.org"), UserId("@rtc_old:example.org")),
    }
    # A start is no use of a room: the known one keeps its time. What is no room any more is forgotten.
    assert bench.directory.rooms == {
        (PEER, good): StoredRoom(PEER, good, ALICE, bench.now_ms),
        (PEER, known): StoredRoom(PEER, known, ALICE, 5),
    }
    assert bench.homeserver.notices == []


async def test_start_fails_rather_than_overlooking_a_room_when_the_homeserver_is_away() -> None:
    bench = Bench()
    bench.homeserver.members = {ROOM: {ALICE, PEER}}
    bench.homeserver.failures["members"] = HomeserverError("away", 502)
    with pytest.raises(HomeserverError, match="away"):
        await bench.peers.start()


# --- invitations


async def test_peer_joins_a_room_of_two_of_somebody_with_a_grant() -> None:
    bench = Bench()
    await bench.invited(invite_state=(stripped("m.room.create"), stripped("m.room.join_rules", join_rule="invite")))
    assert bench.peers.members(ROOM) == {ALICE, PEER}
    assert bench.peers.peer_in(ROOM) == PEER
    assert bench.directory.rooms == {(PEER, ROOM): StoredRoom(PEER, ROOM, ALICE, bench.now_ms)}
    assert (bench.homeserver.notices, bench.listener.heard, bench.homeserver.of("leave")) == ([], [], [])


@pytest.mark.parametrize(
    ("peer", "inviter", "state"),
    [
        (PEER, MALLORY, ()),
        (BOT, ALICE, ()),
        (UserId("@rtc_unknown:example.org"), ALICE, ()),
        (PEER, PEER_2, ()),
        (PEER, ALICE, (stripped("m.room.create", type="m.space"),)),
        (PEER, ALICE, (stripped("m.room.create", type=[5]),)),
        (PEER, ALICE, (stripped("m.room.join_rules", join_rule="public"),)),
        (PEER, ALICE, (stripped("m.room.join_rules", join_rule="knock"),)),
        (PEER, ALICE, (stripped("m.room.join_rules"),)),
        (PEER, ALICE, (stripped("m.room.join_rules", join_rule="invite"), stripped("m.room.create", type="x"))),
    ],
)
async def test_invitation_is_declined_without_joining_or_a_word(
    peer: UserId, inviter: UserId, state: tuple[Mapping[str, Any], ...]
) -> None:
    bench = Bench()
    bench.granted.add((PEER_2, PEER))
    await bench.invited(peer, inviter, invite_state=state)
    assert bench.homeserver.log == [("leave", ROOM, peer)]
    assert bench.peers.members(ROOM) is None
    assert bench.directory.rooms == {}


@pytest.mark.parametrize(
    ("facts", "others"),
    [
        (RoomFacts(encrypted=False, join_rule="public", room_type=None), {ALICE}),
        (RoomFacts(encrypted=False, join_rule="restricted", room_type=None), {ALICE}),
        (RoomFacts(encrypted=False, join_rule="invite", room_type="m.space"), {ALICE}),
        (None, {ALICE, MALLORY}),
        (None, {MALLORY}),
        (None, set()),
    ],
)
async def test_peer_leaves_again_when_the_room_is_not_what_the_invitation_said(
    facts: RoomFacts | None, others: set[UserId]
) -> None:
    bench = Bench()
    bench.homeserver.members[ROOM] = set(others)
    if facts is not None:
        bench.homeserver.facts[ROOM] = facts
    await bench.invited()
    assert bench.homeserver.of("join", "leave", "notice") == [("join", ROOM, PEER), ("leave", ROOM, PEER)]
    assert bench.peers.members(ROOM) is None


async def test_second_peer_does_not_join_the_room_of_another() -> None:
    bench = Bench()
    await bench.invited()
    await bench.invited(PEER_2)
    assert bench.peers.members(ROOM) == {ALICE, PEER}
    assert bench.homeserver.of("join", "leave") == [("join", ROOM, PEER), ("leave", ROOM, PEER_2)]


async def test_oldest_room_is_left_when_a_user_makes_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms_module, "MAX_ROOMS_PER_PAIR", 3)
    bench = Bench()
    places = [RoomId(f"!{n}:example.org") for n in range(5)]
    for place in places:
        bench.now_ms += 1
        await bench.invited(room=place)
    await bench.invited(PEER_2, room=RoomId("!other:example.org"))
    assert [bench.peers.members(place) is not None for place in places] == [False, False, True, True, True]
    assert bench.listener.heard == [("left", places[0], PEER), ("left", places[1], PEER)]


async def test_failing_join_is_one_log_line_and_the_next_invitation_works(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.homeserver.failures["join"] = HomeserverError("could not join: 504", 504)
    await bench.invited()
    assert bench.peers.members(ROOM) is None
    assert [record.levelname for record in caplog.records if "was not handled" in record.message] == ["WARNING"]
    assert caplog.records[-1].exc_info is None
    bench.homeserver.failures.clear()
    await bench.invited()
    assert bench.peers.members(ROOM) == {ALICE, PEER}


async def test_event_is_given_up_at_its_time_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peers_module, "HANDLE_TIMEOUT_S", 0.01)
    bench = Bench()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.homeserver, "join", never)
    await bench.invited()
    assert "was not handled within" in caplog.text


# --- members


async def test_third_member_makes_the_room_unfit_says_so_once_and_leaving_makes_it_fit_again() -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(MALLORY, "join")
    assert bench.peers.members(ROOM) == {ALICE, PEER, MALLORY}
    assert [(room, user) for room, user, _ in bench.homeserver.notices] == [(ROOM, PEER)]
    await bench.member(MALLORY, "join")  # a new display name, say
    await bench.member(MALLORY, "leave")
    assert bench.peers.members(ROOM) == {ALICE, PEER}
    await bench.member(MALLORY, "join")
    assert bench.listener.heard == [("changed", ROOM)] * 3
    assert len(bench.homeserver.notices) == 1


async def test_odd_user_id_counts_as_a_third_member() -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(UserId("no user id at all"), "join")
    assert bench.peers.members(ROOM) != {ALICE, PEER}


@pytest.mark.parametrize("membership", ["leave", "ban", "knock", None, 5, {}])
async def test_peer_leaves_when_its_user_is_gone(membership: object) -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(ALICE, membership)
    assert bench.peers.members(ROOM) is None
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER)]
    assert bench.listener.heard == [("left", ROOM, ALICE), ("left", ROOM, PEER)]
    assert bench.directory.rooms == {}


async def test_peer_does_not_stay_with_the_third_when_its_user_leaves() -> None:
    bench = Bench()
    bench.granted.add((MALLORY, PEER))
    await bench.invited()
    await bench.member(MALLORY, "join")
    await bench.member(ALICE, "leave")
    assert bench.peers.members(ROOM) is None
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER)]


async def test_old_departure_ends_calls_but_not_the_room_when_the_user_is_back() -> None:
    bench = Bench()
    await bench.invited()
    await bench.peers.handle(event("m.room.member", {"membership": "leave"}, ALICE, ALICE))
    assert bench.peers.members(ROOM) == {ALICE, PEER}
    assert bench.listener.heard == [("left", ROOM, ALICE)]
    assert bench.homeserver.of("leave") == []


@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_room_is_forgotten_when_the_peer_is_removed(membership: str) -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(PEER, membership, sender=ALICE)
    assert bench.peers.members(ROOM) is None
    assert bench.listener.heard == [("left", ROOM, PEER)]
    assert bench.directory.rooms == {}


async def test_join_whose_answer_was_lost_is_learnt_from_the_event() -> None:
    bench = Bench()
    bench.homeserver.members[ROOM] = {ALICE}
    await bench.member(PEER, "join")
    assert bench.peers.members(ROOM) == {ALICE, PEER}


async def test_echo_of_a_join_that_was_taken_back_changes_nothing() -> None:
    bench = Bench()
    await bench.peers.handle(event("m.room.member", {"membership": "join"}, PEER, PEER))
    assert bench.peers.members(ROOM) is None
    assert bench.homeserver.of("join", "leave") == []


async def test_events_of_other_rooms_cost_nothing() -> None:
    bench = Bench()
    await bench.member(MALLORY, "join")
    await bench.peers.handle(event("m.room.message", {"body": "hello"}))
    await bench.peers.handle(event("m.room.encryption", {}, state_key=""))
    assert bench.homeserver.log == []


async def test_peer_says_once_that_it_cannot_read_an_encrypted_room() -> None:
    bench = Bench()
    await bench.invited()
    for _ in range(2):
        await bench.peers.handle(event("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, state_key=""))
    assert ["encrypted" in text for _, _, text in bench.homeserver.notices] == [True]
    other = RoomId("!other:example.org")
    bench.homeserver.facts[other] = RoomFacts(encrypted=True, join_rule="invite", room_type=None)
    await bench.invited(room=other)
    assert [room for room, _, _ in bench.homeserver.notices] == [ROOM, other]


# --- leaving


async def test_idle_room_is_left_and_a_used_one_is_kept() -> None:
    bench = Bench()
    used, idle = RoomId("!used:example.org"), RoomId("!idle:example.org")
    for room in (used, idle):
        await bench.invited(room=room)
    bench.now_ms += 10 * 60 * 1000
    await bench.peers.handle(event("m.call.invite", {}, ALICE, room=used))
    await bench.peers.handle(event("m.call.invite", {}, MALLORY, room=idle))
    assert await bench.peers.leave_idle(bench.now_ms) == 1
    assert (bench.peers.members(used), bench.peers.members(idle)) == ({ALICE, PEER}, None)
    assert bench.listener.heard == [("left", idle, PEER)]


async def test_use_of_a_room_is_stored_at_most_every_ten_minutes() -> None:
    bench = Bench()
    await bench.invited()
    start = bench.now_ms
    stored = []
    for minutes in (9, 10, 19, 20):
        bench.now_ms = start + minutes * 60_000
        await bench.peers.handle(event("m.room.message", {}))
        stored.append((bench.directory.rooms[PEER, ROOM].last_active_ms - start) // 60_000)
    assert stored == [0, 10, 10, 20]


async def test_room_that_could_not_be_left_is_left_at_the_next_sweep() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.failures["leave"] = HomeserverError("away", 0)
    await bench.member(ALICE, "leave")
    assert bench.peers.members(ROOM) is None
    bench.homeserver.failures.clear()
    await bench.peers.leave_idle(0)
    await bench.peers.leave_idle(0)
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER)] * 2
    assert bench.homeserver.members[ROOM] == set()


async def test_room_joined_again_is_not_left_by_the_sweep() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.failures["leave"] = HomeserverError("away", 0)
    await bench.member(ALICE, "leave")
    bench.homeserver.failures.clear()
    bench.homeserver.members[ROOM] = {ALICE}
    await bench.invited()
    await bench.peers.leave_idle(0)
    assert bench.peers.members(ROOM) == {ALICE, PEER}


async def test_reload_leaves_rooms_whose_right_is_gone_and_registers_new_peers() -> None:
    bench = Bench()
    kept, lost, removed = (RoomId(f"!{name}:example.org") for name in ["kept", "lost", "removed"])
    bench.granted.add((MALLORY, PEER))
    await bench.invited(room=kept)
    await bench.invited(room=lost, by=MALLORY)
    await bench.invited(PEER_2, room=removed)
    bench.granted.discard((MALLORY, PEER))
    bench.homeserver.log.clear()
    new = PeerProfile(UserId("@rtc_new:example.org"), "New")
    await bench.peers.reload([PeerProfile(PEER, "Build"), new])
    assert [bench.peers.members(room) is None for room in (kept, lost, removed)] == [False, True, True]
    assert bench.homeserver.of("register") == [("register", new.user_id)]
    assert not bench.peers.is_peer(PEER_2)
    assert sorted(bench.listener.heard) == [("left", lost, PEER), ("left", removed, PEER_2)]


# --- decisions without requests


def test_invite_state_of_any_form_is_read_without_an_error() -> None:
    state = [{"type": "m.room.create"}, {"type": [], "content": {}}, {"content": 5}, {}]
    verdict = judge_invite(
        ALICE, PEER, state, is_peer=lambda _: True, is_own=lambda _: False, may_use=lambda _, __: True
    )
    assert verdict is None


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ALICE, PEER, MALLORY]), st.sampled_from(["join", "leave", "ban", "invite", "knock", 7])
        ),
        max_size=20,
    )
)
def test_book_agrees_with_a_plain_count_of_members(steps: list[tuple[UserId, object]]) -> None:
    book = RoomBook()
    book.enter(PeerRoom(ROOM, PEER, ALICE, {ALICE, PEER}))
    members = {ALICE, PEER}
    for user, membership in steps:
        before = set(members)
        (members.add if membership == "join" else members.discard)(user)
        change = book.apply_membership(ROOM, user, membership)
        room = book.get(ROOM)
        assert room is not None
        assert room.members == members
        assert room.is_pair == (members == {ALICE, PEER})
        if change is Change.NOTHING:
            assert before == members or user in (ALICE, PEER) or members != {ALICE, PEER}
        if user == MALLORY and before != members and membership == "join":
            assert change is Change.THIRD_JOINED


def test_reasons_are_words_for_the_log() -> None:
    assert len({reason.value for reason in Unfit}) == len(Unfit)


# --- against a real homeserver


@dataclass
class RealPeers:
    peers: Peers
    peer: UserId
    granted: set[UserId]
    listener: Recorder
    directory: FakeDirectory


MakePeers = Callable[[], RealPeers]


@pytest_asyncio.fixture(loop_scope="session")
async def real_peers(bridge_world: BridgeWorld, bridge: Homeserver) -> AsyncIterator[RealPeers]:
    """Peers that hear the transactions of a real homeserver."""
    peer, granted, listener, directory = bridge_world.peer(), set[UserId](), Recorder(), FakeDirectory()
    peers = Peers(
        bridge,
        directory,
        listener,
        profiles=[PeerProfile(peer, "A peer")],
        bot=None,
        is_own=lambda user: user.startswith("@rtc_"),
        may_use=lambda user, wanted: user in granted and wanted == peer,
        wall_ms=lambda: 1,
    )
    await peers.start()
    bridge_world.receiver.handler = peers.handle
    await liveness.ping(bridge, APPSERVICE_ID)
    yield RealPeers(peers, peer, granted, listener, directory)
    bridge_world.receiver.handler = None


@pytest.mark.asyncio(loop_scope="session")
async def test_real_peer_joins_by_right_declines_without_and_follows_the_members(
    real_peers: RealPeers, make_person: MakePerson
) -> None:
    alice, mallory = await make_person(), await make_person()
    real_peers.granted.add(alice.user_id)
    peer = real_peers.peer
    denied = await mallory.homeserver.create_direct_room(peer)
    await mallory.wait_for(denied, peer, "leave")
    room = await alice.homeserver.create_direct_room(peer)
    await alice.wait_for(room, peer, "join")

    await alice.homeserver.invite(room, mallory.user_id)
    await mallory.homeserver.join(room)
    async with asyncio.timeout(20):
        while not await alice.timeline(room, "m.room.message"):
            await asyncio.sleep(0.05)
    assert real_peers.peers.members(room) == {alice.user_id, peer, mallory.user_id}
    await mallory.homeserver.leave(room)
    await alice.state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    async with asyncio.timeout(20):
        while len(notices := await alice.timeline(room, "m.room.message")) < 2:
            await asyncio.sleep(0.05)
    assert real_peers.peers.members(room) == {alice.user_id, peer}
    assert {item["sender"] for item in notices} == {peer}
    assert "encrypted" in notices[1]["content"]["body"]

    await alice.homeserver.leave(room)
    async with asyncio.timeout(20):
        while real_peers.peers.members(room) is not None:
            await asyncio.sleep(0.05)
    assert real_peers.listener.heard == [
        ("changed", room),
        ("changed", room),
        ("left", room, alice.user_id),
        ("left", room, peer),
    ]


@pytest.mark.asyncio(loop_scope="session")
async def test_real_peer_refuses_spaces_and_public_rooms(
    real_peers: RealPeers, make_person: MakePerson, bridge: Homeserver
) -> None:
    alice = await make_person()
    real_peers.granted.add(alice.user_id)
    for options in ({"creation_content": {"type": "m.space"}}, {"preset": "public_chat"}):
        content = {"invite": [real_peers.peer], **options}
        answer = await alice.homeserver._post("make", create_path(), content)
        room = RoomId(str(answer["room_id"]))
        await alice.wait_for(room, real_peers.peer, "leave")
    assert await bridge.joined_rooms(real_peers.peer) == ()


@pytest.mark.asyncio(loop_scope="session")
async def test_real_rooms_are_found_again_after_a_restart(
    real_peers: RealPeers, make_person: MakePerson, bridge: Homeserver
) -> None:
    alice = await make_person()
    real_peers.granted.add(alice.user_id)
    room = await alice.homeserver.create_direct_room(real_peers.peer)
    await alice.wait_for(room, real_peers.peer, "join")
    async with asyncio.timeout(20):
        while real_peers.peers.members(room) is None:
            await asyncio.sleep(0.05)
    again = Peers(
        bridge,
        real_peers.directory,
        Recorder(),
        profiles=[PeerProfile(real_peers.peer, "A peer")],
        bot=None,
        is_own=lambda user: user.startswith("@rtc_"),
        may_use=lambda user, _: user in real_peers.granted,
        wall_ms=lambda: 1,
    )
    await again.start()
    assert again.members(room) == {alice.user_id, real_peers.peer}
    real_peers.granted.clear()
    await again.reload([PeerProfile(real_peers.peer, "A peer")])
    await alice.wait_for(room, real_peers.peer, "leave")


def create_path() -> Any:
    from mautrix.api import Path

    return Path.v3.createRoom
