"""Identities and devices that are lost, copied or replaced in parts: each has what is missing made again."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from urllib.parse import quote

import pytest
import pytest_asyncio

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.cross_signing import identity_content
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from tests.e2e.test_outages import count_events
from tests.e2e.test_restored import PEER, assert_call_by_device, copy, put_back
from tests.e2e.world import World, echo
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("lost"), stack)
        await world.serve("echo", echo)
        world.settings["peers"] = {name: {"services": world.services} for name in ("build", "logs")}
        for name in ("alice", "bob"):
            world.grant(name, "build/echo", "logs/echo")
            await world.add_user(name)
        async with world.homeserver.away():
            copy(list(world.homeserver.folder.glob("homeserver.db*")), world.folder / "before")
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)


async def until_called(world: World, user: str, limit_s: float = 60) -> None:
    async with asyncio.timeout(limit_s):
        while True:
            try:
                return await assert_call_by_device(world, user)
            except AssertionError:
                await asyncio.sleep(1)


async def test_a_homeserver_from_before_the_first_start_gets_users_devices_and_identities_again(world: World) -> None:
    await assert_call_by_device(world, "alice")
    async with world.homeserver.away():
        put_back(world.folder / "before", world.homeserver.folder, "homeserver.db*")
    await until_called(world, "alice")


async def test_identity_that_the_homeserver_has_lost_is_shown_again(world: World) -> None:
    await assert_call_by_device(world, "alice")
    async with world.homeserver.away():
        with closing(sqlite3.connect(world.homeserver.folder / "homeserver.db")) as db, db:
            for table in ("e2e_cross_signing_keys", "e2e_cross_signing_signatures"):
                db.execute(f"DELETE FROM {table} WHERE user_id = ?", (PEER,))
            # Synapse keeps these keys as hidden devices as well.
            db.execute("DELETE FROM devices WHERE user_id = ? AND hidden", (PEER,))
    await until_called(world, "alice")


async def test_two_copies_of_one_state_folder_take_turns(world: World) -> None:
    await assert_call_by_device(world, "bob")
    shutil.copytree(world.folder / "state-bob", world.folder / "state-twin")
    for _ in range(4):
        await assert_call_by_device(world, "twin")
        await assert_call_by_device(world, "bob")


@pytest.mark.parametrize("lost", ["crypto.*", "crypto.key", "crypto.db*"])
async def test_a_state_folder_that_has_lost_a_part(world: World, lost: str) -> None:
    await assert_call_by_device(world, "bob")
    for each in (world.folder / "state-bob").glob(lost):
        each.unlink()
    await assert_call_by_device(world, "bob")


async def test_an_empty_database_of_the_bridge(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    for pattern in ("bridge.db*", "audit*"):
        for each in world.folder.glob(pattern):
            each.unlink()
    await world.start_bridge()
    await assert_call_by_device(world, "alice")


async def test_copies_of_one_state_folder_at_the_same_time_lead_no_call_by_a_room(world: World) -> None:
    shutil.copytree(world.folder / "state-bob", world.folder / "state-copy")
    calls = [world.run_mxrtc(name, "--json", "ping", "-c", "1", "build") for name in ("bob", "copy") * 2]
    said = [out.decode() for _, out, _ in await asyncio.gather(*calls)]
    assert not any('"signalling": "room"' in out for out in said)
    await until_called(world, "bob")
    await until_called(world, "copy")


async def test_another_identity_of_one_peer_is_told_at_both_ends_and_the_other_peer_goes_on(world: World) -> None:
    await assert_call_by_device(world, "alice")
    other = identity_content(UserId(PEER), IdentityKeys.derived(b"x" * 32, UserId(PEER)))
    path = f"/_matrix/client/v3/keys/device_signing/upload?user_id={quote(PEER)}"
    await world.homeserver.request("POST", path, token="as" * 24, body=other)
    code, out, _ = await world.run_mxrtc("alice", "--json", "ping", "-c", "1", "build")
    assert (code, "shows another identity than before" in out.decode()) == (3, True), out
    await assert_call_by_device(world, "alice", "logs")
    await until(lambda: "shows another identity than our key makes" in world.log_text(), 60)
    assert await count_events(world, "m.room.create") == 0, "no call has left the devices"


async def test_another_identity_of_one_peer_at_a_start_is_that_peers_until_ours_is_shown_again(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    code, said = await world.run_admin("check")
    assert (code, f"not everybody is served: {PEER} shows another identity" in said) == (1, True), said
    await world.start_bridge()
    line = await world.bridge.wait_for_line("WARNING.*not everybody is served.*", 20)
    assert (PEER in line[0], "--new-identity" in line[0]) == (True, True)
    await assert_call_by_device(world, "alice", "logs")
    await world.add_user("carol")  # who has seen no other identity
    world.grant("carol", "build/echo", "logs/echo")
    world.write_config()
    code, said = await world.run_admin("reload")
    assert (code, "accounts of peers" in said) == (1, True), said
    for world.signal, words in (("device", "no device with a signed identity"), ("room", "shows another identity")):
        code, _, said = await world.run_mxrtc("carol", "ping", "-c", "1", "build")
        assert (code, words in said) == (1, True), said
    world.signal = "auto"
    code, said = await world.run_admin("check")
    assert (code, f"not everybody is served: {PEER} shows another identity" in said) == (1, True), said
    async with world.homeserver.away():
        with closing(sqlite3.connect(world.homeserver.folder / "homeserver.db")) as db, db:
            for table in ("e2e_cross_signing_keys", "e2e_cross_signing_signatures"):
                db.execute(f"DELETE FROM {table} WHERE user_id = ?", (PEER,))
            db.execute("DELETE FROM devices WHERE user_id = ? AND hidden", (PEER,))
    await until_called(world, "alice", 120)
    await world.bridge.wait_for_line("shows our identity again", 5)
