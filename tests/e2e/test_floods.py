"""Floods of one user, through a real homeserver and the real endpoint: nobody else waits, and a right still ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, World, echo
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

ALICE, MALLORY = f"@alice:{DOMAIN}", f"@mallory:{DOMAIN}"
PEER, BOT = f"@rtc_build:{DOMAIN}", f"@rtcbot:{DOMAIN}"
CUT_S = 5.0
"""Within this time a right must have ended."""


@dataclass
class Scene:
    """Mallory's right is membership of the team, which Carol moderates; Alice has one of her own."""

    world: World
    http: ClientSession
    carol: Person
    mallory: Person
    team: str
    _posted: int = 0

    async def post(self, events: list[dict[str, Any]]) -> None:
        """Hand events to the bridge as the homeserver does."""
        self._posted += 1
        appservice = json.loads((self.world.folder / "config.yaml").read_text())["appservice"]
        address = f"http://{appservice['listen']}/_matrix/app/v1/transactions/flood-{self._posted}"
        headers = {"Authorization": f"Bearer {appservice['hs_token']}"}
        async with self.http.put(address, json={"events": events}, headers=headers) as response:
            assert response.status == 200, await response.text()

    async def restore(self) -> None:
        """Let Mallory be a member again."""
        state = await self.carol.ask("GET", f"rooms/{quote(self.team)}/joined_members")
        if MALLORY not in state["joined"]:
            await self.carol.ask("POST", f"rooms/{quote(self.team)}/invite", {"user_id": MALLORY})
            await self.mallory.ask("POST", f"join/{quote(self.team)}", {})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("floods"), stack)
        http = await stack.enter_async_context(ClientSession())
        await world.serve("echo", echo)
        for name in ("alice", "mallory", "carol"):
            await world.add_user(name)
        carol, mallory = [await Person.log_in(world, name, http) for name in ("carol", "mallory")]
        team = await carol.gather("team", mallory)
        encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
        await carol.ask("PUT", f"rooms/{quote(team)}/state/m.room.encryption/", encryption)
        await carol.ask("POST", f"rooms/{quote(team)}/invite", {"user_id": BOT})
        world.grant("alice", "build/echo")
        world.grants.append({"id": "team", "from": [f"room:{team}"], "to": ["build/echo"]})
        await world.start_bridge()
        await carol.until_member(team, BOT)
        yield Scene(world, http, carol, mallory, team)
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


def junk(room: str, count: int, *, kind: str = "m.room.encrypted", start: int = 0) -> list[dict[str, Any]]:
    """Events of Mallory: whose keys nobody has, each of another session, or that change the name over and over."""
    state = {"state_key": MALLORY, "content": {"membership": "join"}} if kind == "m.room.member" else {}
    return [
        {
            "event_id": f"$junk-{room[1:12]}-{kind}-{n}",
            "room_id": room,
            "type": kind,
            "sender": MALLORY,
            "origin_server_ts": time.time_ns() // 1_000_000,
            "content": undecryptable(n),
            **state,
        }
        for n in range(start, start + count)
    ]


def undecryptable(number: int) -> dict[str, Any]:
    """The content of an event whose session is unknown."""
    session = f"{number:043d}"
    return {
        "algorithm": "m.megolm.v1.aes-sha2", "session_id": session, "ciphertext": "AwgA", "device_id": "D",
        "sender_key": session,
    }  # fmt: skip


async def kicked(scene: Scene) -> float:
    await scene.carol.ask("POST", f"rooms/{quote(scene.team)}/kick", {"user_id": MALLORY})
    return time.monotonic()


async def assert_cut(scene: Scene, process: ManagedProcess, reader: asyncio.StreamReader, at: float) -> None:
    """The live session has ended in time, and a new call is refused."""
    async with asyncio.timeout(CUT_S - (time.monotonic() - at)):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    assert await process.wait(10) == 3, process.tail()
    code, _, said = await scene.world.run_mxrtc("mallory", "ping", "build", "-c", "1")
    assert code == 3, said


