"""People talk to the bridge, through a real homeserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.bridge.calls.refusal_notices import MEDIA_TEXT
from mxrtc_bridge.matrix.command_bot import STRANGER_TEXT
from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

BUILD, BOT = f"@rtc_build:{DOMAIN}", f"@rtcbot:{DOMAIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A homeserver with three users; Alice has a right, the others have none."""
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("people"), stack)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        for name in ("alice", "bob", "carol"):
            await world.add_user(name)
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(world: World) -> AsyncIterator[dict[str, Person]]:
    async with ClientSession() as http:
        yield {name: await Person.log_in(world, name, http) for name in ("alice", "bob", "carol")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(people: dict[str, Person]) -> Person:
    return people["alice"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(alice: Person) -> str:
    """Alice's direct chat with the bot."""
    return await alice.direct(BOT)


async def test_everybody_with_a_right_is_told_what_there_is(alice: Person, chat: str) -> None:
    said = await alice.told(chat, "help")
    assert "`peers`" in said
    assert "`kick" not in said
    listed = "You may use:\n- build: echo (up)\nFor commands to paste: `how PEER/SERVICE`"
    assert await alice.told(chat, "peers") == listed
    assert await alice.told(chat, "status") == ("You have no live session.\nYou may use 1 service; `peers` lists them.")


async def test_an_answer_is_a_notice_in_both_forms_without_mentions(alice: Person, chat: str) -> None:
    await alice.write(chat, "peers")
    content = (await alice.hears(chat))["content"]
    assert (content["msgtype"], content["m.mentions"]) == ("m.notice", {})
    assert f'<a href="https://matrix.to/#/{BUILD}">build</a>' in content["formatted_body"]


async def test_open_has_the_peer_invite_me_to_a_direct_chat_that_works(alice: Person, chat: str) -> None:
    said = await alice.told(chat, "open build")
    assert said == "build has invited you to this room."
    html = (await alice.notices(chat))[-1]["content"]["formatted_body"]
    room = html.partition("matrix.to/#/")[2].partition('"')[0]
    invites = (await alice.ask("GET", "sync?timeout=0"))["rooms"]["invite"][room]["invite_state"]["events"]
    (invite,) = [e for e in invites if e["type"] == "m.room.member" and e.get("state_key") == alice.user_id]
    assert (invite["sender"], invite["content"]["is_direct"]) == (BUILD, True)
    await alice.ask("POST", f"join/{room}", {})
    rules = await alice.ask("GET", f"rooms/{room}/state/m.room.join_rules")
    assert rules == {"join_rule": "invite"}
    # In it no prefix is needed, and the peer is found there again instead of making another room.
    assert await alice.told(room, "open build") == "build is in this room with you already."


async def test_the_lines_of_how_work_as_they_are(alice: Person, chat: str, world: World) -> None:
    said = await alice.told(chat, "how build/echo")
    name, line, _ = said.split("\n")
    assert (name, line) == ("build/echo:", "mxrtc connect build/echo -L 9000")
    _, port = await world.connect("alice", *line.replace("9000", "0").split()[2:])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    assert "Your live sessions:\n- build: direct" in await alice.told(chat, "status")
    assert await alice.told(chat, "close") == "I have ended 1 of your sessions."
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    writer.close()


async def test_a_wrong_command_gets_the_right_one_and_no_markup(alice: Person, chat: str) -> None:
    assert await alice.told(chat, "opne <b>build</b>") == (
        'I do not know "opne".\nDid you mean `open <b>build</b>`?\nUsage: `open PEER`'
    )
    assert "&lt;b&gt;" in (await alice.notices(chat))[-1]["content"]["formatted_body"]
    assert "There is no `nosuch` that you may use" in await alice.told(chat, "open nosuch")


async def test_an_edit_a_redaction_and_a_bot_get_silence(alice: Person, chat: str) -> None:
    first = await alice.write(chat, "peers")
    await alice.hears(chat)
    new = {"msgtype": "m.text", "body": "status"}
    relation = {"rel_type": "m.replace", "event_id": first}
    await alice.write(chat, "* status", **{"m.new_content": new, "m.relates_to": relation})
    await alice.send(chat, {"msgtype": "m.notice", "body": "help"})
    await alice.ask("PUT", f"rooms/{chat}/redact/{first}/r1", {})
    # What comes behind in the same room is answered, so what was before it was passed over.
    assert "no live session" in await alice.told(chat, "status")
    assert await alice.heard_nothing(chat)


async def test_a_stranger_gets_one_line_and_then_silence(people: dict[str, Person], world: World) -> None:
    alice, bob = people["alice"], people["bob"]
    room = await alice.direct(BUILD)
    # A peer that has joined looks who is there, and leaves a room of three; with its answer it has seen two.
    assert "You may use:" in await alice.told(room, "peers")
    await alice.ask("POST", f"rooms/{room}/invite", {"user_id": bob.user_id})
    await bob.ask("POST", f"join/{room}", {})
    # The room is one of many now, and says so; from here on a command needs the prefix.
    await alice.hears(room)
    bob._seen[room] = 2
    assert await bob.told(room, "!rtc peers") == STRANGER_TEXT
    for body in ("!rtc help", "!rtc grant @bob:example.test build/echo for 3d", "help"):
        await bob.write(room, body)
    alice._seen[room] = 3
    assert "You may use:" in await alice.told(room, "!rtc peers")
    # What Bob writes is answered in its order, so nothing is still to come when something is answered.
    world.grant("bob", "build/echo")
    await world.reload_and_wait()
    bob._seen[room] = 4
    assert "You may use:" in await bob.told(room, "!rtc peers")


VOICE = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\n"


async def test_a_voice_call_is_answered_in_words(alice: Person) -> None:
    room = await alice.direct(BUILD)
    offer = {"type": "offer", "sdp": VOICE}
    call = {"call_id": "c1", "party_id": "p1", "version": "1", "lifetime": 60000, "invitee": BUILD, "offer": offer}
    await alice.send(room, call, "m.call.invite")
    assert (await alice.hears(room))["content"]["body"] == MEDIA_TEXT


async def test_a_peer_greets_who_invites_it_once_in_a_room_and_the_bot_greets_nobody(
    alice: Person, chat: str, world: World
) -> None:
    assert world.bridge is not None
    # It greets once a day, and has done so in another test.
    await world.bridge.terminate(20)
    await world.start_bridge()
    room = await alice.direct(BUILD)
    async with asyncio.timeout(20):
        while not (greetings := await alice.greetings(room)):
            await asyncio.sleep(0.05)
    lines = greetings[0].splitlines()
    assert lines[0].startswith("I am build: ")
    assert "- echo: `mxrtc connect build/echo -L 9000`" in lines
    assert lines[-1] == "Write `help` for all that I understand here."
    await alice.ask("POST", f"rooms/{room}/kick", {"user_id": BUILD})
    await alice.until_member(room, BUILD, "leave")
    await world.bridge.terminate(20)
    await world.start_bridge()
    await alice.ask("POST", f"rooms/{room}/invite", {"user_id": BUILD})
    await alice.until_member(room, BUILD)
    # It has come again, and what it says now comes behind what it would have said by itself.
    assert "You may use:" in await alice.told(room, "peers")
    assert (await alice.greetings(room), await alice.greetings(chat)) == (greetings, [])
