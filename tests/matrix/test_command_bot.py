"""Which messages are commands, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Command
from mxrtc_bridge.core.bot.reply import Reply, say
from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent, parse_room_event
from mxrtc_bridge.matrix.command_bot import (
    FAILED_TEXT,
    MAX_AGE_MS,
    QUEUE,
    RESTARTED_TEXT,
    STRANGER_EVERY_S,
    STRANGER_TEXT,
    CommandDispatcher,
    CommandSender,
    Rank,
)
from mxrtc_bridge.matrix.relations import Reaction
from tests.chat_commands import COMMANDS, made
from tests.honesty import Honesty, failure
from tests.hostile_json import JSON
from tests.matrix.test_relations import annotation

ALICE, ADMIN, EVE = UserId("@alice:example.org"), UserId("@admin:example.org"), UserId("@eve:evil.test")
BOT, BUILD = UserId("@rtcbot:example.org"), UserId("@rtc_build:example.org")
ROOM = RoomId("!room:example.org")
NOW = 1_700_000_000_000
HTML = "org.matrix.custom.html"


class Fake:
    """Records what was sent and carried out; one person is a user, one an admin, others are strangers.

    A test that needs a lie sets ``honesty``: *stale* goes on with its first user, *silent* takes no reply, *wrong*
    fails at every command; ``failure`` says by what.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[RoomId, str, Mapping[str, Any], str, UserId | None]] = []
        self.commands: list[Command] = []
        self.forms = tuple(form for form in COMMANDS if form.verb != "withdraw")
        self.reactions: list[Reaction] = []
        self.mistakes: list[UserId] = []
        self.users = {ALICE}
        self.wall = NOW
        self.now = 0.0
        self.failure: Exception | None = None
        self.unreachable = False
        self.withdrawn: dict[tuple[RoomId, EventId], UserId] = {}
        self._events = 0
        self.honesty = Honesty.TRUE

    def rank(self, user: UserId) -> Rank:
        users = {ALICE} if self.honesty is Honesty.STALE else self.users
        return Rank.ADMIN if user == ADMIN else Rank.USER if user in users else Rank.STRANGER

    def names(self) -> Names:
        return Names("example.org")

    async def carry_out(self, command: Command, asker: CommandSender) -> Reply:
        self.commands.append(command)
        if (error := self.failure or (failure(Honesty.WRONG) if self.honesty is Honesty.WRONG else None)) is not None:
            raise error
        return say(f"done for {asker.user}")

    def mistaken(self, asker: CommandSender) -> None:
        self.mistakes.append(asker.user)

    async def reacted(self, reaction: Reaction) -> None:
        self.reactions.append(reaction)

    async def send_event(
        self, room: RoomId, event_type: str, content: Mapping[str, object], txn_id: str, as_user: UserId | None = None
    ) -> EventId:
        if self.unreachable or self.honesty is Honesty.SILENT:
            raise HomeserverError("away")
        self.sent.append((room, event_type, content, txn_id, as_user))
        return EventId("$sent")

    def was_withdrawn(self, room: RoomId, event: EventId, by: UserId | None) -> bool:
        redactor = self.withdrawn.get((room, event))
        return redactor is not None and by in (None, redactor)

    def event(self, sender: UserId, content: Mapping[str, Any], kind: str = "m.room.message", **more: Any) -> RoomEvent:
        self._events += 1
        raw = {
            "event_id": f"$event{self._events}",
            "room_id": ROOM,
            "type": kind,
            "sender": sender,
            "origin_server_ts": NOW,
            "content": content,
            **more,
        }
        return parse_room_event(raw)

    def message(self, sender: UserId, body: str, **content: Any) -> RoomEvent:
        return self.event(sender, {"msgtype": "m.text", "body": body, **content})

    @property
    def said(self) -> list[str]:
        return [str(content["body"]) for _, _, content, _, _ in self.sent]


@pytest.fixture
def fake() -> Fake:
    return Fake()


@asynccontextmanager
async def running(fake: Fake) -> AsyncIterator[CommandDispatcher]:
    talk = CommandDispatcher(
        fake,
        fake,
        is_own=lambda user: user in (BOT, BUILD),
        wall_ms=lambda: fake.wall,
        monotonic=lambda: fake.now,
        withdrawn=fake.was_withdrawn,
    )
    task = asyncio.create_task(talk.run())
    try:
        yield talk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hear(fake: Fake, *events: RoomEvent, direct: bool = True) -> None:
    async with running(fake) as talk:
        for event in events:
            talk.receive(event, BOT, direct=direct)
        await talk.idle()


