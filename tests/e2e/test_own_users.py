"""Who counts as whom, at a real homeserver: accounts of people, identities that are there already, and guests."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.cross_signing import identity_content
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from tests.e2e.people import Person
from tests.e2e.world import DOMAIN, PASSWORD, World, echo, payload

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PEER = f"@rtc_build:{DOMAIN}"
EXIT_CONFIG = 78


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(
            tmp_path_factory.mktemp("own-users"), stack, exclusive=False, extra_config={"allow_guest_access": True}
        )
        world.signal = "device"
        await world.serve("echo", echo)
        world.grants.append({"id": "staff", "from": [f"server:{DOMAIN}"], "to": ["build/echo"]})
        await world.add_user("alice")
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


async def person(world: World, http: ClientSession, name: str) -> Person:
    """A person with a session and an identity, by a name that a peer could have."""
    await world.homeserver.register_user(name, PASSWORD)
    made = await Person.log_in(world, name, http)
    await publish(made, IdentityKeys.derived(secrets.token_bytes(32), UserId(made.user_id)))
    return made


async def publish(somebody: Person, keys: IdentityKeys) -> None:
    await somebody.ask("POST", "keys/device_signing/upload", identity_content(UserId(somebody.user_id), keys))


async def account(asker: Person, user: str) -> Any:
    """What everybody can see of an account: its identity, devices and name."""
    keys = await asker.ask("POST", "keys/query", {"device_keys": {user: []}})
    return keys["master_keys"].get(user), keys["device_keys"].get(user), await asker.ask("GET", f"profile/{user}")


async def restart(world: World, *options: str) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    await world.start_bridge(*options)


def with_peers(world: World, *names: str) -> None:
    """Peers beside ``build``, for which nothing is granted."""
    service = {"web": {"target": "tcp:127.0.0.1:1"}}
    world.settings["peers"] = {"build": {"services": world.services}, **{name: {"services": service} for name in names}}


async def test_a_guest_is_no_user_of_the_server_and_is_let_in_as_a_guest_only(
    world: World, http: ClientSession
) -> None:
    url = f"{world.homeserver.url}/_matrix/client/v3/register?kind=guest"
    async with http.post(url, json={}) as response:
        answer = await response.json()
    guest = answer["user_id"]
    state = StateFolder(Path(world.env("guest")["MXRTC_STATE"]))
    state.save_login(Login(world.homeserver.url, guest, answer["device_id"], answer["access_token"]))
    data = payload(1000)
    assert (await world.run_mxrtc("alice", "nc", "build/echo", stdin=data))[:2] == (0, data)
    code, _, said = await world.run_mxrtc("guest", "nc", "build/echo", stdin=data)
    assert code == 3, said
    assert (await world.run_admin("explain", guest, "build/echo"))[0] == 3
    world.grants.append({"id": "kiosk", "from": [f"guest-accounts:{DOMAIN}"], "to": ["build/echo"]})
    assert world.bridge is not None
    mark = world.bridge.mark()
    world.reload()
    await world.bridge.wait_for_line("configuration reloaded", 20, after=mark)
    assert (await world.run_mxrtc("guest", "nc", "build/echo", stdin=data))[:2] == (0, data)
    assert "allow: grant kiosk" in (await world.run_admin("explain", guest, "build/echo"))[1]
    world.settings["deny"] = [f"server:{DOMAIN}:8449"]
    world.write_config()
    assert (await world.run_admin("explain", guest, "build/echo"))[0] == 3
    del world.settings["deny"]


async def test_an_account_of_a_person_is_taken_over_on_purpose_only(world: World, http: ClientSession) -> None:
    bill = await person(world, http, "rtc_bill")
    before = await account(bill, bill.user_id)
    with_peers(world, "bill")
    await restart(world)
    (line,) = [each for each in world.log_text().splitlines() if f"{bill.user_id} exists at the homeserver" in each]
    assert ("WARNING" in line, f"--adopt {bill.user_id}" in line) == (True, True), line
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    assert world.bridge is not None
    await world.bridge.terminate(20)
    code, said = await world.run_admin("check")
    assert (code, f"--adopt {bill.user_id}" in said) == (1, True), said
    code, said = await world.run_admin("run", "--adopt", f"@rtc_nobody:{DOMAIN}")
    assert (code, "there is no such user" in said) == (EXIT_CONFIG, True), said
    assert await account(bill, bill.user_id) == before
    await world.start_bridge("--adopt", bill.user_id)
    alice = await Person.log_in(world, "alice", http)
    master, devices, profile = await account(alice, bill.user_id)
    assert master != before[0]
    assert len(devices) == 1
    assert profile["displayname"] == "bill"
    await bill.ask("GET", "account/whoami", status=401)
    assert "was taken over" in (await world.run_admin("log"))[1]
    await restart(world)
    assert (await account(alice, bill.user_id))[0] == master


async def test_a_new_peer_with_a_persons_account_leaves_the_rest_of_a_reload_in_force(
    world: World, http: ClientSession
) -> None:
    carl = await person(world, http, "rtc_carl")
    before = await account(carl, carl.user_id)
    with_peers(world, "bill", "carl", "dora")
    assert world.bridge is not None
    mark = world.bridge.mark()
    code, said = await world.run_admin("reload")
    assert "accounts of peers" in said, (code, said)
    line = await world.bridge.wait_for_line("accounts of peers of the new configuration: .*", 20, after=mark)
    assert f"{carl.user_id} exists at the homeserver already" in line[0]
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    master, devices, _ = await account(carl, f"@rtc_dora:{DOMAIN}")
    assert master is not None
    assert len(devices) == 1
    # Nobody speaks for the person either: an invitation stays open.
    alice = await Person.log_in(world, "alice", http)
    made = await alice.ask("POST", "createRoom", {"preset": "private_chat", "invite": [carl.user_id]})
    await alice.direct(PEER)
    member = await alice.ask("GET", f"rooms/{made['room_id']}/state/m.room.member/{carl.user_id}")
    assert member["membership"] == "invite"
    assert await account(carl, carl.user_id) == before
    with_peers(world, "bill", "dora")


async def test_another_key_replaces_no_identity_unasked(world: World, http: ClientSession) -> None:
    alice = await Person.log_in(world, "alice", http)
    before = await account(alice, PEER)
    key_file = world.folder / "encryption.key"
    key = key_file.read_text()
    assert world.bridge is not None
    await world.bridge.terminate(20)
    for other in ("another key of more than thirty-two characters\n", None):
        key_file.unlink()
        if other is not None:
            key_file.write_text(other)
            key_file.chmod(0o600)
        code, said = await world.run_admin("run")
        assert code == EXIT_CONFIG, said
        assert str(key_file) in said
        assert "--new-identity" in said
        if other is not None:
            code, said = await world.run_admin("check")
            assert (code, "--new-identity" in said) == (1, True), said
        assert key_file.exists() is (other is not None), "no key is made in place of one that was lost"
        if other is None:
            key_file.touch()
        assert await account(alice, PEER) == before
    key_file.write_text(key)
    key_file.chmod(0o600)
    # With the key, a lost database is no reason to ask.
    for file in world.folder.glob("bridge.db*"):
        file.unlink()
    await world.start_bridge()
    master, devices, _ = await account(alice, PEER)
    assert master["keys"] == before[0]["keys"]
    await world.bridge.terminate(20)
    # Both are lost, or this is a second installation: the devices are those of a bridge, so one word is enough.
    for file in world.folder.glob("bridge.db*"):
        file.unlink()
    key_file.write_text("another key of more than thirty-two characters\n")
    code, said = await world.run_admin("run")
    assert (code, "--new-identity" in said, "--adopt" in said) == (EXIT_CONFIG, True, False), said
    assert (await account(alice, PEER))[0] == master
    await world.start_bridge("--new-identity")
    assert (await account(alice, PEER))[0]["keys"] != before[0]["keys"]
    assert len((await account(alice, PEER))[1]) == len(devices) == 1
    assert "identity is replaced" in (await world.run_admin("log"))[1]
    await restart(world)


async def test_identities_that_appear_at_a_peer_and_the_bot_are_not_replaced_and_others_serve(
    world: World, http: ClientSession
) -> None:
    """Somebody else with the token of the application service, while the bridge is down."""
    assert world.bridge is not None
    await world.bridge.terminate(20)
    config = json.loads((world.folder / "config.yaml").read_text())
    headers = {"Authorization": f"Bearer {config['appservice']['as_token']}"}
    for user in (PEER, f"@rtcbot:{DOMAIN}"):
        content = identity_content(UserId(user), IdentityKeys.derived(secrets.token_bytes(32), UserId(user)))
        url = f"{world.homeserver.url}/_matrix/client/v3/keys/device_signing/upload?user_id={user}"
        async with http.post(url, json=content, headers=headers) as response:
            assert response.status == 200, await response.text()
    await world.start_bridge()
    line = await world.bridge.wait_for_line(".*not everybody is served.*", 20)
    assert f"{PEER}, @rtcbot:{DOMAIN} shows another identity" in line[0]
    await world.bridge.wait_for_line("encryption is on: 2 devices", 20)
    assert (await world.run_admin("who"))[0] == 0, "the commands at the bridge's machine need no bot"
    await world.bridge.terminate(20)
    # The homeserver takes no identity back that it has had: only a new key helps.
    (world.folder / "encryption.key").write_text("a third key of more than thirty-two characters\n")
    await world.start_bridge("--new-identity")
