"""A whole bridge on PostgreSQL: calls, keys, verification, the audit and grants, before and after a restart."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mxrtc_bridge.storage.pooler import POOL_SIZE
from tests.e2e.pages import run_page
from tests.e2e.test_control import admin
from tests.e2e.test_encrypted_rooms import DEFAULT_ENCRYPTED, assert_good_call, keys_of_peer
from tests.e2e.test_verify import ALICE, Verifying, waiting
from tests.e2e.world import World, echo
from tests.storage import postgres
from tests.storage.pgbouncer import pooling

pytestmark = pytest.mark.real


@pytest.fixture(params=["directly", "through a pooler"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    programs = postgres.find_programs()
    assert programs is not None, "PostgreSQL is among the packages of .ci/packages"
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.running(programs))
        if request.param == "through a pooler":
            url = stack.enter_context(pooling(url, "transaction", size=POOL_SIZE))
        world = await World.start(tmp_path, stack, settings={"database": url}, extra_config=DEFAULT_ENCRYPTED)
        await world.serve("raw-echo", echo, raw=True)
        await world.serve("echo", echo, grantable_to=[ALICE])
        world.grant("alice", "build/raw-echo")
        world.settings["ice"] = {"interfaces": [], "remote": {"loopback": True, "private": True}}
        await world.add_user("alice")
        yield world


async def test_everything_that_is_remembered_is_there_after_a_restart(world: World, tmp_path: Path) -> None:
    bridge = await world.start_bridge()
    before = await keys_of_peer(world)
    (device,) = before["devices"]
    assert_good_call(await run_page("encrypted.js", "encryptedCall", world, tmp_path, sign=True), device)
    async with Verifying(world, "build") as verifying:
        await verifying.says("compare")
        code, _, err = await admin(world, "verify", str((await waiting(world))["number"]), "--same")
        assert code == 0, err
        verifying.answer("yes")
        identity = (await verifying.says("verified"))["identity"]
        assert await verifying.ends() == 0
    code, _, err = await admin(world, "grant", ALICE, "build/echo", "--for", "2h")
    assert code == 0, err

    code, said = await world.run_admin("run")
    assert (code, "nother bridge uses the database 'postgres'; stop it before this one" in said) == (1, True), said

    await bridge.terminate()
    await world.start_bridge()
    assert await keys_of_peer(world) == before
    assert_good_call(await run_page("encrypted.js", "encryptedCall", world, tmp_path), device)
    code, out, err = await world.run_mxrtc("alice", "--json", "ls")
    assert code == 0, err
    services = {each["name"]: each for each in map(json.loads, out.splitlines()) if each["kind"] == "service"}
    assert set(services) == {"build/raw-echo", "build/echo"}
    assert services["build/echo"]["until"] is not None
    code, out, err = await world.run_mxrtc("alice", "--json", "ping", "-c", "1", "build")
    assert code == 0, err
    connected = next(each for each in map(json.loads, out.splitlines()) if each["kind"] == "connected")
    assert (connected["signalling"], connected["peer_trust"]) == ("device", "verified")
    assert identity in before["master"].values()
    code, out, err = await admin(world, "audit", "verify")
    assert code == 0, out + err
