"""Only an admin's own words give anything, and only where nobody else can have put them, through a real homeserver.

Bob and Dora are admins by the configuration. Mallory is an ordinary member of a room that the bot is in. Carol has made
the rooms and is nobody's admin.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

BOB, DORA, MALLORY = (f"@{name}:{DOMAIN}" for name in ("bob", "dora", "mallory"))
BOT = f"@rtcbot:{DOMAIN}"
WANTED = f"!rtc grant {MALLORY} build/echo for 30d because I need it"
PILL = f'<a href="https://matrix.to/#/{MALLORY}">mallory</a>'
HTML = "org.matrix.custom.html"

# The bridge as it is, but for how many commands of one user it takes: Bob gives those of all tests within seconds.
PROGRAM = """
import sys
from mxrtc_bridge.cli.bridge.main import main
from mxrtc_bridge.matrix import command_bot
command_bot.COMMANDS_PER_MINUTE = 1000
sys.exit(main())
"""


@dataclass
class Scene:
    """Who and what there is."""

    world: World
    bob: Person
    dora: Person
    mallory: Person
    admins: str
    """The room of the admins, in which Carol is as well."""
    team: str
    """A room whose members may use a service: the bot is in it, and everybody else."""
    desk: str
    """Bob's direct chat with the bot."""

    async def given(self) -> str:
        """What is granted."""
        return await self.bob.told(self.desk, "grants")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("words"), stack)
        world.program = [sys.executable, "-c", PROGRAM]
        for name in ("bob", "dora", "mallory", "carol"):
            await world.add_user(name)
        http = await stack.enter_async_context(ClientSession())
        bob, dora, mallory, carol = [
            await Person.log_in(world, name, http) for name in ("bob", "dora", "mallory", "carol")
        ]
        admins = await carol.gather("admins", bob, dora)
        team = await carol.gather("team", bob, mallory)
        await world.serve("echo", echo, grantable_to=[f"server:{DOMAIN}"])
        world.grants.append({"id": "team", "from": [f"room:{team}"], "to": ["build/unused"]})
        world.grant("bob", "build/echo")
        world.settings.update({"admins": [BOB, DORA], "rooms": {"admin": admins}})
        for room in (admins, team):
            await carol.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
        await world.start_bridge()
        for room in (admins, team):
            await carol.until_member(room, BOT)
        yield Scene(world, bob, dora, mallory, admins, team, await bob.direct(BOT))
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


async def test_a_quoted_command_with_a_mention_gives_nothing_and_is_not_answered(scene: Scene) -> None:
    theirs = await scene.mallory.write(scene.team, WANTED)
    assert (await scene.bob.hears(scene.team))["content"]["body"].startswith('I do not know "grant"')
    quoted = WANTED.replace(MALLORY, PILL)
    no = f"{PILL}: no, please ask in the chat"
    mentions = {"m.mentions": {"user_ids": [MALLORY]}, "format": HTML}
    reply = {"m.relates_to": {"m.in_reply_to": {"event_id": theirs}}}
    body = f"> {WANTED}\n\nmallory: no, please ask in the chat"
    for room in (scene.team, scene.admins, scene.desk):
        await scene.bob.write(
            room, body, formatted_body=f"<blockquote><p>{quoted}</p></blockquote><p>{no}</p>", **mentions
        )
        await scene.bob.write(room, body, formatted_body=f"<del>{quoted}</del> {no}", **mentions, **reply)
        await scene.bob.write(
            room, f"> <{MALLORY}> {WANTED}", formatted_body=f"<p>{quoted}</p> {no}", **mentions, **reply
        )
    assert "No grants have been given." in await scene.given()
    assert await scene.bob.heard_nothing(scene.team)
    assert await scene.bob.heard_nothing(scene.admins)


