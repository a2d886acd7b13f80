"""Who is greeted by a peer, where, and how often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mxrtc_bridge.bridge.calls.greetings import AGAIN_S, PER_MINUTE, Greetings
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.bot.greeting import FIELD
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from tests.bridge.access.test_rights import ALICE, BOB, BOT, GUEST, PEER, ZOE, by_clock, config
from tests.fakes import FakeClock

ROOM, OTHER = RoomId("!r:example.org"), RoomId("!other:example.org")


@dataclass
class Said:
    """Notices, and the memory of which rooms were greeted, in one."""

    posted: list[tuple[RoomId, UserId, str]] = field(default_factory=list)
    greeted: set[RoomId] = field(default_factory=set)
    away: bool = False
    encrypted: bool = False
    readable: bool | HomeserverError = True
    waiting: list[Callable[[], Awaitable[object]]] = field(default_factory=list)

    def is_encrypted(self, _room: RoomId) -> bool:
        return self.encrypted

    async def is_readable(self, *_: object) -> bool:
        if isinstance(self.readable, HomeserverError):
            raise self.readable
        return self.readable

    def later(self, _user: UserId, work: Callable[[], Awaitable[object]]) -> bool:
        self.waiting.append(work)
        return True

    async def do_waiting(self) -> None:
        while self.waiting:
            await self.waiting.pop(0)()

    def post(self, room: RoomId, sender: UserId, text: str, html: str, *, key: str, fields: Any) -> None:
        assert (key, fields) == ("greeting", {FIELD: {}})
        assert html.startswith("<p>")
        self.posted.append((room, sender, text))

    async def is_first(self, room: RoomId, _now_ms: int) -> bool:
        if self.away:
            raise StorageError("the database is away")
        first = room not in self.greeted
        self.greeted.add(room)
        return first


def greetings(said: Said, made: Config | CurrentConfig, clock: FakeClock | None = None) -> Greetings:
    clock, current = clock or FakeClock(), made if isinstance(made, CurrentConfig) else CurrentConfig(made)
    return Greetings(
        by_clock(current, clock),
        current,
        said,  # type: ignore[arg-type]
        said,  # type: ignore[arg-type]
        is_encrypted=said.is_encrypted,
        is_readable=said.is_readable,
        later=said.later,
        wall_ms=clock.wall_ms,
        monotonic=clock.monotonic,
    )


async def test_who_may_use_something_is_told_what_and_what_to_ask_for_once_in_a_room() -> None:
    said = Said()
    made = config([(ALICE, "ssh")], grantable={"db": [ALICE]}, shown=("db",))
    for room in (ROOM, ROOM, OTHER):
        await greetings(said, made).joined(room, PEER, ALICE)
    assert [(room, sender) for room, sender, _ in said.posted] == [(ROOM, PEER), (OTHER, PEER)]
    lines = said.posted[0][2].splitlines()
    assert lines[0].startswith("I am build: ")
    assert "- ssh: `ssh -o ProxyCommand='mxrtc -q nc build/ssh' USER@build`" in lines
    assert "You may ask the admins for db: `request build/db`" in lines
    assert "web" not in said.posted[0][2], "nothing that this person may neither use nor ask for"


@pytest.mark.parametrize("user", [ZOE, GUEST, BOB])
async def test_who_may_use_nothing_here_is_told_nothing(user: UserId) -> None:
    said = Said()
    made = config([(ALICE, "ssh"), ("server:partner.test", "web")], grantable={"db": ["@zoe:example.org"]}, deny=[BOB])
    await greetings(said, made).joined(ROOM, PEER, user)
    assert (said.posted, said.greeted) == ([], set())


async def test_the_bot_greets_nobody_as_programs_wait_there_for_an_answer() -> None:
    said = Said()
    await greetings(said, config([(ALICE, "ssh")])).joined(ROOM, BOT, ALICE)
    assert said.posted == []


async def test_a_user_of_another_server_reads_a_name_that_is_right_there() -> None:
    said = Said()
    await greetings(said, config([(BOB, "web")])).joined(ROOM, PEER, BOB)
    assert "`mxrtc connect build@example.org/web -L 8080`" in said.posted[0][2]


async def test_who_opens_rooms_with_a_peer_without_end_is_greeted_once_a_day() -> None:
    said, clock = Said(), FakeClock()
    each = greetings(said, config([(ALICE, "ssh"), (ZOE, "ssh")]), clock)
    for number in range(2 * PER_MINUTE):
        await each.joined(RoomId(f"!{number}:example.org"), PEER, ALICE)
    assert len(said.posted) == 1
    await each.joined(ROOM, PEER, ZOE)
    assert len(said.posted) == 2
    clock.now += AGAIN_S - 1
    await each.joined(OTHER, PEER, ALICE)
    assert len(said.posted) == 2
    clock.now += 1
    await each.joined(OTHER, PEER, ALICE)
    assert len(said.posted) == 3


async def test_who_opens_rooms_with_peers_without_end_is_greeted_by_a_few() -> None:
    said, clock = Said(encrypted=True, readable=False), FakeClock()
    each = greetings(said, config([(ALICE, "ssh")]), clock)
    for number in range(2 * PER_MINUTE):
        await each.joined(RoomId(f"!{number}:example.org"), PEER, ALICE)
    assert len(said.waiting) == PER_MINUTE, "other homeservers are asked no more often"


async def test_who_may_not_read_it_by_the_policy_is_greeted_in_the_next_room_in_which_they_may() -> None:
    said = Said(encrypted=True, readable=False)
    each = greetings(said, config([(ALICE, "ssh")]))
    await each.joined(ROOM, PEER, ALICE)
    assert said.posted == [], "nobody else waits while their homeserver is asked"
    await said.do_waiting()
    assert (said.posted, said.greeted) == ([], set())
    said.readable = True
    await each.joined(ROOM, PEER, ALICE)
    await said.do_waiting()
    assert [room for room, _, _ in said.posted] == [ROOM]


async def test_who_loses_the_right_meanwhile_is_not_greeted_and_neither_is_one_whose_devices_are_not_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said, current = Said(encrypted=True), CurrentConfig(config([(ALICE, "ssh")]))
    each = greetings(said, current)
    await each.joined(ROOM, PEER, ALICE)
    current.put_in_force(config([(ZOE, "ssh")]))
    await said.do_waiting()
    assert (said.posted, said.greeted) == ([], set())
    said.readable = HomeserverError("no answer")
    each = greetings(said, config([(ALICE, "ssh")]))
    await each.joined(ROOM, PEER, ALICE)
    await said.do_waiting()
    assert said.posted == []
    assert "was not greeted" in caplog.text


async def test_without_the_database_nobody_is_greeted_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    said = Said(away=True)
    await greetings(said, config([(ALICE, "ssh")])).joined(ROOM, PEER, ALICE)
    assert said.posted == []
    assert "was not greeted" in caplog.text
