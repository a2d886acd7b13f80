"""Who is greeted by a peer, where, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mxrtc_bridge.bridge.calls.greetings import PER_MINUTE, Greetings
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.bot.greeting import FIELD
from mxrtc_bridge.core.errors import StorageError
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


def greetings(said: Said, made: Config, clock: FakeClock | None = None) -> Greetings:
    clock, current = clock or FakeClock(), CurrentConfig(made)
    return Greetings(
        by_clock(current, clock), current, said, said, wall_ms=clock.wall_ms, monotonic=clock.monotonic  # type: ignore[arg-type]
    )  # fmt: skip


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


async def test_who_opens_rooms_without_end_is_greeted_in_a_few() -> None:
    said, clock = Said(), FakeClock()
    each = greetings(said, config([(ALICE, "ssh"), (ZOE, "ssh")]), clock)
    for number in range(PER_MINUTE + 1):
        await each.joined(RoomId(f"!{number}:example.org"), PEER, ALICE)
    assert len(said.posted) == PER_MINUTE
    await each.joined(ROOM, PEER, ZOE)
    assert len(said.posted) == PER_MINUTE + 1
    clock.now += 60
    await each.joined(OTHER, PEER, ALICE)
    assert len(said.posted) == PER_MINUTE + 2


async def test_without_the_database_nobody_is_greeted_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    said = Said(away=True)
    await greetings(said, config([(ALICE, "ssh")])).joined(ROOM, PEER, ALICE)
    assert said.posted == []
    assert "was not greeted" in caplog.text