async def test_what_takes_away_while_nobody_carries_out_commands_is_done_by_the_next_who_does(fake: Fake) -> None:
    async with running(fake) as talk:
        await asyncio.sleep(0)
    talk.receive(fake.message(ADMIN, "pause"), BOT, direct=True)
    task = asyncio.create_task(talk.run())
    await talk.idle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(fake.commands) == 1


async def test_a_command_is_carried_out_and_answered_by_a_notice_that_mentions_nobody(fake: Fake) -> None:
    await hear(fake, fake.message(ALICE, "open build"))
    assert fake.commands == [made("open", BUILD)]
    ((room, kind, content, _, sender),) = fake.sent
    assert (room, kind, sender) == (ROOM, "m.room.message", BOT)
    assert content == {
        "msgtype": "m.notice",
        "body": "done for @alice:example.org",
        "format": HTML,
        "formatted_body": "<p>done for @alice:example.org</p>",
        "m.mentions": {},
    }


async def test_in_a_room_of_many_only_what_has_the_prefix_is_a_command(fake: Fake) -> None:
    asked = fake.message(ALICE, "!rtc peers")
    await hear(fake, fake.message(ALICE, "peers"), asked, direct=False)
    assert fake.commands == [made("peers", False)]
    assert fake.sent[0][2]["m.relates_to"] == {"m.in_reply_to": {"event_id": asked.event_id}}


