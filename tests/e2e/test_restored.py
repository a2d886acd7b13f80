"""Databases, state folders and homeservers that are put back from a copy: calls by devices just go on."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import ManagedProcess
from mxrtc_bridge.matrix.crypto.account import KEYS_WANTED
from tests.e2e.identities import own_device
from tests.e2e.test_outages import count_events
from tests.e2e.world import DOMAIN, World, echo
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PAGE = Path(__file__).parent.parent.parent / "docs/how-to/backup.md"
PEER = f"@rtc_build:{DOMAIN}"
KEPT = ("config.yaml", "registration.yaml", "encryption.key")
TAKEN = KEYS_WANTED - 20

WRONG_CLOCK = """
import sys, time
right, off_ns = time.time_ns, int(sys.argv.pop(1)) * 1_000_000_000
time.time_ns = lambda: right() + off_ns
from mxrtc_bridge.cli.client.main import main
sys.exit(main())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("restored"), stack)
        await world.serve("echo", echo)
        for name in ("alice", "bob", "carol"):
            world.grant(name, "build/echo")
            await world.add_user(name)
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()
        assert await count_events(world, "m.room.create") == 0, "no call has left the devices"


async def devices_of(world: World, user: str) -> list[str]:
    _, token = own_device(world, "alice")
    answer = await world.homeserver.request(
        "POST", "/_matrix/client/v3/keys/query", token=token, body={"device_keys": {user: []}}
    )
    return list(answer["device_keys"][user])


async def take_keys(world: World, user: str) -> None:
    """Take keys of a user's only device, so many that it makes new ones."""
    _, token = own_device(world, "bob")
    (device,) = await devices_of(world, user)
    wanted = {"one_time_keys": {user: {device: "signed_curve25519"}}}
    for _ in range(TAKEN):
        await world.homeserver.request("POST", "/_matrix/client/v3/keys/claim", token=token, body=wanted)


def keys_left(world: World, user: str) -> int:
    with closing(sqlite3.connect(world.homeserver.folder / "homeserver.db")) as connection:
        row = connection.execute("SELECT count(*) FROM e2e_one_time_keys_json WHERE user_id = ?", (user,)).fetchone()
    return int(row[0])