async def test_the_same_words_of_the_admin_alone_count_in_a_direct_chat(scene: Scene) -> None:
    said = await scene.bob.told(
        scene.desk,
        "grant mallory build/echo for 30d because it is needed",
        format=HTML,
        formatted_body=f"grant {PILL} build/echo for 30d because it is needed",
        **{"m.mentions": {"user_ids": [MALLORY]}},
    )
    assert said.startswith("Grant 1: ")
    assert f"{MALLORY} may use build/echo" in await scene.given()


async def test_elsewhere_giving_is_refused_in_words_and_taking_works(scene: Scene) -> None:
    said = await scene.bob.told(scene.team, WANTED)
    assert "direct chat of you and me alone or in the room of the admins" in said
    assert "grant 2" not in await scene.given()
    assert (await scene.bob.told(scene.team, f"!rtc revoke {MALLORY}")).startswith("Taken back: grant 1")
    assert "No grants have been given." in await scene.given()
    # A direct chat is none any more once somebody else is invited to it.
    other = await scene.dora.direct(BOT)
    await scene.dora.ask("POST", f"rooms/{quote(other)}/invite", {"user_id": MALLORY})
    assert "direct chat of you and me alone" in await scene.dora.told(other, WANTED)
    assert "No grants have been given." in await scene.given()


async def test_among_others_it_is_asked_back_and_one_yes_counts_once(scene: Scene) -> None:
    async def asked(person: Person) -> str:
        said = await person.told(scene.admins, WANTED)
        assert "Others than admins are in this room" in said
        assert f"{MALLORY} would get @rtc_build:{DOMAIN}/echo, for 30d, until 2" in said
        return said.partition("!rtc yes ")[2].partition("`")[0]

    # As far as it has been read by somebody else of the same room.
    scene.dora._seen[scene.admins] = scene.bob._seen.get(scene.admins, 0)
    number = await asked(scene.bob)
    await scene.dora.hears(scene.admins)
    nothing = f"No question {number} waits for your answer here, so I have done nothing."
    assert await scene.dora.told(scene.admins, f"!rtc yes {number}") == nothing
    await scene.bob.hears(scene.admins)
    assert "No grants have been given." in await scene.given()
    # To ask what is given was another command: it has lapsed.
    assert await scene.bob.told(scene.admins, f"!rtc yes {number}") == nothing

    number = await asked(scene.bob)
    assert (await scene.bob.told(scene.desk, f"yes {number}")).startswith("No question")
    assert (await scene.bob.told(scene.admins, f"!rtc yes {number}")).startswith("No question")
    assert "No grants have been given." in await scene.given()

    number = await asked(scene.bob)
    assert f"{MALLORY} may use build/echo for 30d more, by {BOB}" in await scene.bob.told(
        scene.admins, f"!rtc yes {number}"
    )
    assert (await scene.bob.told(scene.admins, f"!rtc yes {number}")).startswith("No question")
    assert "(1):" in await scene.given()
    await scene.bob.told(scene.admins, f"!rtc revoke {MALLORY}")

    # A restart forgets the question, and gives its number to no other one.
    number = await asked(scene.bob)
    assert scene.world.bridge is not None
    scene.world.bridge.kill()
    await scene.world.start_bridge()
    assert (await scene.bob.told(scene.admins, f"!rtc yes {number}")).startswith("No question")
    assert int(await asked(scene.bob)) > int(number)
    assert "No grants have been given." in await scene.given()


async def test_the_number_of_a_session_is_not_used_again_after_a_restart(scene: Scene) -> None:
    numbers = []
    assert scene.world.bridge is not None
    for again in (False, True):
        if again:
            scene.world.bridge.kill()
            await scene.world.start_bridge()
        process, port = await scene.world.connect("bob", "build/echo", "-L", "0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(reader, writer)
        row = await scene.bob.told(scene.desk, "who")
        numbers.append(int(row.partition("\n- ")[2].partition(":")[0]))
        writer.close()
        await process.terminate(10)
    assert numbers[1] > numbers[0]
    assert (
        await scene.bob.told(scene.desk, f"kick {numbers[0]}") == f"There is no session {numbers[0]}; who lists them."
    )
