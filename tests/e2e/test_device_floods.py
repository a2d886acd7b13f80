"""Messages to a peer's device that say nothing, of somebody without any right, through a real homeserver."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import vodozemac

from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from mxrtc_bridge.matrix.crypto.values import OLM
from mxrtc_bridge.storage.crypto import TRIM_EVERY
from mxrtc_bridge.storage.crypto_bounds import OLM as SESSIONS
from tests.e2e.identities import OtherClient
from tests.e2e.world import DOMAIN, PASSWORD, World, echo

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

PEER = UserId(f"@rtc_build:{DOMAIN}")
AT_ONCE = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("devicefloods"), stack)
        await world.serve("echo", echo)
        world.signal = "device"
        for name in ("alice", "carol", "dan"):
            world.grant(name, "build/echo")
            await world.add_user(name)
        # One for each test: who has asked for devices that nobody knows waits before the homeserver is asked again.
        for name in ("mallory", "eve"):
            await world.homeserver.register_user(name, PASSWORD)
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        log = world.log_text()
        assert "Traceback" not in log
        # More than 500 messages of one stranger: a line for each kind, and how many were left out, also at the stop.
        about = [line for line in log.splitlines() if f"@mallory:{DOMAIN}" in line]
        assert 0 < len(about) < 30, about
        assert [line for line in about if "more like this that were not written" in line], about


class Mallory:
    """Somebody who writes to a device of the peer, each message the first of a session."""

    def __init__(self, client: OtherClient, device: str, keys: dict[str, str]) -> None:
        self._client = client
        self._device = device
        self._curve25519, self._ed25519 = keys[f"curve25519:{device}"], keys[f"ed25519:{device}"]
        self._account = OwnAccount.new(client.user, DeviceId(client.login.device_id), b"k" * 32)
        self._sent = 0

    @classmethod
    async def log_in(cls, world: World, name: str) -> Mallory:
        client = await OtherClient.log_in(world, name)
        ((device, keys),) = (await client.ask("POST", "keys/query", {"device_keys": {PEER: []}}))["device_keys"][
            PEER
        ].items()
        return cls(client, device, keys["keys"])

    async def list_device(self) -> None:
        """Have the homeserver list the device that :meth:`event` is of."""
        await self._client.ask("POST", "keys/upload", {"device_keys": self._account.device_keys()})

    def event(self, **values: Any) -> bytes:
        """A message that is all right, but for ``values``."""
        event = {
            "type": "org.example.nothing",
            "content": {},
            "sender": self._client.user,
            "recipient": PEER,
            "recipient_keys": {"ed25519": self._ed25519},
            "keys": {"ed25519": self._account.ed25519},
        }
        return json.dumps({**event, **values}).encode()

    async def say(self, plaintext: bytes, *, listed: bool = False) -> None:
        """Begin a session with a key that the homeserver gives, and say something in it; as another device each time,
        or by the one of :meth:`list_device`."""
        account = self._account.olm if listed else vodozemac.Account()
        wanted = {"one_time_keys": {PEER: {self._device: "signed_curve25519"}}}
        ((_, key),) = (await self._client.ask("POST", "keys/claim", wanted))["one_time_keys"][PEER][
            self._device
        ].items()
        session = account.create_outbound_session(
            vodozemac.Curve25519PublicKey.from_base64(self._curve25519),
            vodozemac.Curve25519PublicKey.from_base64(key["key"]),
        )
        kind, body = session.encrypt(plaintext).to_parts()
        await self.send(account.curve25519_key.to_base64(), {self._curve25519: {"type": kind, "body": unpadded(body)}})

    async def send(self, sender_key: Any, ciphertext: Any) -> None:
        content = {"algorithm": OLM, "sender_key": sender_key, "ciphertext": ciphertext}
        self._sent += 1
        path = f"sendToDevice/m.room.encrypted/{self._sent}"
        await self._client.ask("PUT", path, {"messages": {PEER: {self._device: content}}})

    def malformed(self) -> list[tuple[Any, Any]]:
        """Sender keys and ciphertexts that say nothing, or not to us."""
        key, ours = "A" * 43, self._curve25519
        bodies: list[Any] = [{}, [], {"type": 0}, *({"type": kind, "body": "AwogAAAA"} for kind in (0, 1, 2))]
        return [({}, {}), (key, {}), (key, []), (key, {key: {}}), *((key, {ours: body}) for body in bodies)]


async def at_once(*calls: Any) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(call: Any) -> None:
        async with turns:
            await call

    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(in_turn(call))


def stored(folder: Path) -> tuple[dict[str, int], int]:
    """The rows of each table about encryption, and the size of the whole database."""
    with closing(sqlite3.connect(folder / "bridge.db")) as database:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'crypto_%'"
        names = [name for (name,) in database.execute(tables)]
        rows = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
        ((pages,),) = database.execute("PRAGMA page_count")
        ((page,),) = database.execute("PRAGMA page_size")
        return rows, pages * page


async def is_answered(world: World, name: str) -> None:
    """Somebody with a right is answered; as messages are taken in order, those before theirs have been taken too."""
    code, _, said = await world.run_mxrtc(name, "ping", "build", "-c", "1")
    assert code == 0, said


async def test_500_messages_that_say_nothing_leave_nothing(world: World) -> None:
    await is_answered(world, "alice")
    mallory = await Mallory.log_in(world, "mallory")
    forged = OwnAccount.new(UserId(f"@alice:{DOMAIN}"), DeviceId("FORGED"), b"k" * 32)
    texts = [
        b"{}",
        b"",
        b"[]",
        b"{" * 2000,
        b'{"content": {}}',
        mallory.event(),
        mallory.event(sender=f"@alice:{DOMAIN}"),
        mallory.event(recipient=f"@rtcbot:{DOMAIN}"),
        mallory.event(content=[]),
        mallory.event(sender_device_keys=forged.device_keys()),
    ]
    before, bytes_before = stored(world.folder)
    await at_once(
        *(mallory.say(texts[number % len(texts)]) for number in range(500)),
        *(mallory.send(*each) for each in mallory.malformed() * 10),
    )
    await is_answered(world, "alice")
    after, bytes_after = stored(world.folder)
    assert after.pop("crypto_user") <= before.pop("crypto_user") + 1, "that of the sender"
    assert after == before
    assert bytes_after - bytes_before < 100 * 1024
    # Also who has not called before: there is a key left to begin with.
    await is_answered(world, "carol")


async def test_sessions_of_a_device_that_its_user_lists_have_their_share_and_no_more(world: World) -> None:
    share = SESSIONS.bound.of_user + TRIM_EVERY
    await is_answered(world, "alice")
    mallory = await Mallory.log_in(world, "eve")
    await mallory.list_device()
    before, _ = stored(world.folder)
    await at_once(*(mallory.say(mallory.event(), listed=True) for _ in range(share + 150)))
    await is_answered(world, "alice")
    after, _ = stored(world.folder)
    assert 0 < after["crypto_olm"] - before["crypto_olm"] <= share
    await is_answered(world, "dan")
