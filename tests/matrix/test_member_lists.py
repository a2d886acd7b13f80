"""Members of rooms that grants name: known only while the bot can see them."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix import member_lists as module
from mxrtc_bridge.matrix.member_lists import MemberLists
from tests.matrix.peers_bench import ALICE, BOT, MALLORY, PEER, ROOM, Bench

OTHER = RoomId("!other:example.org")


class Server:
    def __init__(self) -> None:
        self.rooms: dict[RoomId, set[UserId]] = {ROOM: {BOT, ALICE}}
        self.asked = 0
        self.meanwhile = lambda: None

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        assert as_user == BOT
        self.asked += 1
        found = self.rooms.get(room)
        if found is None:
            raise HomeserverError("not in the room", 403, "M_FORBIDDEN")
        answer = frozenset(found)
        self.meanwhile()
        return answer


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.changes = 0
        self.lists = MemberLists(self.server, BOT, self.change)

    def change(self) -> None:
        self.changes += 1


@pytest.fixture
async def world() -> World:
    world = World()
    await world.lists.learn(ROOM)
    return world


async def test_nobody_is_a_member_of_what_is_not_known() -> None:
    world = World()
    assert (world.lists.rooms_of(ALICE), world.lists.members(ROOM)) == (frozenset(), None)
    world.lists.apply(ROOM, MALLORY, "join")
    assert world.lists.rooms_of(MALLORY) == frozenset()
    with pytest.raises(HomeserverError):
        await world.lists.learn(OTHER)
    assert world.lists.members(OTHER) is None


async def test_members_come_and_go_with_the_events(world: World) -> None:
    assert world.lists.rooms_of(ALICE) == {ROOM}
    for membership in ("leave", "ban", "knock", "invite", None, 5, {"membership": "join"}):
        world.lists.apply(ROOM, ALICE, "join")
        before = world.changes
        world.lists.apply(ROOM, ALICE, membership)
        assert world.lists.rooms_of(ALICE) == frozenset(), membership
        assert world.changes == before + 1, "live sessions are judged again"
    world.lists.apply(ROOM, MALLORY, "join")
    assert world.lists.members(ROOM) == {BOT, MALLORY}


async def test_a_list_that_is_learned_again_is_the_only_truth(world: World) -> None:
    world.server.rooms[ROOM] = {BOT, MALLORY}
    await world.lists.learn(ROOM)
    assert world.lists.rooms_of(ALICE) == frozenset()
    assert world.lists.rooms_of(MALLORY) == {ROOM}
    world.lists.forget(ROOM)
    assert world.lists.rooms_of(MALLORY) == frozenset()


async def test_a_homeserver_that_does_not_answer_leaves_nobody_in(world: World) -> None:
    del world.server.rooms[ROOM]
    with pytest.raises(HomeserverError):
        await world.lists.learn(ROOM)
    assert world.lists.rooms_of(ALICE) == frozenset()


async def test_an_event_that_overtakes_the_list_is_not_lost() -> None:
    world = World()

    def leave() -> None:
        if world.server.asked == 1:
            world.server.rooms[ROOM].discard(ALICE)
            world.lists.apply(ROOM, ALICE, "leave")

    world.server.meanwhile = leave
    await world.lists.learn(ROOM)
    assert world.server.asked == 2
    assert world.lists.rooms_of(ALICE) == frozenset()


async def test_a_room_that_never_rests_and_one_that_is_too_large_have_no_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.server.meanwhile = lambda: world.lists.apply(ROOM, MALLORY, "join")
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) is None
    world = World()
    monkeypatch.setattr(module, "MAX_MEMBERS", 2)
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) == {BOT, ALICE}
    world.lists.apply(ROOM, MALLORY, "join")
    assert (world.lists.members(ROOM), world.lists.rooms_of(ALICE)) == (None, frozenset())
    await world.lists.learn(ROOM)
    world.server.rooms[ROOM].add(MALLORY)
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) is None


async def test_the_bot_keeps_the_lists_of_its_rooms() -> None:
    bench = Bench(named={"the members of it": ROOM})
    bench.homeserver.members[ROOM] = {ALICE}
    await bench.bot_rooms.enter()
    assert bench.lists.rooms_of(ALICE) == {ROOM}
    await bench.member(MALLORY, "join")
    await bench.member(ALICE, "ban", sender=MALLORY)
    assert bench.lists.members(ROOM) == {BOT, MALLORY}
    await bench.member(BOT, "leave", sender=MALLORY)
    assert bench.lists.rooms_of(MALLORY) == frozenset(), "what the bot does not see does not count"
    await bench.invited(BOT, MALLORY)
    assert bench.lists.rooms_of(MALLORY) == {ROOM}
    await bench.bot_rooms.reload({})
    assert bench.lists.rooms_of(MALLORY) == frozenset()
    assert bench.peers.peer_in(ROOM) is None
    assert PEER not in bench.homeserver.members[ROOM]
