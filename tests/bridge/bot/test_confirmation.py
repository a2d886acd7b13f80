"""Where commands that give something count, and the question back where others read along."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.bot.confirmation import Giving
from mxrtc_bridge.core.access.policy import UserSubject
from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.bot.commands import Command, Effect
from mxrtc_bridge.core.bot.confirmations import ANSWER_WITHIN_S
from mxrtc_bridge.core.bot.reply import pages
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId
from mxrtc_bridge.matrix.command_bot import CommandSender
from tests.chat_commands import COMMANDS, made
from tests.honesty import NO_ANSWERS, Honesty, failure

BOB, DORA, CAROL, EVE = (UserId(f"@{name}:x") for name in ("bob", "dora", "carol", "eve"))
BOT, BUILD = UserId("@rtcbot:x"), UserId("@rtc_build:x")
ADMINS, CHAT, OTHER = RoomId("!admins:x"), RoomId("!chat:x"), RoomId("!other:x")
GRANT = made("grant", UserSubject("eve", "x"), BUILD, ServiceName("ssh"), 7200, "the audit")
ALLOW, RESUME = made("allow", 12, False, None), made("resume")
REVOKE, GRANTS = made("revoke", "3", None, None, ""), made("grants", 1)
GIVING = [GRANT, ALLOW, RESUME]
NOT_GIVING = [REVOKE, made("kick", EVE, "", ""), made("pause"), made("reload"), made("deny", 12, ""), GRANTS]


class World:
    """A homeserver that says who is where, and everything else that giving needs.

    A test that needs a homeserver without an answer sets ``honesty``, for all it is asked or for ``lies_about`` alone.
    """

    def __init__(self) -> None:
        self.joined = {
            ADMINS: {BOB, DORA, BOT},
            CHAT: {BOB, BOT},
            OTHER: {BOB, BOT, EVE},
        }
        self.invited: dict[RoomId, set[UserId]] = {}
        self.room: RoomId | None = ADMINS
        self.honesty = Honesty.TRUE
        self.lies_about = {"joined", "invited"}
        self.now = 0.0
        self.numbered = 16
        self.asked = 0
        self.requests = [AccessRequest(12, EVE, BUILD, ServiceName("db"), 3600, "it is late", OTHER, 0)]
        self.giving = Giving(
            self,
            admins=lambda: frozenset({BOB, DORA}),
            is_own=lambda user: user in (BOT, BUILD),
            admin_room=lambda: self.room,
            new_number=self.new_number,
            monotonic=lambda: self.now,
        )
        self.admins = AdminCommands(
            cast(Any, None),
            cast(Any, self),
            config=cast(Any, SimpleNamespace()),
            wall_ms=lambda: 1_800_000_000_000,
        )

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        self.asked += 1
        assert as_user == BOT
        self._fail("joined")
        return frozenset(self.joined[room])

    async def invited_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        assert as_user == BOT
        self._fail("invited")
        return frozenset(self.invited.get(room, ()))

    def _fail(self, question: str) -> None:
        error = failure(self.honesty)
        if error is not None and question in self.lies_about:
            raise error

    async def waiting(self) -> list[AccessRequest]:
        return self.requests

    async def new_number(self) -> int:
        self.numbered += 1
        return self.numbered

    async def judge(self, command: Command, room: RoomId = ADMINS, user: UserId = BOB) -> Command | str:
        """The command if it is to be carried out, otherwise what is said."""
        try:
            said = await self.giving.judge(command, sender(room, user), self.admins)
        except AdminError as error:
            return str(error)
        return command if said is None else "\n".join(page.plain for page in pages(said))

    def confirm(self, number: int, room: RoomId = ADMINS, user: UserId = BOB) -> Command | None:
        """The command that is confirmed."""
        return self.giving.confirmed(number, sender(room, user))


def sender(room: RoomId, user: UserId) -> CommandSender:
    return CommandSender(user, True, room, BOT, room == CHAT)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("room", [ADMINS, CHAT])
@pytest.mark.parametrize("command", GIVING)
async def test_what_gives_counts_in_a_direct_chat_and_among_admins(
    world: World, command: Command, room: RoomId
) -> None:
    assert await world.judge(command, room) is command


@pytest.mark.parametrize("command", GIVING)
async def test_what_gives_is_refused_elsewhere_with_where_it_counts(world: World, command: Command) -> None:
    said = await world.judge(command, OTHER)
    assert isinstance(said, str)
    assert "direct chat of you and me alone or in the room of the admins" in said
    world.room = None
    said = await world.judge(command, ADMINS)
    assert isinstance(said, str)
    assert "room of the admins" not in said


@pytest.mark.parametrize("lie", NO_ANSWERS)
@pytest.mark.parametrize("command", NOT_GIVING)
async def test_what_takes_or_looks_counts_everywhere_also_without_the_homeserver(
    world: World, command: Command, lie: Honesty
) -> None:
    world.honesty = lie
    assert await world.judge(command, OTHER) is command
    assert world.asked == 0


def test_every_command_is_one_that_gives_or_does_not() -> None:
    assert {form for form in COMMANDS if form.effect is Effect.GIVES} == {command.form for command in GIVING}
    assert [form.verb for form in COMMANDS if form.effect is Effect.CONFIRMS] == ["yes"]


@pytest.mark.parametrize("lie", NO_ANSWERS)
@pytest.mark.parametrize(
    "about", [{"joined"}, {"invited"}, {"joined", "invited"}], ids=lambda about: " and ".join(sorted(about))
)
@pytest.mark.parametrize("command", GIVING)
async def test_nothing_is_given_where_the_homeserver_does_not_say_who_is_there(
    world: World, command: Command, about: set[str], lie: Honesty
) -> None:
    world.honesty, world.lies_about = lie, about
    for room in (ADMINS, CHAT):
        said = await world.judge(command, room)
        assert isinstance(said, str)
        assert "could not find out who is in this room" in said


async def test_a_direct_chat_is_one_by_who_is_in_it_or_invited_now(world: World) -> None:
    world.invited[CHAT] = {EVE}
    assert "so I have done nothing" in str(await world.judge(GRANT, CHAT))
    world.invited[CHAT] = set()
    world.joined[CHAT] = {BOB, BOT, BUILD}
    assert "so I have done nothing" in str(await world.judge(GRANT, CHAT))
    world.joined[CHAT] = {EVE, BOT}
    assert "so I have done nothing" in str(await world.judge(GRANT, CHAT))


async def test_an_admin_who_is_not_in_the_room_any_more_gives_nothing(world: World) -> None:
    world.joined[ADMINS].remove(BOB)
    assert "so I have done nothing" in str(await world.judge(GRANT))


@pytest.mark.parametrize("membership", ["joined", "invited"])
async def test_among_others_it_asks_back_with_all_that_would_be_given(world: World, membership: str) -> None:
    if membership == "joined":
        world.joined[ADMINS].add(CAROL)
    else:
        world.invited[ADMINS] = {CAROL}
    said = await world.judge(GRANT)
    assert said == (
        "Others than admins are in this room (@carol:x), so I ask you first.\n"
        '@eve:x would get @rtc_build:x/ssh, for 2h, until 2027-01-15 10:00:00Z "the audit".\n'
        "If you mean it, write `!rtc yes 17` within 2m. Anything else lets it lapse."
    )
    assert world.confirm(17) is GRANT
    assert world.confirm(17) is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (ALLOW, '@eve:x would get @rtc_build:x/db, for 1h, until 2027-01-15 09:00:00Z "it is late".'),
        (made("allow", 12, True, None), "@rtc_build:x/db, for one session, for 1h"),
        (made("allow", 12, False, 60), "for 1m, until 2027-01-15 08:01:00Z"),
        (RESUME, "New sessions would be accepted again."),
    ],
)
async def test_the_question_says_what_each_command_would_give(world: World, command: Command, words: str) -> None:
    world.joined[ADMINS].add(CAROL)
    assert words in str(await world.judge(command))
    assert world.confirm(17) is command


async def test_the_question_says_all_of_the_longest_command(world: World) -> None:
    world.joined[ADMINS] |= {UserId(f"@{number}{'u' * 240}:x") for number in range(8)}
    who, peer = f"{'w' * 200}", UserId(f"@rtc_{'p' * 200}:x")
    said = await world.judge(made("grant", UserSubject(who, "x"), peer, ServiceName("s" * 63), 61, "b" * 200))
    for part in (f"@{who}:x would get {peer}/{'s' * 63}, for 1m1s, until 2027", f'"{"b" * 200}".', "!rtc yes 17"):
        assert part in str(said)


async def test_a_request_that_does_not_wait_is_no_question(world: World) -> None:
    world.joined[ADMINS].add(CAROL)
    assert "no such request" in str(await world.judge(made("allow", 13, False, None)))
    assert world.numbered == 16


@pytest.mark.parametrize(
    ("number", "room", "user", "after_s"),
    [
        (17, ADMINS, DORA, 0.0),
        (17, CHAT, BOB, 0.0),
        (17, OTHER, BOB, 0.0),
        (18, ADMINS, BOB, 0.0),
        (17, ADMINS, BOB, ANSWER_WITHIN_S),
    ],
)
async def test_no_other_answer_gives_anything(
    world: World, number: int, room: RoomId, user: UserId, after_s: float
) -> None:
    world.joined[ADMINS].add(CAROL)
    await world.judge(GRANT)
    world.now = after_s
    assert world.confirm(number, room, user) is None


@pytest.mark.parametrize("other", [GRANTS, REVOKE, made("allow", 13, False, None), GRANT])
async def test_another_command_lets_the_question_lapse(world: World, other: Command) -> None:
    world.joined[ADMINS].add(CAROL)
    await world.judge(GRANT)
    await world.judge(other, CHAT)
    assert world.confirm(17) is None


async def test_what_is_no_command_lets_it_lapse_too(world: World) -> None:
    world.joined[ADMINS].add(CAROL)
    await world.judge(GRANT)
    world.giving.forget(BOB)
    assert world.confirm(17) is None


async def test_a_question_counts_no_more_when_the_room_is_not_that_of_the_admins_any_more(world: World) -> None:
    world.joined[ADMINS].add(CAROL)
    await world.judge(GRANT)
    world.room = OTHER
    assert world.confirm(17) is None


async def test_a_crowd_is_named_in_part(world: World) -> None:
    world.joined[ADMINS] |= {UserId(f"@user{number}:x") for number in range(8)}
    assert "(@user0:x, @user1:x, @user2:x, @user3:x, @user4:x and 3 more)" in str(await world.judge(GRANT))
