"""A member who is removed loses what the room gave, whatever is in the events that say so, through a real homeserver.

Alice is a member of a room whose members may use a service. Carol has all power in it. Whatever Alice puts into her own
membership comes along with the news of its end (``unsigned.prev_content``), one level deeper.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.e2e.people import Person
from tests.e2e.test_access import DENIED, Stream
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, PASSWORD, World, echo
from tests.hostile_json import deep

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ALICE, BOT = f"@alice:{DOMAIN}", f"@rtcbot:{DOMAIN}"
ENDED = "your right to use this peer has ended"


@dataclass
class Scene:
    world: World
    alice: Person
    carol: Person
    team: str
    banned: str

    async def open(self) -> Stream:
        process, port = await self.world.connect("alice", "build/team", "-L", "0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(reader, writer)
        return Stream(process, reader, writer)

    async def set_own_membership(self, **content: Any) -> None:
        await self.alice.ask(
            "PUT", f"rooms/{quote(self.team)}/state/m.room.member/{ALICE}", {"membership": "join", **content}
        )

    async def set_membership(self, **content: Any) -> None:
        await self.carol.ask("PUT", f"rooms/{quote(self.team)}/state/m.room.member/{ALICE}", content)

    async def remove(self, how: str, **content: Any) -> None:
        await self.carol.ask("POST", f"rooms/{quote(self.team)}/{how}", {"user_id": ALICE, **content})

    async def refused(self) -> None:
        code, _, said = await self.world.run_mxrtc("alice", "nc", "build/team")
        assert code == DENIED, said

    async def let_in(self) -> None:
        """Make Alice a member, whatever became of her in the test before."""
        state = await self.carol.ask("GET", f"rooms/{quote(self.team)}/state/m.room.member/{ALICE}")
        if state["membership"] == "join":
            return
        if state["membership"] == "ban":
            await self.carol.ask("POST", f"rooms/{quote(self.team)}/unban", {"user_id": ALICE})
        await self.carol.ask("POST", f"rooms/{quote(self.team)}/invite", {"user_id": ALICE})
        await self.alice.ask("POST", f"join/{quote(self.team)}", {})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("removals"), stack)
        for name in ("alice", "carol"):
            await world.add_user(name)
        http = await stack.enter_async_context(ClientSession())
        alice, carol = [await Person.log_in(world, name, http) for name in ("alice", "carol")]
        team, banned = await carol.gather("team", alice), await carol.gather("list")
        await world.serve("team", echo)
        world.grants.append({"id": "team", "from": [f"room:{team}"], "to": ["build/team"]})
        world.settings["policy_lists"] = [banned]
        for room in (team, banned):
            await carol.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
        await world.start_bridge()
        yield Scene(world, alice, carol, team, banned)
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


KICK = "kick with a deep content before it"
REMOVALS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    KICK: lambda scene: scene.remove("kick"),
    "ban with a reason of odd characters": lambda scene: scene.remove("ban", reason="\0\u202e\U0001f600" * 999),
    "ban with a deep content of its own": lambda scene: scene.set_membership(
        membership="ban", x=deep(60), y=-(2**53) + 1, z={"membership": "join"}, reason="\u202e"
    ),
    "an own departure with odd fields": lambda scene: scene.alice.ask(
        "PUT",
        f"rooms/{quote(scene.team)}/state/m.room.member/{ALICE}",
        {"membership": "leave", "x": deep(100), "displayname": {}, "is_direct": "no", "third_party_invite": 5},
    ),
}


@pytest.mark.parametrize("removal", REMOVALS)
async def test_removed_member_is_cut_and_refused_whatever_is_in_their_membership(scene: Scene, removal: str) -> None:
    await scene.let_in()
    await scene.set_own_membership(x=deep(30) if removal == KICK else deep(90), y="\0" * 2000, z=[-(2**53) + 1, None])
    stream = await scene.open()
    await REMOVALS[removal](scene)
    await stream.cut(5, ENDED)
    await scene.refused()
    await scene.let_in()
    await (await scene.open()).end()


async def test_rules_of_lists_deny_whatever_else_is_in_them_and_end_with_their_redaction(scene: Scene) -> None:
    await scene.let_in()
    for kind, entity in (
        ("m.policy.rule.user", f"@al*:{DOMAIN}"),
        ("m.room.rule.server", DOMAIN),
        ("org.matrix.mjolnir.rule.user", ALICE),
    ):
        rule = f"rooms/{quote(scene.banned)}/state/{kind}/\u00e4%00"
        await scene.carol.ask("PUT", rule, {"x": deep(30)})
        stream = await scene.open()
        content = {"entity": entity, "recommendation": "m.ban", "reason": deep(60), "x": -(2**53) + 1}
        made = await scene.carol.ask("PUT", rule, content)
        await stream.cut(5, ENDED)
        await scene.refused()
        await scene.carol.ask("PUT", f"rooms/{quote(scene.banned)}/redact/{quote(made['event_id'])}/{kind}", {})
        async with asyncio.timeout(20):
            while (await scene.world.run_mxrtc("alice", "ping", "build", "-c", "1"))[0]:
                await asyncio.sleep(0.2)


async def test_member_who_is_removed_while_the_database_takes_nothing_is_cut(scene: Scene) -> None:
    """The transaction is refused, and comes again later; the end of the right does not wait for that."""
    await scene.let_in()
    stream = await scene.open()
    with sqlite3.connect(scene.world.folder / "bridge.db", isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        await scene.remove("kick")
        await stream.cut(5, ENDED)
        lock.execute("ROLLBACK")
    await scene.refused()


async def knock_after_a_kick(scene: Scene, room: str) -> None:
    await scene.carol.ask("PUT", f"rooms/{quote(room)}/state/m.room.join_rules/", {"join_rule": "knock"})
    await scene.carol.ask("POST", f"rooms/{quote(room)}/kick", {"user_id": ALICE})
    await scene.alice.ask("POST", f"knock/{quote(room)}", {})


async def remove_the_bot(scene: Scene, room: str) -> None:
    content = {"membership": "ban", "x": deep(60)}
    await scene.carol.ask("PUT", f"rooms/{quote(room)}/state/m.room.member/{BOT}", content)


async def delete_the_room(scene: Scene, room: str) -> None:
    homeserver = scene.world.homeserver
    await homeserver.register_user("root", PASSWORD, admin=True)
    token = (await homeserver.login("root", PASSWORD)).access_token
    path = f"/_synapse/admin/v2/rooms/{quote(room)}"
    await homeserver.request("DELETE", path, token=token, body={"purge": True, "block": True})


@pytest.mark.parametrize("end", [knock_after_a_kick, remove_the_bot, delete_the_room])
async def test_what_ends_a_membership_or_the_room_ends_the_right(
    scene: Scene, end: Callable[[Scene, str], Awaitable[None]]
) -> None:
    room = await scene.carol.gather("own", scene.alice)
    before = list(scene.world.grants)
    scene.world.grants[:] = [{"id": "own", "from": [f"room:{room}"], "to": ["build/team"]}]
    await scene.world.reload_and_wait()
    try:
        await scene.carol.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
        await scene.carol.until_member(room, BOT)
        stream = await scene.open()
        await end(scene, room)
        await stream.cut(5, ENDED)
        await scene.refused()
    finally:
        scene.world.grants[:] = before
        await scene.world.reload_and_wait()
