"""Calls by encrypted messages between devices, through a real homeserver: nothing of them is left there."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.test_outages import count_events, exchange, messages_for_devices
from tests.e2e.world import BIN, DOMAIN, World, echo, payload, pump
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PEER = f"@rtc_build:{DOMAIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A homeserver that encrypts every new room, which makes no difference here."""
    async with AsyncExitStack() as stack:
        world = await World.start(
            tmp_path_factory.mktemp("signal"),
            stack,
            extra_config={"encryption_enabled_by_default_for_room_type": "all"},
        )
        world.own_calls = False
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        world.signal = "device"
        for name in ("alice", "bob"):
            await world.add_user(name)
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


def everything_stored(world: World) -> str:
    """All text in the homeserver's database."""
    with closing(sqlite3.connect(world.homeserver.folder / "homeserver.db")) as connection:
        connection.text_factory = lambda data: data.decode(errors="replace")
        return "\n".join(connection.iterdump())


async def test_bytes_pass_and_nothing_is_left_at_the_homeserver(world: World) -> None:
    _, port = await world.connect("alice", "build/echo", "-L", "0")
    data = payload(1_000_000)
    assert await pump(port, data) == data
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    stored = everything_stored(world)
    assert "io.mxrtc.signal" not in stored
    for word in ("v=0", "m=application", "a=candidate", "a=fingerprint", "typ host", "ice-ufrag", "m.call."):
        assert word not in stored, word
    assert not re.search(r"candidate:|\b(?:10|192\.168|172\.\d+)\.\d+\.\d+\.\d+\b", stored)
    assert await count_events(world, "m.room.create") == 0, "not even a room"
    rooms = world.folder / "state-alice" / "rooms.json"
    assert not rooms.exists()


async def test_the_bridge_knows_which_device_has_called(world: World) -> None:
    login = json.loads((world.folder / "state-alice" / "login.json").read_text())
    await world.connect("alice", "build/echo", "-L", "0")
    world._runs += 1
    command = [BIN / "mxrtc-bridge", "who", "--json", "-c", world.folder / "config.yaml"]
    async with ManagedProcess(f"who-{world._runs}", command, folder=world.folder) as process:
        assert await process.wait(30) == 0, process.tail()
        rows = [json.loads(line) for line in process.output("stdout").splitlines()]
    assert {row["device"] for row in rows} == {f"{login['device_id']} (any)"}
    records = [json.loads(line) for line in (world.folder / "audit.jsonl").read_text().splitlines()]
    assert f"{login['device_id']} (any)" in {record.get("device") for record in records}


async def test_what_was_called_is_said_for_programs(world: World) -> None:
    code, out, said = await world.run_mxrtc("alice", "--json", "ping", "build", "-c", "1")
    assert code == 0, said
    lines = [json.loads(line) for line in (out.decode() + said).splitlines() if line.startswith("{")]
    (connected,) = [line for line in lines if line["kind"] == "connected"]
    assert (connected["signalling"], connected["peer_trust"]) == ("device", "cross-signed")
    assert connected["peer_device"]


async def test_how_says_what_to_type_as_the_chat_does(world: World) -> None:
    code, out, err = await world.run_mxrtc("alice", "how", "build/echo")
    assert (code, out) == (0, b"mxrtc connect build/echo -L 9000\nmxrtc nc build/echo\n"), err
    code, out, err = await world.run_mxrtc("alice", "--json", "how", "build")
    said = [each for each in map(json.loads, out.splitlines()) if each["kind"] == "how"]
    assert [(each["name"], each["type"]) for each in said] == [("build/echo", "stream")], err
    code, out, err = await world.run_mxrtc("alice", "how", "build/nosuch")
    assert (code, out) == (3, b""), err
    assert "build/nosuch: there is no such service, or you have no right to it; mxrtc ls lists what there is" in err


async def test_who_has_no_right_is_refused_with_the_code_for_it(world: World) -> None:
    code, _, said = await world.run_mxrtc("bob", "ping", "build", "-c", "1")
    assert (code, "you have no right" in said) == (3, True), said


