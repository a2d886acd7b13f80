"""A command that is declared in one place exists everywhere: in chats, in the help, at the bridge's machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.admin.socket import AdminSocket
from mxrtc_bridge.bridge.bot.confirmation import Giving
from mxrtc_bridge.bridge.bot.user_commands import UserCommands
from mxrtc_bridge.core.access.policy import Allow
from mxrtc_bridge.core.bot.arguments import nothing
from mxrtc_bridge.core.bot.commands import Command, Effect, command, commands_of
from mxrtc_bridge.core.bot.reply import Reply, answer, say, text
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import Actor, LocalAdmin, RoomId, ServiceName, UserId
from mxrtc_bridge.core.stream.control_channel import States
from mxrtc_bridge.core.stream.messages import ServiceState
from mxrtc_bridge.engine.control_channel import Listing
from mxrtc_bridge.matrix.api.room_event import parse_room_event
from mxrtc_bridge.matrix.command_bot import STRANGER_TEXT, CommandDispatcher, CommandSender

ADMIN, ALICE, EVE, BOT = (UserId(f"@{name}:x") for name in ("admin", "alice", "eve", "rtcbot"))
ADMINS, OTHER = RoomId("!admins:x"), RoomId("!other:x")
NOW = 1_700_000_000_000


class MoreForUsers(UserCommands):
    """What everybody may do, and one thing more."""

    @command("knock N", "knock so many times", Effect.CHANGES, lambda it: (it.number("knock"),), "knock 3", admin=False)
    async def knock(self, asker: CommandSender, times: int) -> Reply:
        return say(f"{asker.user} has knocked {times} times.")


class MoreForAdmins(AdminCommands):
    """What admins may do, and three things more."""

    opened = ""

    async def _would_unlock(self, peer: UserId) -> tuple[str, ...]:
        if peer != "@rtc_door:x":
            raise AdminError("There is no such door.")
        return ("Everybody would get ", peer, ".")

    @command(
        "unlock PEER",
        "let everybody in",
        Effect.GIVES,
        lambda it: (it.peer(),),
        "unlock door",
        would_give=_would_unlock,
    )
    async def unlock(self, by: Actor, peer: UserId) -> Reply:
        self.opened = f"{peer} by {by}"
        return say("It is unlocked.")

    @command("lock", "let nobody in", Effect.TAKES, nothing, "lock")
    async def lock(self, by: Actor) -> Reply:
        if not self.opened:
            raise AdminError("It is locked already.")
        self.opened = ""
        return say(f"Locked by {by}.")

    @command("doors", "which there are", Effect.LOOKS, nothing)
    async def doors(self, _by: Actor) -> Reply:
        return answer(text("One door."), rows={"rows": [{"door": "door"}]})


class World:
    """The commands with all that is around them; the homeserver says who is in a room."""

    def __init__(self) -> None:
        self.joined = {ADMINS: {ADMIN, BOT}, OTHER: {ADMIN, ALICE, EVE, BOT}}
        self.said: list[str] = []
        self.listing: list[tuple[UserId, tuple[str, ...]]] = []
        self.to_ask_for: list[tuple[UserId, tuple[str, ...]]] = []
        self.down: dict[UserId, str] = {}
        self.admin_now = self.admin_after = True
        """Whether there is an admin, before and after the homeserver is asked who is in a room."""
        rights = SimpleNamespace(
            is_admin=lambda user: user == ADMIN and self.admin_now,
            could_ask_for_anything=lambda user: user == ALICE,
            listing=lambda _user, _bot: self.listing,
            to_ask_for=lambda _user: self.to_ask_for,
            may_call=lambda _user, _peer: Allow("granted"),
        )
        appservice = SimpleNamespace(peer_prefix="rtc_", bot=BOT)
        config = SimpleNamespace(
            in_force=SimpleNamespace(
                homeserver=SimpleNamespace(domain="x"),
                appservice=appservice,
                peers={},
                target=lambda peer, name: f"{peer}/{name}",
            )
        )
        none = cast(Any, None)
        self.admins = MoreForAdmins(none, none, config=cast(Any, config), wall_ms=lambda: NOW)
        giving = Giving(
            cast(Any, self),
            admins=lambda: {ADMIN},
            is_own=lambda user: user == BOT,
            admin_room=lambda: ADMINS,
            new_number=self._new_number,
            monotonic=lambda: 0.0,
        )
        self.commands = MoreForUsers(
            cast(Any, rights),
            cast(Any, config),
            none,
            none,
            cast(Any, SimpleNamespace(of_services=self._states)),
            none,
            self.admins,
            giving,
            why_down=self.down.get,
            monotonic=lambda: 0.0,
            wall_ms=lambda: NOW,
        )
        self.socket = AdminSocket(self.admins, none, self.commands.names)

    async def _new_number(self) -> int:
        return 17

    async def joined_members(self, room: RoomId, _as_user: UserId) -> frozenset[UserId]:
        self.admin_now = self.admin_after
        return frozenset(self.joined[room])

    async def invited_members(self, _room: RoomId, _as_user: UserId) -> frozenset[UserId]:
        return frozenset()

    async def _states(
        self,
        listing: Listing,
        target_of: Callable[[UserId, ServiceName], object],
        why_down: Callable[[UserId], str | None],
    ) -> States:
        found = {(peer, name): ServiceState.UP for peer, names in listing for name in names}
        for peer, name in found:
            if why_down(peer) is not None:
                found[peer, name] = ServiceState.DOWN
            elif target_of(peer, name) == "@rtc_far:x/ssh":
                found[peer, name] = ServiceState.UNKNOWN
        return found

    async def send_event(self, _room: RoomId, _kind: str, content: Any, *_: object) -> None:
        self.said.append(content["body"])

    async def type(self, *lines: str, by: UserId = ADMIN, room: RoomId = ADMINS) -> list[str]:
        """Write messages in a room, and return the answers."""
        talk = CommandDispatcher(
            cast(Any, self),
            self.commands,
            is_own=lambda user: user == BOT,
            wall_ms=lambda: NOW,
            monotonic=lambda: 0.0,
        )
        task = asyncio.create_task(talk.run())
        for number, line in enumerate(lines):
            event = {
                "event_id": f"$event{number}",
                "room_id": room,
                "type": "m.room.message",
                "sender": by,
                "origin_server_ts": NOW,
                "content": {"msgtype": "m.text", "body": f"!rtc {line}"},
            }
            talk.receive(parse_room_event(event), BOT, direct=False)
            await talk.idle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        said, self.said = self.said, []
        return said


@pytest.fixture
def world() -> World:
    return World()


async def test_it_is_carried_out_in_a_chat_for_those_whom_it_is_for(world: World) -> None:
    assert await world.type("knock 3", by=ALICE, room=OTHER) == ["@alice:x has knocked 3 times."]
    assert await world.type("knock 2", "unlock door", "lock", "lock", "doors") == [
        "@admin:x has knocked 2 times.",
        "It is unlocked.",
        "Locked by @admin:x.",
        "It is locked already.",
        "One door.",
    ]


async def test_its_words_are_read_and_a_wrong_one_gets_its_form(world: World) -> None:
    assert await world.type("unlock", "unlock door/ssh", "unlok door", "knock x") == [
        "The peer is missing.\nUsage: `!rtc unlock PEER`",
        "Only the peer is wanted here, without a service.\nUsage: `!rtc unlock PEER`",
        'I do not know "unlok".\nDid you mean `!rtc unlock door`?\nUsage: `!rtc unlock PEER`',
        '"x" is not a number.\nUsage: `!rtc knock N`',
    ]


async def test_its_help_is_shown_to_those_who_may_use_it(world: World) -> None:
    assert await world.type("help unlock") == ["`!rtc unlock PEER`: let everybody in.\n- `!rtc unlock door`"]
    (for_admins,), (for_users,) = await world.type("help"), await world.type("help", by=ALICE)
    assert "- `!rtc knock N`: knock so many times" in for_users
    assert "unlock" not in for_users
    assert {line.split("`")[1].split()[1] for line in for_admins.splitlines()[1:]} == {
        form.verb for form in world.commands.forms
    }


async def test_who_has_no_right_to_it_does_not_learn_of_it(world: World) -> None:
    assert await world.type("unlock door", by=ALICE) == [
        'I do not know "unlock".\nDid you mean `!rtc knock door`?\nUsage: `!rtc knock N`'
    ]
    assert await world.type("knock 3", by=EVE) == [STRANGER_TEXT]
    assert world.admins.opened == ""


async def test_what_was_read_as_an_admins_is_refused_to_who_is_none_any_more(world: World) -> None:
    world.admin_now = False
    (form,) = (form for form in world.commands.forms if form.verb == "lock")
    said = await world.commands.carry_out(Command(form), CommandSender(ADMIN, True, ADMINS, BOT, direct=False))
    assert said == say("Only admins may do that.")


async def test_whoever_is_no_admin_any_more_once_the_homeserver_has_answered_gives_nothing(world: World) -> None:
    world.admin_after = False
    assert await world.type("unlock door") == ["Only admins may do that."]
    assert world.admins.opened == ""


async def test_a_question_is_not_answered_by_who_is_no_admin_any_more(world: World) -> None:
    world.joined[ADMINS].add(ALICE)
    await world.type("unlock door")
    world.admin_now = False
    (form,) = (form for form in world.commands.forms if form.verb == "yes")
    sender = CommandSender(ADMIN, True, ADMINS, BOT, direct=False)
    assert await world.commands.carry_out(Command(form, (17,)), sender) == say("Only admins may do that.")
    assert world.admins.opened == ""


async def test_what_gives_is_asked_back_among_others_and_counts_nowhere_else(world: World) -> None:
    (elsewhere,) = await world.type("unlock door", room=OTHER)
    assert "so I have done nothing" in elsewhere
    world.joined[ADMINS].add(ALICE)
    assert await world.type("unlock gate") == ["There is no such door."]
    question, done, again = await world.type("unlock door", "yes 17", "yes 17")
    assert question == (
        "Others than admins are in this room (@alice:x), so I ask you first.\n"
        "Everybody would get @rtc_door:x.\n"
        "If you mean it, write `!rtc yes 17` within 2m. Anything else lets it lapse."
    )
    assert (done, world.admins.opened) == ("It is unlocked.", "@rtc_door:x by @admin:x")
    assert again == "No question 17 waits for your answer here, so I have done nothing."


async def test_what_takes_away_counts_wherever_others_are(world: World) -> None:
    await world.type("unlock door")
    assert await world.type("lock", room=OTHER) == ["Locked by @admin:x."]


async def test_at_the_bridges_machine_are_the_commands_of_admins(world: World) -> None:
    by = LocalAdmin("root")
    assert await world.socket.handle(by, ("unlock", "door")) == {"said": "It is unlocked."}
    assert await world.socket.handle(by, ("doors",)) == {"rows": [{"door": "door"}]}
    assert await world.socket.handle(by, ("lock",)) == {"said": "Locked by local:root."}
    for words, problem in (
        (("lock",), "It is locked already."),
        (("unlock",), "The peer is missing. Usage: unlock PEER"),
        (("knock", "3"), 'I do not know "knock".'),
        (("yes", "17"), 'I do not know "yes".'),
    ):
        with pytest.raises(AdminError) as error:
            await world.socket.handle(by, words)
        assert str(error.value).startswith(problem)


async def test_what_is_compared_is_known_at_the_bridges_machine_only(world: World) -> None:
    assert {form.verb for form in commands_of(AdminSocket)} == {"trust", "verify"}
    assert not {"trust", "verify"} & {form.verb for form in world.commands.forms}


async def test_listing_everything_is_for_admins(world: World) -> None:
    assert await world.type("peers all", by=ALICE) == ['After peers, "all" is too much.\nUsage: `!rtc peers`']


async def test_what_may_be_asked_for_is_shown_beside_what_may_be_used(world: World) -> None:
    build = UserId("@rtc_build:x")
    world.to_ask_for = [(build, ("db", "web"))]
    asking = ["You may ask for:", "- build: db, web", "To ask the admins: `!rtc request PEER/SERVICE`"]
    (said,) = await world.type("peers", by=ALICE)
    assert said.splitlines() == ["There is nothing that you may use now.", *asking]
    world.listing = [(build, ("ssh",))]
    (said,) = await world.type("peers", by=ALICE)
    assert said.splitlines() == [
        "You may use:", "- build: ssh (up)", "For commands to paste: `!rtc how PEER/SERVICE`", *asking
    ]  # fmt: skip
    (said,) = await world.type("peers all", by=ADMIN)
    assert "ask for" not in said


@pytest.mark.parametrize("effect", [Effect.TAKES, Effect.GIVES, Effect.CONFIRMS])
def test_no_command_of_everybody_can_take_or_give(effect: Effect) -> None:
    with pytest.raises(ValueError, match="must be for admins"):
        command("x", "x", effect, nothing, admin=False)(cast(Any, None))


def test_no_command_can_give_without_saying_what() -> None:
    with pytest.raises(ValueError, match="must say what it would give"):
        command("x", "x", Effect.GIVES, nothing)(cast(Any, None))


async def test_a_peer_that_takes_no_calls_is_listed_as_down_and_says_why(world: World) -> None:
    names = ("build", "lab", "far")
    world.listing = [(UserId(f"@rtc_{name}:x"), ("ssh", "web")) for name in names]
    world.down[UserId("@rtc_lab:x")] = "shows another identity"
    (said,) = await world.type("peers", by=ALICE)
    assert said.splitlines()[1:4] == [
        "- build: ssh (up), web (up)",
        "- lab: ssh (down), web (down); it takes no calls, as its account shows another identity",
        "- far: ssh (not looked at), web (up)",
    ]
    assert await world.type("open lab", by=ALICE) == ["lab takes no calls now, as its account shows another identity."]