def copy(files: list[Path], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for each in files:
        shutil.copy2(each, folder)
    return folder


def put_back(copied: Path, folder: Path, pattern: str) -> None:
    for each in folder.glob(pattern):
        each.unlink()
    for each in copied.iterdir():
        shutil.copy2(each, folder)


async def assert_call_by_device(world: World, user: str, peer: str = "build") -> None:
    code, out, said = await world.run_mxrtc(user, "--json", "ping", "-c", "1", peer)
    assert code == 0, out.decode()[-600:] + said + world.log_text()[-3000:]
    (connected,) = [each for each in map(json.loads, out.splitlines()) if each["kind"] == "connected"]
    assert (connected["signalling"], connected["end_to_end"]) == ("device", True)
    assert connected["peer_trust"] == "cross-signed"


async def test_a_database_of_the_bridge_that_is_put_back_twice_costs_its_devices_and_no_identity(world: World) -> None:
    assert world.bridge is not None
    await assert_call_by_device(world, "alice")
    await world.bridge.terminate(20)
    kept = copy([*world.folder.glob("bridge.db*"), *world.folder.glob("audit*")], world.folder / "kept")
    await world.start_bridge()
    await take_keys(world, PEER)
    await assert_call_by_device(world, "alice")  # which wakes up the device that makes new ones
    await until(lambda: keys_left(world, PEER) >= KEYS_WANTED, 30)
    for _ in range(2):
        before = await devices_of(world, PEER)
        await world.bridge.terminate(20)
        put_back(kept, world.folder, "bridge.db*")
        put_back(kept, world.folder, "audit*")
        await world.start_bridge()
        after = await devices_of(world, PEER)
        assert len(after) == 1
        assert after != before
        await assert_call_by_device(world, "alice")


def shown(heading: str, world: World) -> str:
    """The commands that the page about backups shows, for the folder of this bridge, and without a service manager."""
    part = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    lines = [line for line in block.splitlines() if not line.startswith(("systemctl ", "chown "))]
    names = {"/var/lib/mxrtc": str(world.folder), "/somewhere/safe": str(world.folder / "safe")}
    text = "\n".join(lines).replace("mxrtc-bridge.db", "bridge.db")
    for name, here in names.items():
        text = text.replace(name, here)
    return text


async def carry_out(commands: str) -> None:
    shell = await asyncio.create_subprocess_exec("sh", "-euc", commands, stderr=asyncio.subprocess.PIPE)
    _, said = await shell.communicate()
    assert (shell.returncode, said.decode()) == (0, "")


async def test_a_bridge_that_is_backed_up_while_it_runs_and_lost_is_the_same_when_it_is_restored(world: World) -> None:
    assert world.bridge is not None
    await assert_call_by_device(world, "alice")
    before = {name: (world.folder / name).read_bytes() for name in KEPT}
    await carry_out(shown("Back up", world))
    safe = world.folder / "safe"
    assert {f"{each.stat().st_mode & 0o077:o}" for each in (safe, safe / "bridge.db", safe / "encryption.key")} == {"0"}
    await assert_call_by_device(world, "bob")
    world.bridge.kill()
    await world.bridge.wait(20)
    for each in before:
        (world.folder / each).unlink()
    assert (world.folder / "bridge.db-wal").exists(), "what must not be written into the old database"
    await carry_out(shown("Restore", world))
    assert {name: (world.folder / name).read_bytes() for name in before} == before
    assert not (world.folder / "bridge.db-wal").exists()
    await world.start_bridge()
    for user in ("alice", "bob"):
        await assert_call_by_device(world, user)
    assert not (world.folder / "audit-refused.jsonl").exists()


async def test_a_device_of_a_peer_that_the_homeserver_deletes_while_the_bridge_runs_gets_a_successor(
    world: World,
) -> None:
    """As its removal of devices does that were not seen for long (``delete_stale_devices_after``)."""
    await assert_call_by_device(world, "alice")
    (before,) = await devices_of(world, PEER)
    path = f"/_matrix/client/v3/devices/{before}?user_id={quote(PEER)}"
    await world.homeserver.request("DELETE", path, token="as" * 24, body={})
    await assert_call_by_device(world, "alice")
    (after,) = await devices_of(world, PEER)
    assert after != before


async def test_a_state_folder_that_is_put_back_twice_goes_on_calling_with_the_same_device(world: World) -> None:
    await assert_call_by_device(world, "bob")
    state, (device, _) = world.folder / "state-bob", own_device(world, "bob")
    kept = copy(list(state.glob("crypto.*")), world.folder / "kept-state")
    for _ in range(2):
        await take_keys(world, f"@bob:{DOMAIN}")
        await assert_call_by_device(world, "bob")
        assert keys_left(world, f"@bob:{DOMAIN}") >= KEYS_WANTED - 5
        put_back(kept, state, "crypto.*")
        await assert_call_by_device(world, "bob")
        assert await devices_of(world, f"@bob:{DOMAIN}") == [device]


async def test_a_homeserver_that_is_put_back_while_the_bridge_runs_is_followed_with_the_first_call(
    world: World,
) -> None:
    async with world.homeserver.away():
        kept = copy(list(world.homeserver.folder.glob("homeserver.db*")), world.folder / "kept-homeserver")
    await assert_call_by_device(world, "alice")
    await assert_call_by_device(world, "bob")
    async with world.homeserver.away():
        put_back(kept, world.homeserver.folder, "homeserver.db*")
    await assert_call_by_device(world, "carol")
    await assert_call_by_device(world, "alice")


@pytest.mark.parametrize("off_s", [150, -150])
async def test_a_clock_that_is_wrong_is_named_with_both_times_and_no_room_is_asked(world: World, off_s: int) -> None:
    world._runs += 1
    command = [sys.executable, "-c", WRONG_CLOCK, str(off_s), "ping", "-c", "1", "build"]
    began = time.monotonic()
    async with ManagedProcess(f"clock-{world._runs}", command, folder=world.folder, env=world.env("alice")) as process:
        code = await process.wait(30)
        said = process.output("stderr").decode()
    assert code == 1, said
    assert "your clock and the bridge's are apart: here 20" in said
    assert time.monotonic() - began < 10


async def test_a_bridge_that_is_down_has_nothing_said_in_a_room(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    code, _, said = await world.run_mxrtc("alice", "ping", "-c", "1", "build")
    assert code == 4, said
    await world.start_bridge()
    await assert_call_by_device(world, "alice")