async def connected(scene: Scene) -> tuple[ManagedProcess, asyncio.StreamReader, asyncio.StreamWriter]:
    await scene.restore()
    async with asyncio.timeout(30):
        while True:
            code, _, _ = await scene.world.run_mxrtc("mallory", "ping", "build", "-c", "1")
            if code == 0:
                break
    process, port = await scene.world.connect("mallory", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    return process, reader, writer


async def test_member_who_has_sent_what_nobody_can_read_is_out_at_once_when_removed(scene: Scene) -> None:
    process, reader, writer = await connected(scene)
    for number in range(40):
        await scene.mallory.send(scene.team, undecryptable(number), "m.room.encrypted")
    for number in range(10):
        await scene.mallory.send(scene.team, {"odd": [number]}, "m.call.invite")
    await assert_cut(scene, process, reader, await kicked(scene))
    writer.close()


@pytest.mark.parametrize("kinds", [("m.room.encrypted",), ("m.call.invite", "m.room.message", "m.room.member")])
async def test_member_is_out_at_once_when_removed_beside_ten_thousand_events_of_theirs(
    scene: Scene, kinds: tuple[str, ...]
) -> None:
    process, reader, writer = await connected(scene)
    posted = list[int]()

    async def flood() -> None:
        for start in range(0, 10_000, 250):
            kind = kinds[start // 250 % len(kinds)]
            await scene.post(junk(scene.team, 250, kind=kind, start=start))
            posted.append(start)

    flooding = asyncio.create_task(flood())
    await until(lambda: len(posted) >= 10)
    await assert_cut(scene, process, reader, await kicked(scene))
    await flooding
    writer.close()


async def test_backlog_of_one_room_leaves_the_transactions_of_others_alone(scene: Scene) -> None:
    """A hundred thousand events whose handling takes as long as it can."""
    for start in range(0, 100_000, 1_000):
        await scene.post(junk("!many:example.test", 500, start=start) + junk(scene.team, 500, start=start + 500))
    before = time.monotonic()
    await scene.post([{**junk("!other:example.test", 1)[0], "sender": ALICE}])
    assert time.monotonic() - before < 2
    code, _, said = await scene.world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said


async def test_two_thousand_invitations_of_one_user_make_nobody_else_wait(scene: Scene) -> None:
    def invitation(number: int) -> dict[str, Any]:
        target = PEER if number % 2 else BOT
        return {
            "event_id": f"$invitation-{number}", "room_id": f"!invitation-{number}:{DOMAIN}", "type": "m.room.member",
            "sender": MALLORY, "state_key": target, "origin_server_ts": 1, "content": {"membership": "invite"},
        }  # fmt: skip

    posted = list[int]()

    async def invite() -> None:
        for start in range(0, 2000, 100):
            await scene.post([invitation(number) for number in range(start, start + 100)])
            posted.append(start)

    async def make_rooms() -> None:
        """Real ones as well, for as long as the test takes."""
        while True:
            await scene.mallory.ask("POST", "createRoom", {"invite": [PEER]})

    async def ping() -> float:
        """The seconds until Alice has her answer."""
        before = time.monotonic()
        code, _, said = await scene.world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, said
        return time.monotonic() - before

    await scene.restore()
    usual = await ping()
    making = asyncio.create_task(make_rooms())
    inviting = asyncio.create_task(invite())
    await until(lambda: posted)
    for signal in ("room", "device"):
        scene.world.signal = signal
        # The homeserver is busy making rooms as well.
        assert await ping() < 4 * usual + 6
    scene.world.signal = "auto"
    await inviting
    making.cancel()
    with suppress(asyncio.CancelledError):
        await making
    log = scene.world.log_text()
    assert log.count("invites too often") <= 1
    assert len([line for line in log.splitlines() if "not handled" in line or "dropped" in line]) < 20
