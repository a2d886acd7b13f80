"""What peers do when members come and go, when rooms are idle, and when rights change."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.access.revocations import MembershipChange, UnreadableChange
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms.invitations import Unfit, judge_invite
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom
from tests.long import examples
from tests.matrix.rooms.peers_bench import ALICE, MALLORY, PEER, PEER_2, ROOM, Bench, event

# --- members


async def test_third_member_makes_the_room_unfit_says_so_once_and_leaving_makes_it_fit_again() -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(MALLORY, "join")
    assert bench.index.members(ROOM) == {ALICE, PEER, MALLORY}
    assert [(room, user) for room, user, _ in bench.homeserver.notices] == [(ROOM, PEER)]
    await bench.member(MALLORY, "join")  # a new display name, say
    await bench.member(MALLORY, "leave")
    assert bench.index.members(ROOM) == {ALICE, PEER}
    await bench.member(MALLORY, "join")
    assert bench.listener.heard == [("changed", ROOM)] * 3
    assert len(bench.homeserver.notices) == 1


async def test_odd_user_id_counts_as_a_third_member() -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(UserId("no user id at all"), "join")
    assert bench.index.members(ROOM) != {ALICE, PEER}


@pytest.mark.parametrize("membership", ["leave", "ban", "knock", None, 5, {}])
async def test_peer_leaves_when_its_user_is_gone(membership: object) -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(ALICE, membership)
    assert bench.index.members(ROOM) is None
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER)]
    assert bench.listener.heard == [("left", ROOM, ALICE), ("left", ROOM, PEER)]
    assert bench.directory.rooms == {}


async def test_peer_does_not_stay_with_the_third_when_its_user_leaves() -> None:
    bench = Bench()
    bench.granted.add((MALLORY, PEER))
    await bench.invited()
    await bench.member(MALLORY, "join")
    await bench.member(ALICE, "leave")
    assert bench.index.members(ROOM) is None
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER)]


async def test_old_departure_ends_calls_but_not_the_room_when_the_user_is_back() -> None:
    bench = Bench()
    await bench.invited()
    await bench.arrive(event("m.room.member", {"membership": "leave"}, ALICE, ALICE))
    assert bench.index.members(ROOM) == {PEER}, "the answer may be older than the event"
    assert bench.listener.heard == [("left", ROOM, ALICE)]
    await bench.settle()
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert bench.homeserver.of("leave") == []


@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_room_is_forgotten_when_the_peer_is_removed(membership: str) -> None:
    bench = Bench()
    await bench.invited()
    await bench.member(PEER, membership, sender=ALICE)
    assert bench.index.members(ROOM) is None
    assert bench.listener.heard == [("left", ROOM, PEER)]
    assert bench.directory.rooms == {}


async def test_join_whose_answer_was_lost_is_learnt_from_the_event() -> None:
    bench = Bench()
    bench.homeserver.members[ROOM] = {ALICE}
    await bench.member(PEER, "join")
    assert bench.index.members(ROOM) == {ALICE, PEER}


async def test_echo_of_a_join_that_was_taken_back_changes_nothing() -> None:
    bench = Bench()
    await bench.arrive(event("m.room.member", {"membership": "join"}, PEER, PEER))
    assert bench.index.members(ROOM) is None
    assert bench.homeserver.of("join", "leave") == []


async def test_events_of_other_rooms_cost_nothing() -> None:
    bench = Bench()
    await bench.member(MALLORY, "join")
    await bench.peers.handle(event("m.room.message", {"body": "hello"}))
    await bench.arrive(event("m.room.encryption", {}, state_key=""))
    assert bench.homeserver.log == []


async def test_peer_says_once_that_it_cannot_read_an_encrypted_room() -> None:
    bench = Bench()
    await bench.invited()
    for _ in range(2):
        await bench.arrive(event("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, state_key=""))
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
    assert (bench.index.members(used), bench.index.members(idle)) == ({ALICE, PEER}, None)
    assert bench.listener.heard == [("left", idle, PEER)]


async def test_idle_room_with_a_live_call_is_kept() -> None:
    """A pipe that runs for days needs no event in its room."""
    bench = Bench()
    await bench.invited()
    bench.now_ms += 1
    assert await bench.peers.leave_idle(bench.now_ms, busy={ROOM}) == 0
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert await bench.peers.leave_idle(bench.now_ms) == 1


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


async def test_reload_forgets_rooms_whose_right_is_gone_and_registers_new_peers_before_one_is_left() -> None:
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
    assert [bench.index.members(room) is None for room in (kept, lost, removed)] == [False, True, True]
    assert bench.homeserver.of("register") == [("register", new.user_id)]
    assert not bench.peers.is_peer(PEER_2)
    assert sorted(bench.listener.heard) == [("left", lost, PEER), ("left", removed, PEER_2)]
    assert bench.homeserver.of("leave") == []
    await bench.peers.leave_unused()
    assert sorted(bench.homeserver.of("leave")) == [("leave", lost, PEER), ("leave", removed, PEER_2)]
    assert [room for _, room in bench.directory.rooms] == [kept]


async def test_reload_that_is_cut_short_has_taken_the_rooms_away_and_the_next_one_does_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    rooms = [RoomId(f"!{number}:example.org") for number in range(20)]
    bench.granted.add((MALLORY, PEER))
    for room in rooms:
        bench.homeserver.members[room] = {MALLORY, PEER}
        bench.index.enter(PeerRoom(room, PEER, MALLORY, {MALLORY, PEER}, False))
    bench.granted.discard((MALLORY, PEER))
    register, begun = bench.homeserver.register_user, asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(bench.homeserver, "register_user", hang)
    new = PeerProfile(UserId("@rtc_new:example.org"), "New")
    profiles = [PeerProfile(PEER, "Build"), PeerProfile(PEER_2, "Other"), new]
    task = asyncio.create_task(bench.peers.reload(profiles))
    await begun.wait()
    assert all(bench.index.members(room) is None for room in rooms)
    assert {heard[1] for heard in bench.listener.heard} == set(rooms)
    task.cancel()
    await asyncio.wait([task])
    monkeypatch.setattr(bench.homeserver, "register_user", register)
    bench.homeserver.log.clear()
    await bench.peers.reload(profiles)
    assert ("register", new.user_id) in bench.homeserver.of("register"), "the first attempt has not done it"
    leaving = asyncio.create_task(bench.peers.leave_unused())
    while not bench.homeserver.of("leave"):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert len(bench.homeserver.of("leave")) < len(rooms)
    await bench.peers.leave_unused()
    assert {each[1] for each in bench.homeserver.of("leave")} == set(rooms)
    assert all(bench.homeserver.members[room] == {MALLORY} for room in rooms)


# --- decisions without requests


def test_invite_state_of_any_form_is_read_without_an_error() -> None:
    state = [{"type": "m.room.create"}, {"type": [], "content": {}}, {"content": 5}, {}]
    verdict = judge_invite(
        ALICE, PEER, state, is_peer=lambda _: True, is_own=lambda _: False, may_use=lambda _, __: True
    )
    assert verdict is None


STEPS = st.lists(
    st.tuples(st.sampled_from([ALICE, PEER, MALLORY]), st.sampled_from(["join", "leave", "ban", "invite", "knock", 7])),
    max_size=20,
)


@settings(max_examples=examples(200), deadline=None)
@given(steps=STEPS, answers=st.lists(st.sets(st.sampled_from([ALICE, PEER, MALLORY])), max_size=5))
async def test_room_is_never_fit_while_the_news_say_that_it_is_not(
    steps: list[tuple[UserId, object]], answers: list[set[UserId]]
) -> None:
    """Whatever the homeserver says meanwhile: it may answer by what was true a moment ago."""
    bench = Bench()
    await bench.invited()
    members = {ALICE, PEER}
    for number, (user, membership) in enumerate(steps):
        (members.add if membership == "join" else members.discard)(user)
        bench.homeserver.members[ROOM] = {*members, PEER}
        if number < len(answers):
            bench.homeserver.stale[ROOM] = frozenset({*answers[number], PEER})
        else:
            bench.homeserver.stale.clear()
        news = MembershipChange(ROOM, user, membership == "join")
        bench.peers.membership.look(news)
        assert bench.index.members(ROOM) != {ALICE, PEER} or members == {ALICE, PEER}
        await bench.peers.membership.refresher.confirm(ROOM)
        if bench.index.members(ROOM) is None:
            return
        assert bench.index.members(ROOM) != {ALICE, PEER} or members == {ALICE, PEER}


async def test_room_is_as_the_homeserver_says_in_the_end() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.stale[ROOM] = frozenset({ALICE, PEER})
    bench.homeserver.members[ROOM].add(MALLORY)
    bench.peers.membership.look(MembershipChange(ROOM, MALLORY, True))
    await bench.peers.membership.refresher.confirm(ROOM)
    assert bench.index.members(ROOM) == {ALICE, PEER, MALLORY}
    bench.homeserver.stale.clear()
    bench.homeserver.members[ROOM].discard(MALLORY)
    await bench.settle()
    assert bench.index.members(ROOM) == {ALICE, PEER}, "nobody has told that the third left"


async def test_invitation_of_the_user_to_a_room_of_the_peer_does_not_make_it_leave() -> None:
    bench = Bench()
    bench.homeserver.members[ROOM] = {PEER}
    await bench.peers.adopt(ROOM, PEER, ALICE)
    await bench.arrive(event("m.room.member", {"membership": "invite"}, PEER, ALICE))
    assert bench.index.members(ROOM) == {PEER}
    await bench.member(ALICE, "join")
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert bench.homeserver.of("leave") == []


@pytest.mark.parametrize("target", [ALICE, PEER])
@pytest.mark.parametrize("by", [MALLORY, UserId("@eve:evil.test"), ALICE])
async def test_invitation_of_somebody_who_is_in_the_room_ends_nothing(target: UserId, by: UserId) -> None:
    """Any homeserver can send one, past the room: ours hands it on, whoever is in the room."""
    bench = Bench()
    await bench.invited()
    bench.listener.heard.clear()
    await bench.arrive(event("m.room.member", {"membership": "invite"}, by, target))
    await bench.settle()
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert bench.listener.heard == []
    assert bench.homeserver.of("leave") == []


async def test_peer_whose_removal_was_missed_is_back_by_an_invitation() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.members[ROOM] = {ALICE}
    await bench.arrive(event("m.room.member", {"membership": "invite"}, ALICE, PEER))
    assert bench.homeserver.members[ROOM] == bench.index.members(ROOM) == {ALICE, PEER}


@pytest.mark.parametrize("news", [MembershipChange(ROOM, MALLORY, True), MembershipChange(ROOM, ALICE, False)])
async def test_what_arrives_while_a_room_is_entered_counts(
    news: MembershipChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    ask = bench.homeserver.room_facts

    async def facts(room: RoomId, as_user: UserId | None = None) -> RoomFacts:
        bench.homeserver.stale[ROOM] = frozenset({ALICE, PEER})
        bench.peers.membership.look(news)
        return await ask(room, as_user)

    monkeypatch.setattr(bench.homeserver, "room_facts", facts)
    await bench.invited()
    assert bench.index.members(ROOM) not in (None, {ALICE, PEER})


async def test_news_that_cannot_be_read_make_the_homeserver_be_asked_also_for_the_encryption() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.facts[ROOM] = RoomFacts(encrypted=True, join_rule="invite", room_type=None)
    bench.homeserver.members[ROOM].add(MALLORY)
    bench.peers.membership.look(UnreadableChange(None))
    await bench.peers.membership.refresher.confirm(ROOM)
    assert bench.index.members(ROOM) == {ALICE, PEER, MALLORY}
    assert bench.index.is_encrypted(ROOM)


async def test_peer_that_the_homeserver_does_not_know_in_the_room_any_more_is_out_of_it() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.members[ROOM].clear()
    bench.peers.membership.look(UnreadableChange(ROOM))
    await bench.peers.membership.refresher.confirm(ROOM)
    assert bench.index.members(ROOM) is None
    assert bench.listener.heard == [("left", ROOM, PEER)]


async def test_answer_from_before_a_kick_lets_nobody_back_by_an_old_join(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.members[ROOM].add(MALLORY)
    ask = bench.homeserver.joined_members

    async def joined_members(room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        monkeypatch.undo()
        bench.homeserver.members[ROOM] = {PEER}
        bench.peers.membership.look(MembershipChange(ROOM, ALICE, False))
        bench.peers.membership.look(MembershipChange(ROOM, ALICE, True))
        return frozenset({PEER, ALICE})

    monkeypatch.setattr(bench.homeserver, "joined_members", joined_members)
    bench.peers.membership.look(UnreadableChange(ROOM))
    await bench.peers.membership.refresher.confirm(ROOM)
    assert bench.index.members(ROOM) == {PEER}
    monkeypatch.setattr(bench.homeserver, "joined_members", ask)
    await bench.peers.membership.refresher.confirm(ROOM)
    assert bench.index.members(ROOM) != {PEER, ALICE}


async def test_rooms_of_live_calls_are_compared_the_oldest_first_and_few_at_a_time() -> None:
    bench = Bench()
    rooms = [RoomId(f"!{number}:example.org") for number in range(4)]
    for room in rooms:
        await bench.invited(room=room)
    refresher = bench.peers.membership.refresher
    await refresher.confirm(rooms[0], 0)
    bench.now_ms += 100_000
    await refresher.confirm(rooms[1], 0)
    bench.peers.membership.compare([*rooms, RoomId("!none:example.org")], 50, 2)
    assert {room for room in rooms if refresher.is_doubtful(room)} == {rooms[2], rooms[3]}
    for room in rooms[2:]:
        await refresher.confirm(room)
    bench.peers.membership.compare(rooms, 50, 20)
    assert {room for room in rooms if refresher.is_doubtful(room)} == {rooms[0]}


def test_reasons_are_words_for_the_log() -> None:
    assert len({reason.value for reason in Unfit}) == len(Unfit)
