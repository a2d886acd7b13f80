"""Policy lists are read from rooms and followed by their events."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.policy_lists import PolicyLists
from mxrtc_bridge.matrix.room_event import RoomEvent

BOT, ADMIN = UserId("@rtcbot:example.org"), UserId("@carol:example.org")
LIST, OTHER = RoomId("!list:example.org"), RoomId("!other:example.org")
MALLORY, TRUDY = UserId("@mallory:evil.test"), UserId("@trudy:evil.test")
USER = "m.policy.rule.user"


def ban(user: UserId) -> dict[str, Any]:
    return {"entity": str(user), "recommendation": "m.ban"}


class World:
    def __init__(self) -> None:
        self.state: dict[RoomId, list[tuple[str, str, dict[str, Any]]]] = {LIST: [(USER, "m", ban(MALLORY))]}
        self.meanwhile: Callable[[], None] = lambda: None
        self.changes = 0
        self.lists = PolicyLists(self, BOT, [LIST], self.change)

    def change(self) -> None:
        self.changes += 1

    async def all_state(
        self, room: RoomId, types: Collection[str], as_user: UserId | None = None
    ) -> list[tuple[str, str, dict[str, object]]]:
        assert as_user == BOT
        assert USER in types
        if room not in self.state:
            raise HomeserverError("not in the room", 403, "M_FORBIDDEN")
        found = list(self.state[room])
        self.meanwhile()
        return found

    def event(self, content: dict[str, Any], *, key: str | None = "m", room: RoomId = LIST, kind: str = USER) -> None:
        self.lists.apply(RoomEvent(EventId("$e"), room, kind, ADMIN, 0, content, key))

    def denied(self, user: UserId) -> bool:
        return self.lists.denial(user) is not None


async def test_a_list_is_read_and_followed() -> None:
    world = World()
    assert not world.denied(MALLORY)
    await world.lists.learn(LIST)
    assert (world.denied(MALLORY), world.denied(TRUDY), world.changes) == (True, False, 1)
    world.event(ban(TRUDY), key="t")
    assert (world.denied(TRUDY), world.changes) == (True, 2)
    world.event({})
    assert (world.denied(MALLORY), world.changes) == (False, 3)


async def test_what_is_no_rule_of_a_list_means_nothing() -> None:
    world = World()
    await world.lists.learn(LIST)
    world.event(ban(TRUDY), room=OTHER)
    world.event(ban(TRUDY), key=None)
    world.event(ban(TRUDY), kind="m.room.message", key="t")
    await world.lists.learn(OTHER)
    assert (world.denied(TRUDY), world.changes) == (False, 1)


async def test_an_event_that_comes_while_the_list_is_read_counts() -> None:
    world = World()

    def meanwhile() -> None:
        world.event(ban(TRUDY), key="t")
        world.event({}, key="m")

    world.meanwhile = meanwhile
    await world.lists.learn(LIST)
    assert (world.denied(TRUDY), world.denied(MALLORY)) == (True, False)


async def test_what_is_known_stays_where_a_list_cannot_be_read_again() -> None:
    world = World()
    await world.lists.learn(LIST)
    del world.state[LIST]
    with pytest.raises(HomeserverError):
        await world.lists.learn(LIST)
    assert world.denied(MALLORY)


async def test_a_list_that_is_named_no_more_is_forgotten() -> None:
    world = World()
    await world.lists.learn(LIST)
    world.lists.reload([LIST, OTHER])
    assert (world.denied(MALLORY), world.changes) == (True, 1)
    world.lists.reload([OTHER])
    assert (world.denied(MALLORY), world.changes) == (False, 2)
    world.event(ban(MALLORY))
    assert not world.denied(MALLORY)
