"""Members of rooms that grants name: known only while the bot can see them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.members import MemberLists
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S
from tests.counted_lines import lines
from tests.honesty import LIES, NO_ANSWERS, Honesty, failure
from tests.long import examples
from tests.matrix.rooms.peers_bench import ALICE, BOT, MALLORY, PEER, ROOM, Bench

OTHER = RoomId("!other:example.org")


class Server:
    """Says who is in ``rooms``; a test that needs a lie sets ``honesty`` after what it is stale about."""

    def __init__(self) -> None:
        self.rooms: dict[RoomId, set[UserId]] = {ROOM: {BOT, ALICE}}
        self.honesty = Honesty.TRUE
        self.asked = 0
        self.acl: dict[str, object] | None = None
        self.meanwhile = lambda: None

    @property
    def honesty(self) -> Honesty:
        return self._honesty

    @honesty.setter
    def honesty(self, honesty: Honesty) -> None:
        self._honesty = honesty
        self._old = {room: set(members) for room, members in self.rooms.items()}

    async def state(self, room: RoomId, event_type: str, as_user: UserId | None = None) -> dict[str, object] | None:
        assert (event_type, as_user) == ("m.room.server_acl", BOT)
        return self.acl

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        assert as_user == BOT
        self.asked += 1
        if (error := failure(self.honesty)) is not None:
            raise error
        found = (self._old if self.honesty is Honesty.STALE else self.rooms).get(room)
        if found is None:
            raise HomeserverError("not in the room", 403, "M_FORBIDDEN")
        answer = frozenset(found)
        self.meanwhile()
        return answer


class World:
    def __init__(self, **limits: int) -> None:
        self.server = Server()
        self.changes = 0
        self.changed = set[UserId]()
        self.now = 1000.0
        self.lists = MemberLists(self.server, BOT, self.change, lambda: self.now, **limits)

    def change(self, users: Collection[UserId]) -> None:
        self.changes += 1
        self.changed = set(users)

    def look(self, user: UserId, *, joined: bool, room: RoomId = ROOM) -> bool:
        return self.lists.look(room, user, joined=joined)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.lists.learn(ROOM)
    return world


async def test_nobody_is_a_member_of_what_is_not_known() -> None:
    world = World()
    assert (world.lists.rooms_of(ALICE), world.lists.members(ROOM)) == (frozenset(), None)
    assert not world.look(MALLORY, joined=True)
    assert not world.look(ALICE, joined=False)
    assert world.lists.rooms_of(MALLORY) == frozenset()
    with pytest.raises(HomeserverError):
        await world.lists.learn(OTHER)
    assert world.lists.members(OTHER) is None


async def test_a_question_that_is_refused_leaves_no_other_behind(world: World) -> None:
    """It would go on without an owner, for as long as a homeserver may be silent, and one with each question."""

    async def silent(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    world.server.state = silent  # type: ignore[method-assign]
    with pytest.raises(HomeserverError):
        await world.lists.learn(OTHER)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_event_takes_a_member_away_at_once_and_asks(world: World) -> None:
    before = world.changes
    assert world.look(ALICE, joined=False)
    assert world.lists.rooms_of(ALICE) == frozenset()
    assert world.changes == before + 1, "live sessions are judged again"
    assert world.changed == {ALICE}, "those of this user"
    assert not world.look(MALLORY, joined=False), "who is no member is no news"
    assert world.changes == before + 1


async def test_members_of_a_server_that_the_room_shuts_out_are_none_until_it_lets_them_in(world: World) -> None:
    eve = UserId("@eve:sub.Evil.test:8448")
    world.server.rooms[ROOM] |= {eve}
    await world.lists.learn(ROOM)
    assert world.lists.rooms_of(eve) == {ROOM}
    for acl, found in [({"allow": ["*"], "deny": ["*.evil.test"]}, set[RoomId]()), ({"allow": ["*"]}, {ROOM})]:
        world.server.acl = dict[str, object](acl)
        await world.lists.learn(ROOM)
        assert world.lists.rooms_of(eve) == found
        assert world.lists.rooms_of(ALICE) == {ROOM}


async def test_answer_with_the_access_list_of_before_is_asked_for_once_more(world: World) -> None:
    """As of a homeserver of several processes, which hears of the change a moment later itself."""
    eve = UserId("@eve:evil.test")
    world.server.rooms[ROOM] |= {eve}
    await world.lists.learn(ROOM)
    for _ in range(2):
        world.lists.access_list_changed(ROOM)
        world.now += 0.1
        assert await world.lists.learn(ROOM) == SETTLE_S
        assert world.lists.rooms_of(eve) == {ROOM}
        world.now += SETTLE_S
    world.server.acl = {"allow": ["*"], "deny": ["evil.test"]}
    assert await world.lists.learn(ROOM) is None
    assert not world.lists.rooms_of(eve)


async def test_event_makes_nobody_a_member_but_the_answer_does(world: World) -> None:
    assert world.look(MALLORY, joined=True)
    assert world.lists.rooms_of(MALLORY) == frozenset()
    world.server.rooms[ROOM].add(MALLORY)
    assert await world.lists.learn(ROOM) is None
    assert world.lists.rooms_of(MALLORY) == {ROOM}
    assert not world.look(MALLORY, joined=True), "a new display name, say"


async def test_old_join_that_comes_again_after_a_ban_gives_nothing(world: World) -> None:
    world.server.rooms[ROOM].discard(ALICE)
    world.look(ALICE, joined=False)
    world.look(ALICE, joined=True)
    await world.lists.learn(ROOM)
    assert world.lists.rooms_of(ALICE) == frozenset()


async def test_old_leave_that_comes_again_is_healed_by_the_answer(world: World) -> None:
    world.look(ALICE, joined=False)
    assert await world.lists.learn(ROOM) == SETTLE_S, "this answer may be too old"
    assert world.lists.rooms_of(ALICE) == frozenset()
    world.now += SETTLE_S
    assert await world.lists.learn(ROOM) is None
    assert world.lists.rooms_of(ALICE) == {ROOM}


async def test_answer_drops_who_is_not_in_it_and_nobody_is_dropped_while_it_is_waited_for(world: World) -> None:
    seen = []
    world.server.meanwhile = lambda: seen.append(world.lists.rooms_of(ALICE))
    await world.lists.learn(ROOM)
    assert seen == [{ROOM}]
    before = world.changes
    world.server.rooms[ROOM] = {BOT, MALLORY}
    await world.lists.learn(ROOM)
    assert (world.lists.rooms_of(ALICE), world.lists.rooms_of(MALLORY)) == (frozenset(), {ROOM})
    assert (world.changes, world.changed) == (before + 1, {ALICE, MALLORY}), "who stays is not judged again"
    await world.lists.learn(ROOM)
    assert world.changes == before + 1, "nothing has changed"
    world.lists.forget(ROOM)
    assert world.lists.rooms_of(MALLORY) == frozenset()
    assert world.changed == {BOT, MALLORY}


async def test_a_crowd_that_leaves_over_and_over_costs_no_look_at_all_that_left_before(world: World) -> None:
    """Strangers in a room that a right names may leave as often as they like, before what they did is settled."""
    world = World(max_gone=500)
    await world.lists.learn(ROOM)

    def leaves(number: int) -> None:
        world.look(UserId(f"@m{number}:evil.test"), joined=False)

    usual = lines(lambda: leaves(0), "matrix/rooms/members")
    for number in range(1, 600):
        leaves(number)
    assert lines(lambda: leaves(600), "matrix/rooms/members") <= 2 * usual
    # What is settled makes room for others.
    world.now += SETTLE_S
    leaves(700)
    world.now += SETTLE_S
    assert await world.lists.learn(ROOM) is None


async def test_a_homeserver_that_does_not_answer_ends_nothing_and_gives_nothing(world: World) -> None:
    del world.server.rooms[ROOM]
    with pytest.raises(HomeserverError):
        await world.lists.learn(ROOM)
    assert world.lists.rooms_of(ALICE) == {ROOM}


@pytest.mark.parametrize("lie", LIES)
async def test_who_was_taken_away_stays_away_whatever_the_homeserver_says_then(world: World, lie: Honesty) -> None:
    world.server.honesty = lie
    world.server.rooms[ROOM].discard(ALICE)
    assert world.look(ALICE, joined=False)
    for _ in range(3):
        with nullcontext() if lie is Honesty.STALE else pytest.raises(HomeserverError):
            await world.lists.learn(ROOM)
        assert world.lists.rooms_of(ALICE) == frozenset()
    world.server.honesty = Honesty.TRUE
    await world.lists.learn(ROOM)
    assert world.lists.rooms_of(ALICE) == frozenset()


@pytest.mark.parametrize("lie", NO_ANSWERS)
async def test_no_answer_ends_nothing_and_makes_nobody_a_member(world: World, lie: Honesty) -> None:
    world.server.honesty = lie
    world.server.rooms[ROOM] = {BOT, MALLORY}
    before = world.changes
    assert world.look(MALLORY, joined=True)
    for _ in range(3):
        with pytest.raises(HomeserverError):
            await world.lists.learn(ROOM)
    assert (world.lists.rooms_of(ALICE), world.lists.rooms_of(MALLORY)) == ({ROOM}, frozenset())
    assert world.changes == before, "no live session is judged by it"


@pytest.mark.parametrize("later", [False, True])
async def test_answer_that_is_older_than_an_event_does_not_undo_it(world: World, later: bool) -> None:
    """The event comes while the answer is under way; or before, and another process of the homeserver answers."""
    if later:
        world.server.meanwhile = lambda: world.look(ALICE, joined=False) and None
    else:
        world.look(ALICE, joined=False)
    assert await world.lists.learn(ROOM) == SETTLE_S
    assert world.lists.rooms_of(ALICE) == frozenset()
    # And who has joined again since counts by an answer to a later question only.
    world.server.meanwhile = lambda: None
    assert world.look(ALICE, joined=True)
    await world.lists.learn(ROOM)
    assert world.lists.rooms_of(ALICE) == {ROOM}


async def test_answer_that_comes_after_the_bot_was_removed_counts_no_more(world: World) -> None:
    world.server.meanwhile = lambda: world.lists.forget(ROOM)
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) is None
    world.server.meanwhile = lambda: None
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) == {BOT, ALICE}


async def test_more_removals_than_are_kept_make_the_whole_answer_too_old() -> None:
    world = World(max_gone=1)
    await world.lists.learn(ROOM)
    world.server.rooms[ROOM].add(MALLORY)
    await world.lists.learn(ROOM)
    world.look(ALICE, joined=False)
    world.look(MALLORY, joined=False)
    assert await world.lists.learn(ROOM) == SETTLE_S
    assert world.lists.members(ROOM) == {BOT}
    world.now += SETTLE_S
    world.server.rooms[ROOM].discard(MALLORY)
    assert await world.lists.learn(ROOM) is None
    assert world.lists.members(ROOM) == {BOT, ALICE}


async def test_room_that_is_too_large_has_no_members(caplog: pytest.LogCaptureFixture) -> None:
    world = World(max_members=2)
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) == {BOT, ALICE}
    world.server.rooms[ROOM].add(MALLORY)
    for _ in range(2):
        await world.lists.learn(ROOM)
        assert (world.lists.members(ROOM), world.lists.rooms_of(ALICE)) == (None, frozenset())
    assert caplog.text.count("more than 2 members") == 1
    world.server.rooms[ROOM].discard(MALLORY)
    await world.lists.learn(ROOM)
    assert world.lists.members(ROOM) == {BOT, ALICE}


@settings(max_examples=examples(200), deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([ALICE, MALLORY]), st.booleans(), st.sets(st.sampled_from([ALICE, MALLORY]))),
        max_size=12,
    )
)
async def test_nobody_is_a_member_whose_last_news_is_an_end_whatever_the_homeserver_answers(
    steps: list[tuple[UserId, bool, set[UserId]]],
) -> None:
    world = World()
    await world.lists.learn(ROOM)
    last: dict[UserId, bool] = {}
    for user, joined, answer in steps:
        world.look(user, joined=joined)
        last[user] = joined
        world.server.rooms[ROOM] = {BOT, *answer}
        await world.lists.learn(ROOM)
        for each in (ALICE, MALLORY):
            if last.get(each) is False:
                assert world.lists.rooms_of(each) == frozenset()
            elif each in last:
                assert (world.lists.rooms_of(each) == {ROOM}) == (each in answer)


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
    assert bench.index.peer_in(ROOM) is None
    assert PEER not in bench.homeserver.members[ROOM]
