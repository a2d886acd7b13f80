"""A named room that is upgraded is followed into the new one, where both say so and the bot is let in."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms.bot_rooms import LOOK_EVERY_S, BotRooms
from mxrtc_bridge.matrix.rooms.members import MemberLists
from mxrtc_bridge.matrix.rooms.successions import MAX_SUCCESSORS
from tests.matrix.rooms.peers_bench import ALICE, BOT, MALLORY, Bench, FakeHomeserver

OLD, NEW, NEWER, OTHER = (RoomId(f"!{name}:example.org") for name in ("old", "new", "newer", "other"))
ALIAS = "#admins:example.org"
NOT_INVITED = HomeserverError("you are not invited", 403, "M_FORBIDDEN")
PLAIN = RoomFacts(encrypted=False, join_rule="invite", room_type=None)


class Homeserver(FakeHomeserver):
    """With rooms that not everybody may join."""

    closed: frozenset[RoomId] = frozenset()
    far: RoomId | None = None
    """A room that is known at other.example alone."""

    async def join_by(self, room: RoomId, server: str, as_user: UserId | None = None) -> None:
        await self._request("join by", room, server)
        if server != "other.example":
            raise HomeserverError("not there", 404, "M_UNKNOWN")
        await super().join(room, as_user)

    async def join(self, room: RoomId, as_user: UserId | None = None) -> None:
        if room in self.closed and as_user not in self.members.get(room, set()):
            await self._request("join", room, as_user)
            raise NOT_INVITED
        if room == self.far:
            await self._request("join", room, as_user)
            raise HomeserverError("no servers that are in the room have been provided", 404, "M_UNKNOWN")
        await super().join(room, as_user)

    def upgrade(self, old: RoomId, new: RoomId, *, honest: bool = True) -> None:
        self.facts[old] = replace(self.facts.get(old, PLAIN), replaced_by=new)
        if honest:
            self.facts[new] = replace(self.facts.get(new, PLAIN), predecessor=old)


async def bench_of(**named: str) -> tuple[Bench, Homeserver]:
    homeserver = Homeserver()
    homeserver.aliases[ALIAS] = OLD
    bench = Bench(homeserver=homeserver, named=named)
    await bench.bot_rooms.enter()
    return bench, homeserver


async def let_it_run(bench: Bench) -> None:
    """Have what is due at once done."""
    task = asyncio.create_task(bench.bot_rooms.run())
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def as_named(bench: Bench, user: UserId) -> frozenset[RoomId]:
    return bench.bot_rooms.successions.as_named(bench.lists.rooms_of(user))


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_new_room_that_is_not_known_here_is_joined_by_servers_of_the_old_one(reachable: bool) -> None:
    bench, homeserver = await bench_of(admin=OLD)
    homeserver.far = NEW
    homeserver.members[OLD] = {BOT, ALICE, UserId("@a:gone.example"), UserId("@b:gone.example")}
    if reachable:
        homeserver.members[OLD].add(UserId("@c:other.example"))
    homeserver.upgrade(OLD, NEW)
    bench.bot_rooms.replaced(OLD)
    await let_it_run(bench)
    assert bench.bot_rooms.successions.now(OLD) == (NEW if reachable else OLD)
    assert (BOT in homeserver.members.get(NEW, set())) is reachable


async def test_an_upgraded_room_is_followed_when_its_end_is_said_and_the_new_members_count() -> None:
    bench, homeserver = await bench_of(admin=OLD)
    homeserver.members[OLD] = {BOT, ALICE, MALLORY}
    await bench.lists.learn(OLD)
    assert (as_named(bench, ALICE), as_named(bench, MALLORY)) == ({OLD}, {OLD})
    homeserver.members[NEW] = {ALICE}
    homeserver.upgrade(OLD, NEW)
    bench.bot_rooms.replaced(OLD)
    assert bench.bot_rooms.room("admin") == OLD, "until it is known and entered"
    await let_it_run(bench)
    assert bench.bot_rooms.room("admin") == NEW
    assert bench.bot_rooms.is_named(NEW)
    assert as_named(bench, ALICE) == {OLD, NEW}
    assert as_named(bench, MALLORY) == frozenset(), "who is in the old one alone counts no more"
    assert homeserver.of("leave") == [], "it stays in the old one, by which it finds the new one at the next start"


@pytest.mark.parametrize("steps", [1, 3, MAX_SUCCESSORS])
async def test_rooms_that_were_upgraded_while_the_bridge_was_down_are_followed_at_the_start(steps: int) -> None:
    homeserver = Homeserver()
    chain = [OLD, *(RoomId(f"!r{n}:example.org") for n in range(steps))]
    for old, new in itertools.pairwise(chain):
        homeserver.upgrade(old, new)
    homeserver.facts[chain[-1]] = replace(homeserver.facts[chain[-1]], encrypted=True)
    bench = Bench(homeserver=homeserver, named={"admin": OLD})
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.room("admin") == chain[-1]
    assert bench.bot_rooms.is_encrypted(chain[-1]) is True


async def test_a_room_that_only_one_side_calls_the_next_is_left_again() -> None:
    bench, homeserver = await bench_of(admin=OLD)
    homeserver.upgrade(OLD, OTHER, honest=False)
    homeserver.members[OTHER] = {MALLORY}
    bench.bot_rooms.replaced(OLD)
    await let_it_run(bench)
    assert bench.bot_rooms.room("admin") == OLD
    assert not bench.bot_rooms.is_named(OTHER)
    assert homeserver.of("leave") == [("leave", OTHER, BOT)]
    assert as_named(bench, MALLORY) == frozenset()


@pytest.mark.parametrize("resolved", [True, False])
async def test_whoever_ends_a_room_does_not_have_the_bot_leave_another_named_one(resolved: bool) -> None:
    homeserver = Homeserver()
    homeserver.aliases[ALIAS] = NEW
    other = ALIAS if resolved else "#away:example.org"
    bench = Bench(homeserver=homeserver, named={"admin": OLD, "other": other, "more": OTHER})
    await bench.bot_rooms.enter()
    for victim in (OTHER, NEW):
        homeserver.upgrade(OLD, victim, honest=False)
        bench.bot_rooms.replaced(OLD)
        await let_it_run(bench)
        assert bench.bot_rooms.room("admin") == OLD
    # Where it is not known which room a name means, it may be this one.
    assert homeserver.of("leave") == []
    assert bench.bot_rooms.room("more") == OTHER


@pytest.mark.parametrize("name", [OLD, ALIAS])
async def test_rooms_by_which_the_new_one_is_found_again_are_not_left_at_a_reload(name: str) -> None:
    bench, homeserver = await bench_of(admin=name)
    for old, new in itertools.pairwise((OLD, NEW, NEWER)):
        homeserver.upgrade(old, new)
        bench.bot_rooms.replaced(old)
        await let_it_run(bench)
        await bench.bot_rooms.reload({"admin": name})
        assert bench.bot_rooms.room("admin") == new
    assert homeserver.of("leave") == []
    await bench.bot_rooms.reload({})
    assert {room for _, room, _ in homeserver.of("leave")} == {OLD, NEW, NEWER}


@pytest.mark.parametrize("length", [1, 2, 20])
async def test_rooms_that_lead_in_a_circle_or_too_far_are_followed_to_an_end(length: int) -> None:
    homeserver = Homeserver()
    rooms = [RoomId(f"!c{n}:example.org") for n in range(length)]
    for number, room in enumerate(rooms):
        homeserver.upgrade(room, rooms[(number + 1) % length])
    bench = Bench(homeserver=homeserver, named={"admin": rooms[0]})
    async with asyncio.timeout(5):
        await bench.bot_rooms.enter()
    assert bench.bot_rooms.room("admin") is not None
    assert len(homeserver.of("join")) <= MAX_SUCCESSORS + 1


async def test_a_new_room_that_the_bot_is_not_let_into_is_followed_when_it_is_invited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench, homeserver = await bench_of(admin=OLD)
    homeserver.closed = frozenset({NEW})
    homeserver.upgrade(OLD, NEW)
    bench.bot_rooms.replaced(OLD)
    await let_it_run(bench)
    assert bench.bot_rooms.room("admin") == OLD
    assert f"{OLD} was replaced by {NEW}, which it cannot enter" in caplog.text
    assert "invite it" in caplog.text
    homeserver.closed = frozenset()
    await bench.invited(BOT, ALICE, room=NEW)
    assert bench.bot_rooms.room("admin") == NEW
    assert bench.index.peer_in(NEW) is None
    assert homeserver.of("leave") == []


async def test_a_bot_that_is_removed_from_the_new_room_does_not_go_back_to_the_old_one() -> None:
    bench, homeserver = await bench_of(admin=OLD)
    homeserver.members[OLD].add(MALLORY)
    homeserver.upgrade(OLD, NEW)
    await bench.lists.learn(OLD)
    bench.bot_rooms.replaced(OLD)
    await let_it_run(bench)
    homeserver.closed = frozenset({NEW})
    await bench.member(BOT, "leave", sender=ALICE, room=NEW)
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.room("admin") is None
    assert as_named(bench, MALLORY) == frozenset()


async def test_an_alias_that_leads_elsewhere_is_followed_at_a_reload_and_the_old_room_left() -> None:
    bench, homeserver = await bench_of(admin=ALIAS)
    homeserver.aliases[ALIAS] = NEW
    await bench.bot_rooms.reload({"admin": ALIAS})
    assert bench.bot_rooms.room("admin") == NEW
    assert homeserver.of("leave") == [("leave", OLD, BOT)]


async def test_an_alias_that_cannot_be_resolved_anew_keeps_its_room() -> None:
    bench, homeserver = await bench_of(admin=ALIAS)
    homeserver.failures["resolve"] = HomeserverError("away", 502)
    await bench.bot_rooms.reload({"admin": ALIAS})
    assert bench.bot_rooms.room("admin") == OLD
    assert homeserver.of("leave") == []


async def test_an_invitation_has_aliases_resolved_anew_and_is_then_no_direct_chat() -> None:
    bench, homeserver = await bench_of(admin=ALIAS)
    bench.granted.add((ALICE, BOT))
    homeserver.closed = frozenset({NEW})
    homeserver.aliases[ALIAS] = NEW
    homeserver.members[NEW] = {ALICE, BOT}
    await bench.invited(BOT, ALICE, room=NEW)
    assert bench.bot_rooms.room("admin") == NEW
    assert bench.index.peer_in(NEW) is None
    assert homeserver.of("leave") == [("leave", OLD, BOT)]


async def test_invitations_of_a_crowd_have_aliases_resolved_once_in_a_while() -> None:
    now = [1000.0]
    homeserver = Homeserver()
    homeserver.aliases[ALIAS] = OLD
    lists = MemberLists(homeserver, BOT, lambda _users: None, lambda: now[0])
    rooms = BotRooms(homeserver, BOT, {"admin": ALIAS}, lists, monotonic=lambda: now[0])
    await rooms.enter()
    before = len(homeserver.of("resolve"))
    for number in range(5):
        assert not await rooms.invited(RoomId(f"!x{number}:example.org"))
    now[0] += LOOK_EVERY_S
    assert not await rooms.invited(OTHER)
    assert len(homeserver.of("resolve")) - before == 2
    # Whoever has a right need not wait for them.
    homeserver.aliases[ALIAS] = NEW
    assert not await rooms.invited(NEW)
    assert await rooms.invited(NEW, has_right=True)
    assert rooms.room("admin") == NEW
    assert [room for _, room, _ in homeserver.of("join")] == [OLD, NEW]


async def test_an_alias_whose_room_was_upgraded_and_that_was_not_moved_leads_on() -> None:
    bench, homeserver = await bench_of(admin=ALIAS)
    homeserver.upgrade(OLD, NEW)
    bench.bot_rooms.replaced(OLD)
    await let_it_run(bench)
    assert bench.bot_rooms.room("admin") == NEW
    await bench.bot_rooms.reload({"admin": ALIAS})
    assert bench.bot_rooms.room("admin") == NEW
    assert len(homeserver.of("join")) == 3, "the alias twice and the new room, and nothing at the reload"
