"""What the commands of admins answer: lines for a chat, rows for programs, and a sentence where nothing can be done."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.admin.service import PAGE_ROWS, ListPage, SessionRow
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.access.policy import Service, UserSubject
from mxrtc_bridge.core.access.requests import AccessRequest, Decision
from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord
from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Mistake
from mxrtc_bridge.core.bot.parser import parse_command
from mxrtc_bridge.core.bot.reply import Reply, pages
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import Actor, RoomId, ServiceName, UserId
from mxrtc_bridge.storage.audit import AuditQuery
from tests.chat_commands import COMMANDS

NOW = 1_800_000_000_000
ADMIN, EVE, PEER = UserId("@admin:x"), UserId("@eve:x"), UserId("@rtc_build:x")
GRANT = StoredGrant(
    7, UserSubject("eve", "x"), Service(PEER, ServiceName("ssh")), ADMIN, NOW, NOW + 7_200_000, "the audit", once=False
)
REQUEST = AccessRequest(12, EVE, PEER, ServiceName("db"), 3600, "it is late", RoomId("!chat:x"), NOW)
ROW = SessionRow(4, EVE, PEER, 90.0, "", "direct", 2, 2048, 100)
RECORD = AuditRecord(AuditKind.PAUSE, NOW, by=ADMIN)


class World:
    """What admins act on, as the commands see it; records what was done."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.sessions: tuple[SessionRow, ...] = (ROW,)
        self.granted: tuple[StoredGrant, ...] = (GRANT,)
        self.requested = [REQUEST]
        self.paused = False
        self.findings: list[Finding] = []
        self.left_out = 0
        self.asked: AuditQuery | None = None
        self.given = self
        config = SimpleNamespace(
            in_force=SimpleNamespace(peers={PEER: SimpleNamespace(name="build")}, grants=[SimpleNamespace(id="ops-2")])
        )
        self.commands = AdminCommands(
            cast(Any, self), cast(Any, self), config=cast(Any, config), wall_ms=lambda: NOW, check=self.check
        )

    def _page(self, rows: Sequence[Any], number: int, **more: Any) -> ListPage[Any]:
        return ListPage(tuple(rows[:PAGE_ROWS]), number, max(1, -(-len(rows) // PAGE_ROWS)), len(rows), **more)

    async def check(self, _config: object) -> list[Finding]:
        return self.findings

    def who(self, number: int) -> ListPage[Any]:
        return self._page(self.sessions, number)

    def grants(self, number: int) -> ListPage[Any]:
        return self._page(self.granted, number)

    async def log(self, query: AuditQuery, number: int) -> ListPage[Any]:
        self.asked = query
        return self._page([(3, RECORD)], number, left_out=self.left_out)

    def kick(self, by: Actor, *, number: int | None = None, user: UserId | None = None, reason: str = "") -> int:
        self.done.append(("kick", by, number, user, reason))
        return len([row for row in self.sessions if number == row.number or user == row.user])

    async def revoke(self, *asked: object) -> StoredGrant:
        self.done.append(("revoke", *asked))
        return GRANT

    async def revoke_all(self, *asked: object) -> list[StoredGrant]:
        self.done.append(("revoke_all", *asked))
        return list(self.granted)

    async def waiting(self) -> list[AccessRequest]:
        return self.requested

    async def answer(self, *asked: object, **more: object) -> str:
        self.done.append((*asked, more))
        return "Request 12 was decided."

    async def do(self, words: str) -> Reply:
        """Carry out a command."""
        said = parse_command(tuple(words.split()), COMMANDS, Names("x"))
        assert not isinstance(said, Mistake)
        return await said.form.carry_out(self.commands, ADMIN, *said.arguments)

    async def says(self, words: str) -> str:
        """What a command answers in a chat."""
        return "\n".join(page.plain for page in pages(await self.do(words)))


@pytest.fixture
def world() -> World:
    return World()


async def test_live_sessions_are_lines_and_rows(world: World) -> None:
    assert await world.says("who") == (
        "Live sessions (1):\n- 4: @eve:x with build, direct, for 1m30s, 2 streams, 2.0 KiB sent and 100 B received"
    )
    (row,) = cast(Any, (await world.do("who")).rows)["rows"]
    assert (row["number"], row["user"], row["path"], row["sent"]) == (4, EVE, "direct", 2048)
    world.sessions, world.paused = (), True
    assert await world.says("who") == "There is no live session.\nNew sessions are refused (`resume`)."
    assert (await world.do("who")).rows == {"page": 1, "pages": 1, "total": 0, "rows": [], "paused": True}


async def test_grants_are_lines_and_rows_and_those_of_the_configuration_are_counted(world: World) -> None:
    assert await world.says("grants") == (
        'Given grants in force (1):\n- 7: @eve:x may use build/ssh for 2h more, by @admin:x "the audit"\n'
        "The configuration has 1 grant of its own."
    )
    (row,) = cast(Any, (await world.do("grants")).rows)["rows"]
    assert (row["number"], row["subject"], row["until_ms"]) == (7, "@eve:x", NOW + 7_200_000)
    world.granted = (GRANT,) * (PAGE_ROWS + 1)
    assert "Page 1 of 2; `grants 2` is next." in await world.says("grants")
    world.granted = ()
    assert (await world.says("grants")).startswith("No grants have been given.")


async def test_requests_are_lines_and_rows(world: World) -> None:
    assert await world.says("requests") == (
        'Requests that wait for an answer (1):\n- 12: @eve:x asks for build/db for 1h "it is late"'
    )
    assert cast(Any, (await world.do("requests")).rows)["rows"][0]["because"] == "it is late"
    world.requested = []
    assert await world.says("requests") == "No request waits for an answer."


async def test_the_audit_is_lines_and_rows_of_what_was_asked_for(world: World) -> None:
    said = await world.says("log @eve:x since 2h")
    assert world.asked == AuditQuery(EVE, None, NOW - 7_200_000)
    assert said.startswith("Audit records (1), newest first:\n- 3, 2027-01-15 08:00:00Z: ")
    assert cast(Any, (await world.do("log")).rows)["rows"][0]["number"] == 3
    world.left_out = 9
    assert "9 records are not kept here any more" in await world.says("log")


@pytest.mark.parametrize(
    ("words", "done"),
    [
        ("kick 4 because late", ("kick", ADMIN, 4, None, "late")),
        ("kick @eve:x", ("kick", ADMIN, None, EVE, "")),
        ("revoke 7 because over", ("revoke", 7, ADMIN, "over")),
        ("revoke @eve:x build/ssh", ("revoke_all", UserSubject("eve", "x"), PEER, "ssh", ADMIN, "")),
        ("allow 12 for 30m", (12, Decision.ALLOW, ADMIN, {"for_s": 1800})),
        ("allow 12 once", (12, Decision.ALLOW_ONCE, ADMIN, {"for_s": None})),
        ("deny 12 because no", (12, Decision.DENY, ADMIN, {"why": "no"})),
    ],
)
async def test_what_was_said_is_done(world: World, words: str, done: tuple[object, ...]) -> None:
    assert await world.says(words)
    assert world.done == [done]


async def test_how_many_sessions_were_ended_is_said(world: World) -> None:
    assert await world.says("kick @eve:x") == "Ended 1 session of @eve:x."
    world.sessions *= 2
    assert await world.says("kick @eve:x") == "Ended 2 sessions of @eve:x."


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("kick 5", "There is no session 5; who lists them."),
        ("kick abc", "There is no session abc; who lists them."),
        ("kick @bob:x", "@bob:x has no live session; who lists those that there are."),
        ("revoke ops-2", "Grant ops-2 is one of the configuration; take it out there, then reload."),
        ("revoke ops-3", "There is no grant ops-3; grants lists them."),
        ("revoke @bob:x", "Nothing was given to @bob:x; grants lists what was given."),
    ],
)
async def test_what_cannot_be_done_is_refused_in_a_sentence(world: World, words: str, problem: str) -> None:
    world.granted = ()
    with pytest.raises(AdminError) as error:
        await world.do(words)
    assert str(error.value) == problem


async def test_a_check_names_what_failed_and_keeps_the_remedy_at_the_machine(world: World) -> None:
    world.findings = [Finding(Level.OK, "the port"), Finding(Level.OK, "the disk")]
    assert await world.says("check") == "All is well: 2 checks."
    world.findings.append(Finding(Level.FAIL, "the homeserver is away", "ask http://10.0.0.1"))
    assert await world.says("check") == (
        "1 of 3 checks failed:\n- fail: the homeserver is away\n"
        "On the bridge's machine, `mxrtc-bridge check` says what to do."
    )
