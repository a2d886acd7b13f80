"""What the rooms that rules name say: nothing before they were read, and the same once others have replaced them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.access.configured_rooms import NOT_READ, ConfiguredRooms
from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.ban_lists import ListRule, RuleKind
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.policy import Allow, Deny
from mxrtc_bridge.core.access.revocations import (
    AccessListChange,
    RedactionChange,
    RuleChange,
    TombstoneChange,
    UnreadableChange,
)
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S, Gap
from tests.bridge.access.test_rights import (
    ALICE,
    BOB,
    BOT,
    NOW,
    OTHER,
    PEER,
    SERVICES,
    TEAM,
    ZOE,
    Given,
    config,
    stored,
)
from tests.fakes import FakeClock
from tests.matrix.rooms.peers_bench import FakeHomeserver
from tests.waiting import until


class RuleTable:
    """The rules of the last run; there are none, or the database is broken."""

    def __init__(self) -> None:
        self.broken = False

    async def load(self, rooms: frozenset[RoomId]) -> dict[RoomId, Any]:
        if self.broken:
            raise StorageError("the database is locked")
        return {}


async def test_nobody_has_a_right_before_the_policy_lists_were_read() -> None:
    table, rules = GrantTable(), RuleTable()
    table.add(stored(1, str(ALICE), "web"))
    current = CurrentConfig(config([(str(ALICE), "ssh")], {"web": [str(ALICE)], "db": [str(ALICE)]}))
    rooms = ConfiguredRooms(cast(Any, None), cast(Any, rules), current, table)
    rights = Rights(current, rooms, Given(table), FakeClock(wall_ms=NOW))

    def rights_of_alice() -> list[bool]:
        return [
            isinstance(rights.may_call(ALICE, PEER), Allow),
            isinstance(rights.may_call(ALICE, BOT), Allow),
            rights.has_any(ALICE),
            bool(rights.given_to(ALICE)),
            rights.may_ask(ALICE, PEER, SERVICES[2]),
            rights.could_ask_for_anything(ALICE),
            *(rights.grant(ALICE, PEER, service) is not None for service in SERVICES[:2]),
        ]

    assert rights.may_call(ALICE, PEER) == Deny(NOT_READ)
    assert not any(rights_of_alice())
    rules.broken = True
    with pytest.raises(StorageError):
        await rooms.recall(lambda _users: None)
    assert not any(rights_of_alice())
    rules.broken = False
    await rooms.recall(lambda _users: None)
    assert all(rights_of_alice())


TOMBSTONED, RULES = RoomId("!new:example.org"), RoomId("!rules:example.org")


@dataclass
class Homeserver(FakeHomeserver):
    """Has policy lists as well: whom each bans."""

    bans: dict[RoomId, list[UserId]] = field(default_factory=dict)
    acl: dict[str, object] | None = None
    """The access list of all rooms."""

    async def state(self, room: RoomId, event_type: str, as_user: UserId | None = None) -> dict[str, object] | None:
        assert event_type == "m.room.server_acl", room
        return self.acl

    async def all_state(
        self, room: RoomId, kinds: Collection[str], as_user: UserId | None = None
    ) -> list[tuple[str, str, dict[str, str]]]:
        await self._request("state", room)
        banned = self.bans.get(room, [])
        return [("m.policy.rule.user", user, {"entity": user, "recommendation": "m.ban"}) for user in banned]

    def replace(self, old: RoomId, new: RoomId) -> None:
        """Have a room take the place of another one."""
        plain = RoomFacts(encrypted=False, join_rule="invite", room_type=None)
        self.facts |= {old: replace(plain, replaced_by=new), new: replace(plain, predecessor=old)}


@asynccontextmanager
async def following(
    homeserver: Homeserver,
    table: GrantTable,
    current: CurrentConfig,
    monotonic: Callable[[], float] = elapsed_s,
) -> AsyncIterator[tuple[ConfiguredRooms, list[None]]]:
    """Rooms that are followed, and how often live sessions were to be judged again."""
    judged: list[None] = []
    rooms = ConfiguredRooms(
        cast(Any, homeserver), cast(Any, Rules()), current, table, monotonic=monotonic, gap=Gap(0.0, 0.0)
    )
    await rooms.recall(lambda _users: judged.append(None))
    await rooms.bot_rooms.enter()
    tasks = [asyncio.create_task(rooms.run()), asyncio.create_task(rooms.bot_rooms.run())]
    try:
        yield rooms, judged
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Rules(RuleTable):
    """Takes what is written down."""

    async def replace(self, room: RoomId, rules: object) -> None: ...

    async def set_rule(self, room: RoomId, key: object, rule: object) -> None: ...


async def test_room_of_a_given_grant_is_joined_then_and_followed_to_the_one_that_replaces_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    homeserver, table = Homeserver(), GrantTable()
    homeserver.members = {TEAM: {ALICE}, TOMBSTONED: {ALICE, ZOE}}
    async with following(homeserver, table, CurrentConfig(config())) as (rooms, judged):
        assert not rooms.rooms_of(ALICE)
        table.add(stored(1, f"room:{TEAM}", "web"))
        rooms.rights_changed()
        await until(lambda: rooms.rooms_of(ALICE))
        assert (rooms.rooms_of(ALICE), rooms.rooms_of(ZOE)) == ({TEAM}, frozenset())
        assert await rooms.confirm([TEAM])
        homeserver.replace(TEAM, TOMBSTONED)
        judged.clear()
        for room in (TEAM, TEAM, OTHER):
            rooms.look(TombstoneChange(room))
        await until(lambda: rooms.rooms_of(ZOE))
        assert TEAM in rooms.rooms_of(ALICE) & rooms.rooms_of(ZOE)
        assert judged
        assert caplog.text.count("it is followed where the bot can enter that one") == 1
        table.remove(1)
        rooms.rights_changed()
        await until(lambda: not rooms.rooms_of(ZOE))
    assert {room for _, room, _ in homeserver.of("leave")} == {TEAM, TOMBSTONED}


async def test_room_that_shuts_a_server_out_while_it_is_followed_lets_nobody_in_by_it() -> None:
    homeserver, table = Homeserver(), GrantTable()
    homeserver.members = {TEAM: {ALICE, BOB}}
    table.add(stored(1, f"room:{TEAM}", "web"))
    async with following(homeserver, table, CurrentConfig(config())) as (rooms, judged):
        rooms.rights_changed()
        await until(lambda: rooms.rooms_of(BOB))
        judged.clear()
        homeserver.acl = {"allow": ["*"], "deny": ["partner.test"]}
        rooms.look(AccessListChange(TEAM))
        await until(lambda: not rooms.rooms_of(BOB))
        assert (rooms.rooms_of(ALICE), bool(judged)) == ({TEAM}, True)


@pytest.mark.virtual_time
async def test_room_whose_access_list_is_answered_late_shuts_a_server_out_within_seconds() -> None:
    """A homeserver of several processes may send the event before the one that we ask knows of it."""
    homeserver, table, loop = Homeserver(), GrantTable(), asyncio.get_running_loop()
    homeserver.members = {TEAM: {ALICE, BOB}}
    table.add(stored(1, f"room:{TEAM}", "web"))
    async with following(homeserver, table, CurrentConfig(config()), monotonic=loop.time) as (rooms, _judged):
        rooms.rights_changed()
        await until(lambda: rooms.rooms_of(BOB))
        rooms.look(AccessListChange(TEAM))
        await until(lambda: not rooms.doubtful() or loop.time() > 3)
        homeserver.acl = {"allow": ["*"], "deny": ["partner.test"]}
        changed = loop.time()
        await until(lambda: not rooms.rooms_of(BOB), timeout_s=50)
        assert loop.time() - changed <= SETTLE_S + 1
        await until(lambda: not rooms.doubtful())


async def test_policy_list_that_another_room_replaces_keeps_its_rules_as_long_as_it_is_named() -> None:
    homeserver = Homeserver(bans={RULES: [BOB], TOMBSTONED: [ZOE]})
    homeserver.members = {RULES: {ALICE}, TOMBSTONED: {ALICE}}
    current = CurrentConfig(replace(config(), policy_lists=(RULES,)))
    async with following(homeserver, GrantTable(), current) as (rooms, _):
        assert [rooms.denial(user) is not None for user in (BOB, ZOE)] == [True, False]
        homeserver.replace(RULES, TOMBSTONED)
        rooms.look(TombstoneChange(RULES))
        await until(lambda: rooms.denial(ZOE))
        assert rooms.denial(BOB) is not None
        homeserver.bans[RULES] = []
        rooms.look(RedactionChange(RULES))
        await until(lambda: rooms.denial(BOB) is None)
        homeserver.bans[TOMBSTONED].append(BOB)
        rooms.look(UnreadableChange(TOMBSTONED))
        await until(lambda: rooms.denial(BOB))
        current.put_in_force(config())
        rooms.configure()
        assert [rooms.denial(user) for user in (BOB, ZOE)] == [None, None]


async def test_rules_that_arrive_together_have_live_sessions_judged_once_and_at_once() -> None:
    """Each of them would cost a look at all sessions otherwise, in one step."""
    homeserver = Homeserver(bans={RULES: []}, members={RULES: {ALICE}})
    current = CurrentConfig(replace(config(), policy_lists=(RULES,)))
    async with following(homeserver, GrantTable(), current) as (rooms, judged):
        judged.clear()
        for number in range(100):
            rule = ListRule(RuleKind.USER, f"@u{number}:evil.test")
            rooms.look(RuleChange(RULES, ("m.policy.rule.user", f"k{number}"), rule))
        assert rooms.denial(UserId("@u99:evil.test")) is not None
        await asyncio.sleep(0)
        assert len(judged) == 1


async def test_members_and_lists_are_compared_when_it_is_time_and_not_before() -> None:
    homeserver, table = Homeserver(bans={RULES: []}), GrantTable()
    homeserver.members = {TEAM: {ALICE}, RULES: {BOB}}
    table.add(stored(1, f"room:{TEAM}", "web"))
    current = CurrentConfig(replace(config(), policy_lists=(RULES,)))
    async with following(homeserver, table, current) as (rooms, _):
        rooms.compare([ALICE])
        assert rooms.doubtful() == frozenset()
        homeserver.failures["members"] = HomeserverError("away", 502)
        rooms.look(UnreadableChange(TEAM))
        assert await rooms.confirm([TEAM]), "it was said within the last minute"
        assert rooms.doubtful() == {TEAM}


@pytest.mark.parametrize("given", ["before the start", "in this run"])
async def test_room_of_a_given_grant_is_entered_after_a_restart_too(given: str) -> None:
    homeserver, table = Homeserver(members={TEAM: {ALICE}}), GrantTable()
    async with following(homeserver, table, CurrentConfig(config())) as (rooms, _):
        table.add(stored(1, f"room:{TEAM}", "web"))
        if given == "before the start":
            await rooms.recall(lambda _users: None)
            await rooms.bot_rooms.enter()
        else:
            # The task that follows names has not begun yet.
            rooms.rights_changed()
        await until(lambda: rooms.rooms_of(ALICE) == {TEAM})
