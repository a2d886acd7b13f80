"""Calls from encrypted direct chats, by the crypto that Element has: a real homeserver that encrypts every new room."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import ifaddr
import pytest

from tests.e2e.pages import run_page
from tests.e2e.test_control import admin
from tests.e2e.world import DOMAIN, PASSWORD, World, echo

pytestmark = pytest.mark.real

PEER, BOT = f"@rtc_build:{DOMAIN}", f"@rtcbot:{DOMAIN}"
DEFAULT_ENCRYPTED = {"encryption_enabled_by_default_for_room_type": "all"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack, extra_config=DEFAULT_ENCRYPTED)
        await world.serve("raw-echo", echo, raw=True)
        world.grant("alice", "build/raw-echo")
        world.settings["ice"] = {"interfaces": [], "remote": {"loopback": True, "private": True}}
        await world.homeserver.register_user("alice", PASSWORD)
        yield world


async def keys_of_peer(world: World) -> dict[str, Any]:
    login = await world.homeserver.login("alice", PASSWORD)
    path, body = "/_matrix/client/v3/keys/query", {"device_keys": {PEER: []}}
    answer = await world.homeserver.request("POST", path, token=login.access_token, body=body)
    return {"devices": sorted(answer["device_keys"][PEER]), "master": answer["master_keys"][PEER]["keys"]}


def assert_good_call(result: dict[str, Any], device: str) -> None:
    assert "failed" not in result, result
    assert result["equal"], "bytes pass unchanged"
    assert result["encrypted"]
    assert [(each["device"], each["signedByOwner"]) for each in result["devices"]] == [(device, True)]
    assert "m.call.answer" in {each["type"] for each in result["said"]}
    for each in result["said"]:
        assert each["encrypted"], each
        assert not each["failed"], each
        assert (each["device"], each["shield"]) == (device, 0), "no warning beside anything that the peer says"


def everything_stored(world: World) -> str:
    """All text in the homeserver's database."""
    with closing(sqlite3.connect(world.homeserver.folder / "homeserver.db")) as connection:
        connection.text_factory = lambda data: data.decode(errors="replace")
        return "\n".join(connection.iterdump())


async def test_call_from_a_default_encrypted_chat_passes_bytes_and_leaves_nothing_behind(
    world: World, tmp_path: Path
) -> None:
    """Before and after a restart, and after the database was lost: always the peer's own, cross-signed device."""
    bridge = await world.start_bridge()
    before = await keys_of_peer(world)
    (device,) = before["devices"]
    assert_good_call(await run_page("encrypted.js", "encryptedCall", world, tmp_path, sign=True), device)

    await bridge.terminate()
    bridge = await world.start_bridge()
    assert await keys_of_peer(world) == before
    assert_good_call(await run_page("encrypted.js", "encryptedCall", world, tmp_path, isolate=False), device)

    await bridge.terminate()
    for file in world.folder.glob("bridge.db*"):
        file.unlink()
    await world.start_bridge()
    after = await keys_of_peer(world)
    (second,) = after["devices"]
    assert second != device
    assert after["master"] == before["master"], "nobody sees a change of identity"
    assert_good_call(await run_page("encrypted.js", "encryptedCall", world, tmp_path), second)

    stored = everything_stored(world)
    assert "m.room.encrypted" in stored
    for word in ("m=application", "a=candidate", "a=fingerprint", "typ host", "ice-ufrag"):
        assert word not in stored
    addresses = {str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4}
    for address in addresses - {"127.0.0.1"}:
        assert address not in stored
    assert "v=0" not in world.log_text()


async def test_commands_in_an_encrypted_chat_with_the_bot_are_answered_encrypted(world: World, tmp_path: Path) -> None:
    await world.start_bridge()
    bodies = ["peers", "how build/raw-echo", "nonsense"]
    result = await run_page("encrypted.js", "encryptedChat", world, tmp_path, sign=True, bot=BOT, bodies=bodies)
    assert "failed" not in result, result
    said = result["said"]
    for each in said:
        assert each["encrypted"], each
        assert not each["failed"], each
        assert each["shield"] == 0, each
    wanted = ["You may use:", "build/raw-echo", 'I do not know "nonsense"']
    assert [word in each["body"] for word, each in zip(wanted, said, strict=True)] == [True] * 3, said
    assert "raw-echo" not in everything_stored(world)


async def test_a_key_that_was_lost_is_asked_for_and_given_again_by_the_client(world: World, tmp_path: Path) -> None:
    """As when the message with the key could not be read: the next ones of the same session can be all the same."""

    async def before(body: str) -> None:
        if body != "peers":
            return
        assert world.bridge is not None
        await world.bridge.terminate()
        with closing(sqlite3.connect(world.folder / "bridge.db")) as database:
            assert database.execute("DELETE FROM crypto_inbound").rowcount == 1
            database.commit()
        await world.start_bridge()

    await world.start_bridge()
    options: dict[str, Any] = {
        "sign": True,
        "bot": BOT,
        "bodies": ["help", "how build/raw-echo", "peers"],
        "exposed": {"before": before},
    }
    result = await run_page("encrypted.js", "encryptedChat", world, tmp_path, **options)
    assert "failed" not in result, result
    assert "You may use:" in result["said"][-1]["body"], result
    assert "the key of a room of @alice:example.test is asked for" in world.log_text()


async def test_clients_that_exclude_insecure_devices_call_and_the_policy_asks_for_the_same(
    world: World, tmp_path: Path
) -> None:
    world.settings["encryption"] = {"enabled": "on", "devices": "cross-signed"}
    await world.start_bridge()
    (device,) = (await keys_of_peer(world))["devices"]
    refused = await run_page("encrypted.js", "refusedCall", world, tmp_path)
    assert "failed" not in refused, refused
    bodies = [each["body"] for each in refused["said"] if each["body"]]
    assert all("verified devices" in body for body in bodies), json.dumps(refused["said"])
    result = await run_page("encrypted.js", "encryptedCall", world, tmp_path, sign=True, isolate=True)
    assert_good_call(result, device)


async def test_another_identity_than_before_is_refused_until_the_admin_accepts_it(world: World, tmp_path: Path) -> None:
    world.settings["encryption"] = {"enabled": "on", "devices": "cross-signed"}
    await world.start_bridge()
    (device,) = (await keys_of_peer(world))["devices"]
    assert_good_call(await run_page("encrypted.js", "encryptedCall", world, tmp_path, sign=True), device)

    async def accepted() -> None:
        code, out, err = await admin(world, "trust", "@alice:example.test", "--key", "A" * 43)
        assert (code, "not the one that you gave" in err) == (1, True), out + err
        code, out, err = await admin(world, "trust", "@alice:example.test")
        assert (code, "is known by the identity" in out, "before" in out) == (0, True, True), out + err

    # Another session without the keys of the first makes a new identity.
    options: dict[str, Any] = {"sign": True, "exposed": {"accepted": accepted}}
    result = await run_page("encrypted.js", "refusedCall", world, tmp_path, **options)
    assert result.get("taken"), result
    bodies = [each["body"] for each in result["said"] if each["body"]]
    assert all("another identity" in body for body in bodies), bodies
    assert "on purpose? mxrtc-bridge trust @alice:example.test" in world.log_text()
    _, out, _ = await admin(world, "log")
    assert "has judged the identity of @alice:example.test" in out
