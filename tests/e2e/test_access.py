"""Access is asked for, given, used, and taken back, by three people through a real homeserver.

Alice asks. Bob is an admin by the configuration. Carol has made the rooms, so that she has all power in them, and is
nobody's admin.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ALICE, BOB, CAROL = (f"@{name}:{DOMAIN}" for name in ("alice", "bob", "carol"))
BOT = f"@rtcbot:{DOMAIN}"
ALLOW, ONCE, DENY = "\u2705", "1\ufe0f\u20e3", "\u274c"
DENIED = 3
"""The exit code of the client for it."""


@dataclass
class Scene:
    """Who and what there is."""

    world: World
    alice: Person
    bob: Person
    carol: Person
    admins: str
    """The room of the admins."""
    team: str
    """The room whose members may use the service ``team``."""
    chat: str
    """Alice's direct chat with the bot."""
    desk: str
    """Bob's direct chat with the bot."""

    async def asked(self, words: str) -> tuple[int, str]:
        """Have Alice ask; returns the number and the event that reactions answer to."""
        said = await self.alice.told(self.chat, words)
        assert said.startswith("I have asked the admins (request "), said
        number = int(said.partition("request ")[2].partition(")")[0])
        shown = await self.bob.hears(self.admins)
        assert f"!rtc allow {number}" in shown["content"]["body"]
        return number, str(shown["event_id"])

    async def open(self, service: str) -> Stream:
        process, port = await self.world.connect("alice", f"build/{service}", "-L", "0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(reader, writer)
        return Stream(process, reader, writer)


@dataclass
class Stream:
    """A running ``mxrtc connect`` with a stream through it."""

    process: ManagedProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def cut(self, within_s: float, reason: str) -> None:
        """Check that the stream ends in time, and the client with the code and the reason."""
        async with asyncio.timeout(within_s):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await self.reader.readexactly(1)
        self.writer.close()
        assert await self.process.wait(10) == DENIED, self.process.tail()
        assert reason in self.process.output("stderr").decode(), self.process.tail()

    async def end(self) -> None:
        self.writer.close()
        await self.process.terminate(10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("access"), stack)
        for name in ("alice", "bob", "carol"):
            await world.add_user(name)
        http = await stack.enter_async_context(ClientSession())
        alice, bob, carol = [await Person.log_in(world, name, http) for name in ("alice", "bob", "carol")]
        admins = await carol.gather("admins", bob)
        team = await carol.gather("team", alice)
        await world.serve("echo", echo, grantable_to=[ALICE])
        await world.serve("held", echo, grantable_to=[f"server:{DOMAIN}"])
        await world.serve("team", echo)
        await world.serve("lent", echo, grantable_to=[f"room:{team}"])
        await world.serve("closed", echo)
        world.grants.append({"id": "team", "from": [f"room:{team}"], "to": ["build/team"]})
        world.settings.update({"admins": [BOB], "rooms": {"admin": admins}})
        for room in (admins, team):
            await carol.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
        await world.start_bridge()
        for room in (admins, team):
            await carol.until_member(room, BOT)
        chat, desk = await alice.direct(BOT), await bob.direct(BOT)
        yield Scene(world, alice, bob, carol, admins, team, chat, desk)
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


async def test_from_a_request_to_its_end(scene: Scene) -> None:
    """Asked in a chat, allowed by a reaction, used, and cut when the time is over."""
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/echo")
    assert code == DENIED, said
    number, notice = await scene.asked("request build/echo for 25s because <b>the report</b> is due")
    shown = (await scene.bob.notices(scene.admins))[-1]["content"]
    assert shown["body"].startswith(f'{ALICE} asks for build/echo for 25s: "<b>the report</b> is due"')
    assert "&lt;b&gt;the report" in shown["formatted_body"]

    # All the power in the room makes Carol no admin, with a reaction or with words.
    levels = await scene.carol.ask("GET", f"rooms/{quote(scene.admins)}/state/m.room.power_levels")
    assert levels["users"][CAROL] == 100
    await scene.carol.react(scene.admins, notice, ALLOW)
    await scene.carol.write(scene.admins, f"!rtc allow {number}")
    assert (await scene.bob.hears(scene.admins))["content"]["body"].startswith('I do not know "allow".')
    assert "No grants have been given." in await scene.bob.told(scene.desk, "grants")

    await scene.bob.react(scene.admins, notice, ALLOW)
    told = (await scene.alice.hears(scene.chat))["content"]["body"]
    allowed = time.monotonic()
    assert told == f"Your request {number} for build/echo was allowed for 25s."
    assert (await scene.bob.hears(scene.admins))["content"]["body"] == (
        f"Request {number} of {ALICE} was allowed by {BOB}."
    )
    assert f"{ALICE} may use build/echo" in await scene.bob.told(scene.desk, "grants")
    stream = await scene.open("echo")
    assert f"{ALICE} with build" in await scene.bob.told(scene.desk, "who")
    await stream.cut(30, "your right to it has ended")
    assert 20 < time.monotonic() - allowed < 30
    assert "No grants have been given." in await scene.bob.told(scene.desk, "grants")
    # A second answer comes too late.
    await scene.bob.react(scene.admins, notice, DENY)
    assert "already" in (await scene.bob.hears(scene.admins))["content"]["body"]


async def test_revoked_grants_cut_within_five_seconds(scene: Scene) -> None:
    given = await scene.bob.told(scene.desk, f"grant {ALICE} build/echo for 2h because of the audit")
    number = given.removeprefix("Grant ").partition(":")[0]
    stream = await scene.open("echo")
    await scene.bob.write(scene.desk, f"revoke {number}")
    await stream.cut(5, "your right to it has ended")
    assert (await scene.bob.hears(scene.desk))["content"]["body"].startswith(f"Taken back: {ALICE} may use build/echo")
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/echo")
    assert code == DENIED, said


async def test_a_grant_for_one_session_is_used_up(scene: Scene) -> None:
    _, notice = await scene.asked("request build/echo for 2h")
    await scene.bob.react(scene.admins, notice, ONCE)
    assert "for one session within 2h" in (await scene.alice.hears(scene.chat))["content"]["body"]
    await scene.bob.hears(scene.admins)
    stream = await scene.open("echo")
    await stream.end()
    async with asyncio.timeout(20):
        while "No grants have been given." not in await scene.bob.told(scene.desk, "grants"):
            await asyncio.sleep(0.1)
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/echo")
    assert code == DENIED, said


async def test_what_cannot_be_given_is_not_given(scene: Scene) -> None:
    said = await scene.bob.told(scene.desk, f"grant {ALICE} build/closed for 2h")
    assert "grantable_to" in said
    # To Alice it does not even exist.
    assert "There is no `build/closed`" in await scene.alice.told(scene.chat, "request build/closed")
    said = await scene.bob.told(scene.desk, f"grant {CAROL} build/echo for 2h")
    assert "grantable_to" in said
    assert "grantable_to" in await scene.bob.told(scene.desk, f"grant server:{DOMAIN} build/echo for 2h")


async def test_a_denied_request_is_told_with_its_reason_and_cannot_be_repeated_at_once(scene: Scene) -> None:
    number, _ = await scene.asked("request build/lent")
    assert await scene.bob.told(scene.desk, f"deny {number} because it is Friday") == (
        f"Request {number} was denied by {BOB}."
    )
    await scene.bob.hears(scene.admins)
    told = (await scene.alice.hears(scene.chat))["content"]["body"]
    assert told == f"Your request {number} for build/lent was denied. it is Friday"
    assert "denied a short while ago" in await scene.alice.told(scene.chat, "request build/lent")


async def test_kick_ends_the_session_with_the_reason_and_pause_takes_no_new_one(scene: Scene) -> None:
    await scene.bob.told(scene.desk, f"grant {ALICE} build/echo for 2h")
    stream = await scene.open("echo")
    row = await scene.bob.told(scene.desk, "who")
    number = row.partition("\n- ")[2].partition(":")[0]
    await scene.bob.write(scene.desk, f"kick {number} because the backup starts")
    await stream.cut(5, "an admin has ended this session: the backup starts")
    assert (await scene.bob.hears(scene.desk))["content"]["body"] == f"Ended session {number}."

    live = await scene.open("echo")
    assert "New sessions are refused now" in await scene.bob.told(scene.desk, "pause")
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/echo")
    assert code != 0, said
    await exchange(live.reader, live.writer)
    assert "New sessions are accepted." in await scene.bob.told(scene.desk, "resume")
    await (await scene.open("echo")).end()
    await live.end()


async def test_reload_and_restart_keep_what_was_given(scene: Scene) -> None:
    assert scene.world.bridge is not None
    before = await scene.bob.told(scene.desk, "grants")
    assert f"{ALICE} may use build/echo" in before
    assert "is in force" in await scene.bob.told(scene.desk, "reload")
    await (await scene.open("echo")).end()
    number, notice = await scene.asked("request build/held for 1h")
    status = await scene.alice.told(scene.chat, "status")
    assert re.search(r"For a time:\n- build/echo, for (2h|1h5\dm) more", status), status
    assert f"Waiting for an answer:\n- request {number} for build/held, for 1h" in status
    scene.world.bridge.kill()
    await scene.world.start_bridge()
    assert f"{ALICE} may use build/echo" in await scene.bob.told(scene.desk, "grants")
    await (await scene.open("echo")).end()
    # A request too: it is answered by the next run.
    await scene.bob.react(scene.admins, notice, ALLOW)
    assert (await scene.alice.hears(scene.chat))["content"]["body"].startswith(f"Your request {number} for build/held")
    await scene.bob.hears(scene.admins)
    await (await scene.open("held")).end()


async def test_narrowed_grantable_to_ends_what_goes_beyond_it(scene: Scene) -> None:
    stream = await scene.open("echo")
    scene.world.services["echo"]["grantable_to"] = [BOB]
    scene.world.reload()
    await stream.cut(5, "your right")
    scene.world.services["echo"]["grantable_to"] = [ALICE]
    scene.world.reload()


async def test_a_member_of_the_room_may_and_one_who_is_kicked_may_not_any_more(scene: Scene) -> None:
    # One right by a grant to the room, one given to her alone, which she can have only as a member of the room.
    await scene.bob.told(scene.desk, f"grant {ALICE} build/lent for 2h")
    streams = [await scene.open("team"), await scene.open("lent")]
    await scene.carol.ask("POST", f"rooms/{quote(scene.team)}/kick", {"user_id": ALICE, "reason": "leaves the team"})
    await asyncio.gather(*(stream.cut(5, "your right") for stream in streams))
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/team")
    assert code == DENIED, said
    # Somebody who comes back has the right again.
    await scene.carol.ask("POST", f"rooms/{quote(scene.team)}/invite", {"user_id": ALICE})
    await scene.alice.ask("POST", f"join/{quote(scene.team)}", {})
    await scene.carol.until_member(scene.team, ALICE)
    # Within some seconds: what was taken away stays away that long, whatever the homeserver says meanwhile.
    async with asyncio.timeout(20):
        while b"build/team" not in (await scene.world.run_mxrtc("alice", "ls"))[1]:
            pass
    await (await scene.open("team")).end()


async def test_a_policy_list_denies_whom_it_bans_and_cuts_them(scene: Scene) -> None:
    assert scene.world.bridge is not None
    banned = await scene.carol.gather("list")
    rule = f"rooms/{quote(banned)}/state/m.policy.rule.user/alice"
    scene.world.settings["policy_lists"] = [banned]
    await scene.world.reload_and_wait()
    await scene.carol.ask("POST", f"rooms/{quote(banned)}/invite", {"user_id": BOT})
    await scene.carol.until_member(banned, BOT)
    stream = await scene.open("team")
    await scene.carol.ask("PUT", rule, {"entity": f"@al*:{DOMAIN}", "recommendation": "m.ban", "reason": "spam"})
    await stream.cut(5, "your right to use this peer has ended")
    scene.world.bridge.kill()
    await scene.world.start_bridge()
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/team")
    assert code == DENIED, said
    # Also while the bot cannot see the list any more.
    await scene.carol.ask("POST", f"rooms/{quote(banned)}/kick", {"user_id": BOT})
    scene.world.bridge.kill()
    await scene.world.start_bridge()
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/team")
    assert code == DENIED, said
    await scene.carol.ask("POST", f"rooms/{quote(banned)}/invite", {"user_id": BOT})
    await scene.carol.until_member(banned, BOT)
    await scene.carol.ask("PUT", rule, {})
    await scene.world.bridge.wait_for_line(r"the policy list .* has 0 rules( now)?$", 20)
    await (await scene.open("team")).end()


async def test_a_member_who_was_kicked_while_the_bridge_was_away_has_no_right_at_its_start(scene: Scene) -> None:
    assert scene.world.bridge is not None
    scene.world.bridge.kill()
    await scene.carol.ask("POST", f"rooms/{quote(scene.team)}/ban", {"user_id": ALICE})
    await scene.world.start_bridge()
    code, _, said = await scene.world.run_mxrtc("alice", "nc", "build/team")
    assert code == DENIED, said