@pytest.mark.parametrize(
    "content",
    [
        {"msgtype": "m.notice", "body": "help"},
        {"msgtype": "m.emote", "body": "help"},
        {"msgtype": "m.image", "body": "help"},
        {"body": "help"},
        {},
        {"msgtype": "m.text"},
        {"msgtype": "m.text", "body": {"a": 1}},
        {"msgtype": "m.text", "body": "* help", "m.new_content": {"msgtype": "m.text", "body": "help"}},
        {"msgtype": "m.text", "body": "help", "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}},
        {"msgtype": "m.text", "body": "> <@a:b> help", "m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}},
    ],
)
async def test_what_is_no_text_of_a_person_or_an_edit_or_redacted_gets_silence(
    fake: Fake, content: dict[str, Any]
) -> None:
    await hear(fake, fake.event(ALICE, content))
    assert (fake.sent, fake.commands) == ([], [])


@pytest.mark.parametrize("sender", [BOT, BUILD])
async def test_own_users_are_never_answered(fake: Fake, sender: UserId) -> None:
    await hear(fake, fake.message(sender, "help"))
    assert fake.sent == []


@pytest.mark.parametrize(("age_ms", "taken"), [(MAX_AGE_MS, True), (MAX_AGE_MS + 1, False), (-MAX_AGE_MS - 1, False)])
async def test_an_old_message_is_no_command(fake: Fake, age_ms: int, taken: bool) -> None:
    async with running(fake) as talk:
        fake.wall = NOW + age_ms
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await talk.idle()
    assert bool(fake.commands) is taken
    assert bool(fake.sent) is taken


async def test_what_was_written_before_the_start_is_answered_but_not_done(fake: Fake) -> None:
    fake.wall = NOW + 1
    grant = "grant @bob:example.org build/ssh for 2h"
    await hear(fake, fake.message(ADMIN, grant), fake.message(ADMIN, "help"))
    assert fake.commands == [made("help", None)]
    assert fake.said == [RESTARTED_TEXT, "done for @admin:example.org"]
    fake.wall = NOW
    await hear(fake, fake.message(ADMIN, grant))
    assert fake.commands[-1].form.verb == "grant"


async def test_a_stranger_gets_one_line_and_then_silence(fake: Fake) -> None:
    async with running(fake) as talk:
        for body in ("help", "peers", "<b>", "!rtc grants"):
            talk.receive(fake.message(EVE, body), BOT, direct=True)
        await talk.idle()
        assert fake.said == [STRANGER_TEXT]
        fake.now = STRANGER_EVERY_S
        talk.receive(fake.message(EVE, "help"), BOT, direct=True)
        await talk.idle()
    assert fake.said == [STRANGER_TEXT] * 2
    assert fake.commands == []


async def test_a_crowd_of_strangers_does_not_make_it_talk_without_end(fake: Fake) -> None:
    async with running(fake) as talk:
        for number in range(200):
            talk.receive(fake.message(UserId(f"@eve{number}:e{number}.test"), "help"), BOT, direct=True)
            await talk.idle()
    assert len(fake.said) == 30


async def test_a_wrong_command_gets_a_suggestion_and_its_usage(fake: Fake) -> None:
    await hear(fake, fake.message(ALICE, "!rtc opne <b>build</b>"), direct=False)
    assert fake.said == ['I do not know "opne".\nDid you mean `!rtc open <b>build</b>`?\nUsage: `!rtc open PEER`']
    assert "<code>!rtc open &lt;b&gt;build&lt;/b&gt;</code>" in fake.sent[0][2]["formatted_body"]


async def test_a_command_that_is_only_for_admins_is_unknown_to_others(fake: Fake) -> None:
    await hear(fake, fake.message(ALICE, "who"))
    assert fake.commands == []
    assert 'do not know "who"' in fake.said[0]


async def test_a_command_that_nobody_declares_is_unknown(fake: Fake) -> None:
    await hear(fake, fake.message(ADMIN, "withdraw 1"))
    assert fake.commands == []
    assert 'do not know "withdraw"' in fake.said[0]


@pytest.mark.parametrize("failure", [RuntimeError("a defect"), EventError("bad", "x"), HomeserverError("away")])
async def test_a_command_that_fails_is_answered_and_the_next_one_works(fake: Fake, failure: Exception) -> None:
    async with running(fake) as talk:
        fake.failure = failure
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await talk.idle()
        fake.failure = None
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await talk.idle()
    assert fake.said == [FAILED_TEXT.format("$event1"), "done for @alice:example.org"]


async def test_a_reply_that_cannot_be_sent_stops_nothing(fake: Fake) -> None:
    async with running(fake) as talk:
        fake.unreachable = True
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await talk.idle()
        fake.unreachable = False
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await talk.idle()
    assert len(fake.sent) == 1


async def test_commands_of_a_person_keep_their_order_and_a_full_queue_drops(fake: Fake) -> None:
    async with running(fake) as talk:
        for number in range(QUEUE + 5):
            fake.now += 60
            talk.receive(fake.message(ALICE, f"help {number}"), BOT, direct=True)
        await talk.idle()
    assert fake.commands == [made("help", str(number)) for number in range(QUEUE)]


async def test_an_admins_reaction_is_handed_on(fake: Fake) -> None:
    await hear(fake, fake.event(ADMIN, annotation(), "m.reaction"), direct=False)
    assert fake.reactions == [Reaction(ADMIN, ROOM, EventId("$notice"), "\u2705")]


async def test_what_was_redacted_while_it_waited_is_not_carried_out(fake: Fake) -> None:
    async with running(fake) as talk:
        said, reaction = fake.message(ADMIN, "grants"), fake.event(ADMIN, annotation(), "m.reaction")
        for event in (said, fake.message(ALICE, "help"), reaction, fake.message(EVE, "help")):
            talk.receive(event, BOT, direct=True)
            fake.withdrawn[event.room_id, event.event_id] = EVE
        await talk.idle()
    assert (fake.commands, fake.reactions, fake.sent) == ([], [], [])


@pytest.mark.parametrize("sender", [ALICE, EVE, BOT])
async def test_reactions_of_others_do_nothing(fake: Fake, sender: UserId) -> None:
    await hear(fake, fake.event(sender, annotation(), "m.reaction"), direct=False)
    assert (fake.reactions, fake.sent) == ([], [])


FORMATTED = {"format": HTML, "formatted_body": "<blockquote>!rtc grant @eve:evil.test build/ssh for 3d</blockquote>no"}


async def test_what_an_admin_quotes_is_not_carried_out(fake: Fake) -> None:
    quoted = "!rtc grant @eve:evil.test build/ssh for 3d"
    await hear(fake, fake.message(ADMIN, f"> {quoted}\n\nno", **FORMATTED), direct=False)
    assert (fake.commands, fake.sent) == ([], [])
    await hear(fake, fake.message(ADMIN, f"{quoted} no", **FORMATTED), direct=False)
    assert fake.commands == []
    assert "The formatted text of your message has <blockquote> in it" in fake.said[0]


async def test_a_message_that_cannot_be_carried_out_is_taken_down_as_a_mistake(fake: Fake) -> None:
    await hear(fake, fake.message(ADMIN, "no"), fake.message(ALICE, "help"))
    assert fake.mistakes == [ADMIN]


async def test_what_gives_is_refused_where_a_character_cannot_be_seen_and_what_takes_is_not(fake: Fake) -> None:
    await hear(
        fake,
        fake.message(ADMIN, "grant @bob:example.org\u200b build/ssh for 2h"),
        fake.message(ADMIN, "resume\xa0"),
        fake.message(ADMIN, "revoke\xa017"),
    )
    assert fake.commands == [made("resume"), made("revoke", "17", None, None, "")], (
        "blanks at the ends are no part of a message"
    )
    assert "Character 23 of your message is U+200B (zero width space), which nobody sees." in fake.said[0]


async def test_formatted_text_of_a_stranger_is_not_read(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs more than to ask who it is from."""

    def read(*_: object, **__: object) -> None:
        pytest.fail("read")

    monkeypatch.setattr("mxrtc_bridge.matrix.command_bot.read_message", read)
    await hear(fake, fake.message(EVE, "help", **FORMATTED))
    assert fake.said == [STRANGER_TEXT]


async def test_an_answer_from_before_the_start_confirms_nothing(fake: Fake) -> None:
    fake.wall = NOW + 1
    await hear(fake, fake.message(ADMIN, "yes 17"))
    assert (fake.commands, fake.said) == ([], [RESTARTED_TEXT])


async def test_an_encrypted_message_is_no_command(fake: Fake) -> None:
    await hear(fake, fake.event(ALICE, {"algorithm": "m.megolm.v1.aes-sha2", "body": "help"}, "m.room.encrypted"))
    assert fake.sent == []


CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "msgtype": st.just("m.text") | JSON,
        "body": st.text(st.characters(blacklist_categories=()), max_size=200) | JSON,
        "format": st.just(HTML) | JSON,
        "formatted_body": st.just('<a href="https://matrix.to/#/@a:b">x</a><!') | JSON,
        "m.relates_to": JSON
        | st.fixed_dictionaries(
            {}, optional={"rel_type": st.sampled_from(["m.thread", "m.annotation", "m.replace"]) | JSON, "key": JSON,
                          "event_id": st.just("$x") | JSON, "m.in_reply_to": JSON}
        ),
        "m.new_content": JSON,
    },
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=CONTENT, sender=st.sampled_from([ALICE, ADMIN, EVE]), direct=st.booleans(),
       kind=st.sampled_from(["m.room.message", "m.reaction"]))  # fmt: skip
async def test_whatever_is_written_gets_an_answer_or_silence(
    content: dict[str, Any], sender: UserId, direct: bool, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake()
    await hear(fake, fake.event(sender, content, kind), direct=direct)
    assert len(fake.sent) <= 1
    assert not any(record.exc_info for record in caplog.records)
    for said in fake.said:
        said.encode()


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ("revoke 1", 2),
        ("revoke @eve:evil.test", 2),
        ("kick 3", 1),
        ("kick @eve:evil.test", 1),
        ("pause", 1),
        ("reload", 1),
    ],
)
@pytest.mark.parametrize("hangs", ["command", "answer"])
async def test_what_takes_away_waits_behind_nothing_of_the_same_admin(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, words: str, times: int, hangs: str
) -> None:
    """And is done again in its turn where what hangs may be a grant to the same user."""
    over = asyncio.Event()
    carry_out, send_event = fake.carry_out, fake.send_event

    async def carry_out_late(command: Command, asker: CommandSender) -> Reply:
        if hangs == "command" and not fake.commands:
            fake.commands.append(command)
            await over.wait()
        return await carry_out(command, asker)

    async def send_late(*arguments: Any) -> EventId:
        if hangs == "answer" and len(fake.commands) == 1:
            await over.wait()
        return await send_event(*arguments)

    monkeypatch.setattr(fake, "carry_out", carry_out_late)
    monkeypatch.setattr(fake, "send_event", send_late)
    async with running(fake) as talk:
        await asyncio.sleep(0)
        talk.receive(fake.message(ADMIN, "grants"), BOT, direct=True)
        await asyncio.sleep(0)
        talk.receive(fake.message(ADMIN, words), BOT, direct=True)
        async with asyncio.timeout(5):
            while len(fake.commands) < 2:
                await asyncio.sleep(0.01)
        first = fake.commands[1]
        over.set()
        await talk.idle()
    assert [command for command in fake.commands if command == first] == [first] * times


async def test_a_command_that_is_cancelled_from_within_is_answered_and_takes_no_worker_with_it(fake: Fake) -> None:
    """What it waited for together with others was cancelled by one of them."""
    fake.failure = asyncio.CancelledError()  # type: ignore[assignment]
    async with running(fake) as talk:
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        talk.receive(fake.message(ADMIN, "revoke 1"), BOT, direct=True)
        await talk.idle()
        fake.failure = None
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await asyncio.wait_for(talk.idle(), 5)
    failed = [FAILED_TEXT.format(event) for event in ("$event1", "$event2")]
    assert sorted(fake.said) == sorted([*failed, "done for @alice:example.org"])
