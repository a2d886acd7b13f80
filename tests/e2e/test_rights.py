"""Rights that end while they are used, and calls that nobody waits for any more, through a real homeserver."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.e2e.test_outages import count_events, exchange
from tests.e2e.world import DOMAIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ALICE, BUILD = f"@alice:{DOMAIN}", f"@rtc_build:{DOMAIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A homeserver with a user, for all tests of this file."""
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("rights"), stack)
        await world.serve("echo", echo)
        await world.add_user("alice")
        # Events are sent by hand here, into the room that the client has made.
        world.signal = "room"
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(standing: World) -> AsyncIterator[World]:
    """The same with a fresh bridge whose only grant is Alice's."""
    standing.grants.clear()
    standing.settings.clear()
    standing.grant("alice", "build/echo")
    await standing.start_bridge()
    yield standing
    assert standing.bridge is not None
    await standing.bridge.terminate(20)


class Alice:
    """Alice's session without the client, to send what the client never would."""

    def __init__(self, world: World) -> None:
        self._login = json.loads((world.folder / "state-alice" / "login.json").read_text())
        rooms = json.loads((world.folder / "state-alice" / "rooms.json").read_text())
        self.room: str = rooms[f"{ALICE} {BUILD}"]
        self._sent = 0

    async def request(self, method: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        url = f"{self._login['homeserver']}/_matrix/client/v3/{path}"
        headers = {"Authorization": f"Bearer {self._login['access_token']}"}
        async with ClientSession(headers=headers) as http, http.request(method, url, json=content) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def send(self, kind: str, **content: Any) -> None:
        self._sent += 1
        common = {"call_id": "by-hand", "party_id": "hand", "version": "1"}
        path = f"rooms/{self.room}/send/{kind}/by-hand-{self._sent}"
        await self.request("PUT", path, {**common, **content})

    async def invite(self, call_id: str) -> None:
        await self.send(
            "m.call.invite", call_id=call_id, lifetime=60000, offer={"type": "offer", "sdp": "v=0\r\n"}, invitee=BUILD
        )

    async def membership(self, user: str) -> str:
        answer = await self.request("GET", f"rooms/{self.room}/state/m.room.member/{user}")
        return str(answer["membership"])


async def until_counted(world: World, kind: str, wanted: int) -> None:
    """Wait until the homeserver has so many events of a kind; other tests have left some of them."""
    async with asyncio.timeout(20):
        while await count_events(world, kind) < wanted:
            await asyncio.sleep(0.05)


async def test_deny_list_ends_the_live_session_at_the_reload(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    world.settings["deny"] = [ALICE]
    world.reload()
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    assert await process.wait(10) == 3, process.tail()
    writer.close()


async def test_grant_that_ends_by_itself_cuts_the_session_and_refuses_with_one_notice(world: World) -> None:
    assert world.bridge is not None
    told = await count_events(world, "m.room.message")
    until = datetime.now(UTC) + timedelta(seconds=12)
    world.grants[0]["until"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    world.reload()
    await world.bridge.wait_for_line("configuration reloaded", 10)
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    async with asyncio.timeout(20):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    assert -1 <= (datetime.now(UTC) - until).total_seconds() < 5
    assert await process.wait(10) == 3, process.tail()
    writer.close()
    # The room is still there, and so is the bridge: each call is rejected, and only one of them explained.
    alice = Alice(world)
    assert await alice.membership(BUILD) == "join"
    rejected = await count_events(world, "m.call.reject")
    for number in (1, 2):
        await alice.invite(f"late{number}")
        await until_counted(world, "m.call.reject", rejected + number)
    code, _, said = await world.run_mxrtc("alice", "nc", "build/echo")
    assert code == 3, said
    assert await count_events(world, "m.room.message") == told + 1


async def test_call_that_was_given_up_while_the_bridge_was_away_is_not_answered(world: World) -> None:
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    assert world.bridge is not None
    world.bridge.kill()
    answered, rejected = [await count_events(world, kind) for kind in ("m.call.answer", "m.call.reject")]
    alice = Alice(world)
    await alice.invite("given-up")
    await alice.send("m.call.hangup", call_id="given-up", reason="user_hangup")
    await world.start_bridge()
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    assert await count_events(world, "m.call.answer") == answered + 1
    assert await count_events(world, "m.call.reject") == rejected


async def test_encrypted_room_is_explained_once_where_encryption_is_off_and_others_go_on(world: World) -> None:
    """What a client encrypts cannot be read then; so the peer says it when encryption is turned on."""
    assert world.bridge is not None
    await world.bridge.terminate()
    world.settings["encryption"] = {"enabled": "off"}
    await world.start_bridge()
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    alice = Alice(world)
    told = await count_events(world, "m.room.message")
    await alice.request("PUT", f"rooms/{alice.room}/state/m.room.encryption/", {"algorithm": "m.megolm.v1.aes-sha2"})
    await until_counted(world, "m.room.message", told + 1)
    await alice.send("m.room.encrypted", algorithm="m.megolm.v1.aes-sha2", ciphertext="x")
    # The client makes another room by itself.
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    # Where the peer greets them.
    assert await count_events(world, "m.room.message") == told + 2


async def test_message_that_cannot_be_read_is_explained_once_and_encrypted(world: World) -> None:
    """Events of calls in plain text are not believed any more once the room is encrypted."""
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    alice = Alice(world)
    told, hung_up = await count_events(world, "m.room.message"), await count_events(world, "m.call.reject")
    await alice.request("PUT", f"rooms/{alice.room}/state/m.room.encryption/", {"algorithm": "m.megolm.v1.aes-sha2"})
    for _ in range(2):
        await alice.send("m.room.encrypted", algorithm="m.megolm.v1.aes-sha2", ciphertext="x", session_id="y")
    await until_counted(world, "m.room.encrypted", 3)
    await alice.send("m.call.invite", call_id="plain", party_id="p", version="1", lifetime=60000, offer={"sdp": "v=0"})
    await world.bridge.wait_for_line("in plain text, in an encrypted room", 20)  # type: ignore[union-attr]
    assert await count_events(world, "m.room.encrypted") == 3
    assert await count_events(world, "m.room.message") == told
    assert await count_events(world, "m.call.reject") == hung_up


@pytest.mark.parametrize("live", [True, False])
async def test_bridge_ends_in_time_while_the_homeserver_is_away(world: World, live: bool) -> None:
    assert world.bridge is not None
    async with AsyncExitStack() as stack:
        if live:
            _, port = await world.connect("alice", "build/echo", "-L", "0")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            await exchange(reader, writer)
            await stack.enter_async_context(world.homeserver.away())
        else:
            await world.bridge.terminate(20)
            await stack.enter_async_context(world.homeserver.away())
            world.bridge = await world._stack.enter_async_context(world.admin("run"))
            await world.bridge.wait_for_line("listening on", 40)  # then it asks the homeserver
        began = time.monotonic()
        world.bridge.send_signal(signal.SIGTERM)
        assert await world.bridge.wait(15) == 0, world.bridge.tail()
        assert time.monotonic() - began < 11
        assert live or "bridge ready" not in world.bridge.tail()
        assert "Traceback" not in world.log_text()
        assert "never retrieved" not in world.log_text()


async def test_broken_configuration_changes_nothing_at_the_reload(world: World) -> None:
    _, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    assert world.bridge is not None
    mark = world.bridge.mark()
    (world.folder / "config.yaml").write_text("grants: [")
    world.bridge.send_signal(signal.SIGHUP)
    await world.bridge.wait_for_line("the old one stays in force", 10, after=mark)
    await exchange(reader, writer)
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    writer.close()
