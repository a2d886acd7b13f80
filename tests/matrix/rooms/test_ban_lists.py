"""Policy lists are read from rooms and followed by their events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import nullcontext
from typing import Any

import pytest

from mxrtc_bridge.core.access.ban_lists import ListRule, RuleKey
from mxrtc_bridge.core.access.revocations import RuleChange, read_news
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.ban_lists import BanLists
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S
from tests.honesty import LIES, NO_ANSWERS, Honesty, failure

BOT, ADMIN = UserId("@rtcbot:example.org"), UserId("@carol:example.org")
LIST, OTHER = RoomId("!list:example.org"), RoomId("!other:example.org")
MALLORY, TRUDY = UserId("@mallory:evil.test"), UserId("@trudy:evil.test")
USER = "m.policy.rule.user"


def ban(user: UserId) -> dict[str, Any]:
    return {"entity": str(user), "recommendation": "m.ban"}


async def _nothing() -> None:
    pass


class World:
    """The lists, their homeserver and their memory.

    A test that needs a lie sets ``honesty`` of the homeserver, after what it is stale about; ``full`` has the memory
    refuse.
    """

    def __init__(self) -> None:
        self.state: dict[RoomId, list[tuple[str, str, dict[str, Any]]]] = {LIST: [(USER, "m", ban(MALLORY))]}
        self.honesty = Honesty.TRUE
        self.meanwhile: Callable[[], Awaitable[None]] = _nothing
        self.changes = 0
        self.memory: dict[RoomId, dict[RuleKey, ListRule]] = {}
        self.written = 0
        self.full = False
        self.now = 1000.0
        self.lists = BanLists(self, BOT, self, [LIST], self.change, lambda: self.now)

    # The memory

    async def load(self, rooms: Collection[RoomId]) -> dict[RoomId, list[tuple[RuleKey, ListRule]]]:
        return {room: list(rules.items()) for room, rules in self.memory.items() if room in rooms}

    async def replace(self, room: RoomId, rules: Iterable[tuple[RuleKey, ListRule]]) -> None:
        self._write()
        self.memory[room] = dict(rules)

    async def set_rule(self, room: RoomId, key: RuleKey, rule: ListRule | None) -> None:
        self._write()
        rules = self.memory.setdefault(room, {})
        if rule is None:
            del rules[key]
        else:
            rules[key] = rule

    def _write(self) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.written += 1

    @property
    def honesty(self) -> Honesty:
        return self._honesty

    @honesty.setter
    def honesty(self, honesty: Honesty) -> None:
        self._honesty = honesty
        self._old = {room: list(state) for room, state in self.state.items()}

    def restarted(self) -> World:
        """The same world with a new run of the bridge."""
        again = World()
        again.memory, again.state = self.memory, self.state
        return again

    def change(self) -> None:
        self.changes += 1

    async def all_state(
        self, room: RoomId, types: Collection[str], as_user: UserId | None = None
    ) -> list[tuple[str, str, dict[str, object]]]:
        assert as_user == BOT
        assert USER in types
        if (error := failure(self.honesty)) is not None:
            raise error
        state = self._old if self.honesty is Honesty.STALE else self.state
        if room not in state:
            raise HomeserverError("not in the room", 403, "M_FORBIDDEN")
        found = list(state[room])
        await self.meanwhile()
        return found

    async def event(
        self, content: dict[str, Any], *, key: str | None = "m", room: RoomId = LIST, kind: str = USER
    ) -> None:
        """As it goes on: the homeserver has the event, it arrives, and the list is read where that is asked for."""
        if room in self.state and key is not None:
            kept = [each for each in self.state[room] if each[:2] != (kind, key)]
            self.state[room] = [*kept, (kind, key, content)]
        if self.arrives(content, key=key, room=room, kind=kind):
            await self.lists.learn(room)

    def arrives(self, content: dict[str, Any], *, key: str | None = "m", room: RoomId = LIST, kind: str = USER) -> bool:
        news = read_news({"type": kind, "room_id": room, "state_key": key, "content": content})
        return isinstance(news, RuleChange) and self.lists.look(news.room, news.key, news.rule)

    def denied(self, user: UserId) -> bool:
        return self.lists.denial(user) is not None


async def test_a_list_is_read_and_followed() -> None:
    world = World()
    assert not world.denied(MALLORY)
    await world.lists.learn(LIST)
    assert (world.denied(MALLORY), world.denied(TRUDY), world.changes) == (True, False, 1)
    await world.event(ban(TRUDY), key="t")
    assert (world.denied(TRUDY), world.changes) == (True, 2)
    await world.event({})
    assert (world.denied(MALLORY), world.changes) == (False, 3)


async def test_what_is_no_rule_of_a_list_means_nothing() -> None:
    world = World()
    await world.lists.learn(LIST)
    await world.event(ban(TRUDY), room=OTHER)
    await world.event(ban(TRUDY), key=None)
    await world.event(ban(TRUDY), kind="m.room.message", key="t")
    await world.lists.learn(OTHER)
    assert (world.denied(TRUDY), world.changes) == (False, 1)


async def test_rule_that_arrives_while_the_list_is_read_counts_until_an_answer_may_know_of_it() -> None:
    world = World()

    async def meanwhile() -> None:
        assert world.arrives(ban(TRUDY), key="t")
        assert world.denied(TRUDY), "at once"

    world.meanwhile = meanwhile
    assert await world.lists.learn(LIST) == SETTLE_S
    world.meanwhile = _nothing
    assert (world.denied(TRUDY), world.denied(MALLORY)) == (True, True)
    assert await world.lists.learn(LIST) == SETTLE_S, "another process of the homeserver may have answered"
    assert world.denied(TRUDY)
    world.now += SETTLE_S
    assert await world.lists.learn(LIST) is None
    assert not world.denied(TRUDY), "it was an old event"


async def test_event_takes_no_rule_back_but_the_answer_does() -> None:
    world = World()
    await world.lists.learn(LIST)
    for content in ({}, {"entity": "@x:y.test", "recommendation": "m.ban"}, {"entity": [], "recommendation": 5}):
        assert world.arrives(content)
        assert world.denied(MALLORY), "an old event of this key that comes again lifts nothing"
    world.state[LIST] = []
    world.now += SETTLE_S
    await world.lists.learn(LIST)
    assert not world.denied(MALLORY)


async def test_rule_that_replaces_another_denies_at_once_and_alone_after_the_answer() -> None:
    world = World()
    await world.lists.learn(LIST)
    assert world.arrives(ban(TRUDY))
    assert (world.denied(MALLORY), world.denied(TRUDY)) == (True, True)
    world.state[LIST] = [(USER, "m", ban(TRUDY))]
    assert await world.lists.learn(LIST) is None
    assert (world.denied(MALLORY), world.denied(TRUDY)) == (False, True)
    assert world.memory[LIST].keys() == {(USER, "m")}


async def test_what_is_known_stays_where_a_list_cannot_be_read_again() -> None:
    world = World()
    await world.lists.learn(LIST)
    del world.state[LIST]
    with pytest.raises(HomeserverError):
        await world.lists.learn(LIST)
    assert world.denied(MALLORY)


@pytest.mark.parametrize("lie", LIES)
async def test_rule_that_has_arrived_denies_whatever_the_homeserver_says_then(lie: Honesty) -> None:
    world = World()
    await world.lists.learn(LIST)
    world.honesty = lie
    assert world.arrives(ban(TRUDY), key="t")
    for _ in range(3):
        with nullcontext() if lie is Honesty.STALE else pytest.raises(HomeserverError):
            await world.lists.learn(LIST)
        assert (world.denied(TRUDY), world.denied(MALLORY)) == (True, True)


@pytest.mark.parametrize("lie", NO_ANSWERS)
async def test_no_answer_takes_no_rule_back_however_long(lie: Honesty) -> None:
    """Also where an event says that it was taken back, and over a restart."""
    world = World()
    await world.lists.learn(LIST)
    again = world.restarted()
    await again.lists.recall()
    for each in (world, again):
        each.honesty = lie
        assert each.arrives({}), "taken back"
        for _ in range(3):
            each.now += 10 * SETTLE_S
            with pytest.raises(HomeserverError):
                await each.lists.learn(LIST)
        assert each.denied(MALLORY)


async def test_a_list_that_is_named_no_more_is_forgotten() -> None:
    world = World()
    await world.lists.learn(LIST)
    world.lists.reload([LIST, OTHER])
    assert (world.denied(MALLORY), world.changes) == (True, 1)
    world.lists.reload([OTHER])
    assert (world.denied(MALLORY), world.changes) == (False, 2)
    await world.event(ban(MALLORY))
    assert not world.denied(MALLORY)


async def test_what_was_known_is_in_force_after_a_restart_before_and_without_the_list() -> None:
    world = World()
    await world.lists.learn(LIST)
    await world.event(ban(TRUDY), key="t")
    again = world.restarted()
    await again.lists.recall()
    assert (again.denied(MALLORY), again.denied(TRUDY)) == (True, True)
    del again.state[LIST]
    with pytest.raises(HomeserverError):
        await again.lists.learn(LIST)
    assert again.denied(TRUDY), "the bot was sent away from the list, say"


async def test_what_was_taken_back_meanwhile_counts_no_more_and_nothing_is_written_without_need() -> None:
    world = World()
    await world.lists.learn(LIST)
    again = world.restarted()
    await again.lists.recall()
    await again.lists.learn(LIST)
    assert again.written == 0
    again.state = {LIST: []}
    await again.lists.learn(LIST)
    assert (again.denied(MALLORY), again.memory, again.written) == (False, {LIST: {}}, 1)


async def test_a_database_that_refuses_takes_no_rule_out_of_force(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.full = True
    await world.lists.learn(LIST)
    await world.event(ban(TRUDY), key="t")
    assert (world.denied(MALLORY), world.denied(TRUDY)) == (True, True)
    assert caplog.text.count("was not written down") == 1, "once an hour for each list"


async def test_long_list_is_written_at_once_and_what_no_database_takes_is_left_out() -> None:
    world = World()
    odd: list[tuple[str, str, dict[str, Any]]] = [
        (USER, "a\0", ban(TRUDY)),
        (USER, "b", {"entity": "@\ud800:x.test", "recommendation": "m.ban"}),
    ]
    world.state[LIST] = [*odd, *((USER, f"k{number}", ban(MALLORY)) for number in range(100))]
    await world.lists.learn(LIST)
    assert (world.denied(MALLORY), world.denied(TRUDY), world.written) == (True, True, 1)
    assert len(world.memory[LIST]) == 100
    await world.event({}, key="k7")
    assert (len(world.memory[LIST]), world.written) == (99, 2)