async def test_the_session_is_cut_and_explained_as_any_other(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    world.settings["deny"] = [f"@alice:{DOMAIN}"]
    world.reload()
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    assert await process.wait(10) == 3, process.tail()
    writer.close()
    world.settings["deny"] = []
    world.reload()
    assert world.bridge is not None
    await world.bridge.wait_for_line("configuration reloaded", 10)


async def test_several_commands_at_once_take_turns(world: World) -> None:
    results = await asyncio.gather(*(world.run_mxrtc("alice", "ping", "build", "-c", "2") for _ in range(3)))
    assert [code for code, _, _ in results] == [0, 0, 0], [said for _, _, said in results]


async def test_after_a_restart_of_the_bridge_it_goes_on(world: World) -> None:
    assert world.bridge is not None
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    world.bridge.kill()
    await world.start_bridge()
    writer.close()
    await process.wait_for_line("connected to build.*", 60)
    async with asyncio.timeout(60):
        while True:
            try:
                data = payload(1000)
                assert await pump(port, data) == data
                break
            except (AssertionError, ConnectionError):
                await asyncio.sleep(0.2)
    await process.terminate(10)


async def test_an_invite_that_came_while_the_bridge_was_down_is_answered_in_time(world: World) -> None:
    """The homeserver keeps it; the bridge takes it when it is ready."""
    assert world.bridge is not None
    await world.bridge.terminate()
    kept = messages_for_devices(world)
    async with world.mxrtc("alice", "ping", "build", "-c", "1") as process:
        await until(lambda: messages_for_devices(world) > kept, 30)
        await world.start_bridge()
        code = await process.wait(30)
        said = process.tail()
    # Within the time that the caller waits, or else it says that nobody answers; never anything else.
    assert code in (0, 4), said
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said


async def test_a_changed_identity_is_refused_until_it_is_accepted_on_purpose(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate()
    # Another key makes another identity, and the database of the old one is of no use with it.
    (world.folder / "encryption.key").write_text("another key of more than thirty-two characters\n")
    await world.start_bridge("--new-identity")
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert (code, f"mxrtc trust {PEER}" in said) == (3, True), said
    code, _, said = await world.run_mxrtc("alice", "trust", "build")
    assert (code, "now" in said) == (0, True), said
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said


async def test_an_identity_that_the_admin_has_told_is_verified_and_another_one_refused(world: World) -> None:
    world._runs += 1
    command = [BIN / "mxrtc-bridge", "identity", "--json", "-c", world.folder / "config.yaml"]
    async with ManagedProcess(f"identity-{world._runs}", command, folder=world.folder) as process:
        assert await process.wait(30) == 0, process.tail()
        rows = [json.loads(line) for line in process.output("stdout").splitlines()]
    (key,) = [row["identity"] for row in rows if row["user"] == PEER]
    code, _, said = await world.run_mxrtc("alice", "trust", "build", "--key", "A" * 43)
    assert (code, "not the one that you gave" in said) == (3, True), said
    code, _, said = await world.run_mxrtc("alice", "trust", "build", "--key", key)
    assert (code, "verified" in said) == (0, True), said
    code, out, said = await world.run_mxrtc("alice", "--json", "ping", "build", "-c", "1")
    assert code == 0, said
    assert '"peer_trust": "verified"' in out.decode() + said


async def test_devices_are_listed_with_how_far_they_are_trusted(world: World) -> None:
    code, out, said = await world.run_mxrtc("alice", "--json", "devices")
    assert code == 0, said
    rows = [json.loads(line) for line in (out.decode() + said).splitlines() if line.startswith("{")]
    (own,) = [row for row in rows if row["kind"] == "device"]
    assert (own["own"], own["trust"]) == (True, "any")
    code, out, said = await world.run_mxrtc("alice", "devices", "build")
    # Verified by the test above; nobody has told alice of her own device.
    assert (code, "verified" in out.decode()) == (0, True), said


async def test_a_policy_that_asks_for_more_of_devices_ends_live_sessions(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    world.settings["encryption"] = {"devices": "cross-signed"}
    world.reload()
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    assert await process.wait(10) == 3, process.tail()
    assert "only from verified devices" in process.tail()
    writer.close()
    del world.settings["encryption"]
    world.reload()
    async with asyncio.timeout(20):
        while (await world.run_mxrtc("alice", "ping", "build", "-c", "1"))[0] != 0:
            await asyncio.sleep(0.1)


async def test_logging_out_forgets_the_keys(world: World) -> None:
    folder = world.folder / "state-bob"
    assert list(folder.glob("crypto.*"))
    code, _, said = await world.run_mxrtc("bob", "logout")
    assert code == 0, said
    assert not list(folder.glob("crypto.*"))


async def test_where_the_bridge_has_no_devices_a_room_serves_but_for_a_peer_that_was_verified(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate()
    world.settings["encryption"] = {"enabled": "off"}
    await world.add_user("carol")
    world.grant("carol", "build/echo")
    await world.start_bridge()
    world.signal = "auto"
    code, _, said = await world.run_mxrtc("carol", "--signal", "device", "ping", "build", "-c", "1")
    assert (code, "build has none" in said, "leave out --signal device" in said) == (2, True, True), said
    code, _, said = await world.run_mxrtc("carol", "ping", "build", "-c", "1")
    # This homeserver encrypts each new room, so a room does not serve either, and that is said.
    assert (code, "encrypts every new private room" in said) == (2, True), said
    for how in ("auto", "room"):
        code, _, said = await world.run_mxrtc("alice", "--signal", how, "ping", "build", "-c", "1")
        assert (code, "ou have verified build" in said) == (3, True), said
    # The same devices come back.
    del world.settings["encryption"]
    await world.bridge.terminate()
    await world.start_bridge()
    code, _, said = await world.run_mxrtc("alice", "--signal", "device", "ping", "build", "-c", "1")
    assert code == 0, said
