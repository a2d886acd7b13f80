"""What strangers send to a device of ours makes nobody else wait, whatever their servers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.encryption import DeviceId
from mxrtc_bridge.core.ids import RoomId, UserId, server_of
from mxrtc_bridge.core.signal import SIGNAL_TYPE
from mxrtc_bridge.matrix.crypto import receive_budget
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from mxrtc_bridge.matrix.crypto.values import OLM, RoomEncryption, Trust
from tests.matrix.crypto.key_homeserver import PICKLE_KEY, KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore

PEER, ALICE = UserId("@rtc_build:example.org"), UserId("@alice:example.org")


class Server(KeyHomeserver):
    """A homeserver with other servers behind it that do not answer."""

    user = PEER

    def __init__(self) -> None:
        super().__init__()
        self.one_time: list[str] = []
        self.hanging: set[str] = set()
        self.claims = 0

    async def query_keys(self, device: object, users: Sequence[UserId]) -> Mapping[str, object]:
        answer = await super().query_keys(device, users)
        if any(server_of(user) in self.hanging for user in users):
            await asyncio.get_running_loop().create_future()
        return answer

    async def claim_keys(self, _device: object, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Mapping[str, Any]:
        self.claims += 1
        if any(server_of(user) in self.hanging for user in wanted):
            await asyncio.get_running_loop().create_future()
        return {}

    async def make_device(self, *_args: object) -> None: ...

    async def devices(self) -> tuple[DeviceId, ...]:
        return ()

    async def upload_keys(self, _device: object, content: Mapping[str, Any]) -> int:
        self.one_time += [key["key"] for key in content.get("one_time_keys", {}).values()]
        return len(self.one_time)


class Sender:
    """A device of somebody who writes to ours."""

    def __init__(self, user: UserId, server: Server, ours: CryptoDevice, *, proves: bool) -> None:
        self.user, self.ours, self.proves = user, ours, proves
        self.account = OwnAccount.new(user, DeviceId("DEVICE"), PICKLE_KEY)
        server._devices.setdefault(user, {})[self.account.device] = self.account.device_keys()
        self.olm = self.account.olm.create_outbound_session(
            vodozemac.Curve25519PublicKey.from_base64(ours.curve25519),
            vodozemac.Curve25519PublicKey.from_base64(server.one_time.pop()),
        )

    def says(self, event_type: str = SIGNAL_TYPE) -> dict[str, Any]:
        payload = {
            "type": event_type,
            "content": {"from": self.user},
            "sender": self.user,
            "recipient": PEER,
            "recipient_keys": {"ed25519": self.ours.ed25519},
            "keys": {"ed25519": self.account.ed25519},
        }
        if self.proves:
            payload["sender_device_keys"] = self.account.device_keys()
        kind, body = self.olm.encrypt(json.dumps(payload).encode()).to_parts()
        ciphertext = {self.ours.curve25519: {"type": kind, "body": unpadded(body)}}
        content = {"algorithm": OLM, "sender_key": self.account.curve25519, "ciphertext": ciphertext}
        return {"type": "m.room.encrypted", "sender": self.user, "content": content}


async def peer_at(server: Server) -> CryptoDevice:
    device = CryptoDevice(
        server,  # type: ignore[arg-type]
        MemoryStore(),
        user=PEER,
        pickle_key=PICKLE_KEY,
        display_name="peer",
        wall_ms=lambda: 1_000_000_000_000,
    )
    await device.start()
    return device


def answer_of(*events: dict[str, Any]) -> dict[str, Any]:
    return {"to_device": {"events": list(events)}}


@pytest.mark.parametrize("proves", [True, False])
async def test_messages_of_strangers_whose_servers_hang_keep_nobody_elses_waiting(
    monkeypatch: pytest.MonkeyPatch, *, proves: bool
) -> None:
    monkeypatch.setattr(receive_budget, "ASK_S", 0.05)
    server = Server()
    ours = await peer_at(server)
    honest = Sender(ALICE, server, ours, proves=proves)
    strangers = [Sender(UserId(f"@m{n}:evil{n}.test"), server, ours, proves=proves) for n in range(8)]
    server.hanging = {server_of(each.user) for each in strangers}
    async with asyncio.timeout(5):
        events = await ours.receive_sync(answer_of(*(each.says() for each in strangers), honest.says()))
    assert [event.sender for event in events][-1] == ALICE
    assert len([asked for asked in server.asked if asked != (ALICE,)]) == 1, "nobody is asked when the time is over"


async def test_a_server_that_has_let_us_wait_is_not_asked_again_with_the_next_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive_budget, "ASK_S", 0.05)
    server = Server()
    ours = await peer_at(server)
    strangers = [Sender(UserId(f"@m{n}:evil.test"), server, ours, proves=True) for n in range(3)]
    other = Sender(UserId("@carol:other.test"), server, ours, proves=False)
    server.hanging = {"evil.test"}
    async with asyncio.timeout(5):
        for stranger in strangers:
            assert len(await ours.receive_sync(answer_of(stranger.says()))) == 1, "it proves itself"
        (event,) = await ours.receive_sync(answer_of(other.says()))
    assert event.device is not None
    assert event.device.device == "DEVICE"
    assert [user for asked in server.asked for user in asked] == ["@m0:evil.test", "@carol:other.test"]


async def test_broken_messages_of_devices_whose_server_hangs_keep_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive_budget, "ASK_S", 0.05)
    server = Server()
    ours = await peer_at(server)
    honest = Sender(ALICE, server, ours, proves=True)
    await ours.settle("token", {})
    broken = []
    for n in range(5):
        stranger = Sender(UserId(f"@m{n}:evil{n}.test"), server, ours, proves=True)
        await ours.devices_of(stranger.user)  # known from before
        item = stranger.says()
        item["content"]["ciphertext"][ours.curve25519] |= {"type": 1}
        broken.append(item)
    server.hanging = {f"evil{n}.test" for n in range(5)}
    async with asyncio.timeout(5):
        (event,) = await ours.receive_sync(answer_of(*broken, honest.says()))
    assert event.sender == ALICE
    assert server.claims == 1


async def test_a_member_of_a_room_whose_server_hangs_keeps_only_that_room_waiting() -> None:
    server = Server()
    ours = await peer_at(server)
    await ours.settle("token", {})
    honest = Sender(ALICE, server, ours, proves=True)
    server.hanging = {"evil.test"}
    room = RoomEncryption(RoomId("!room:example.org"))
    members = [PEER, UserId("@mallory:evil.test")]
    waiting = [
        asyncio.create_task(ours.prepare_room(room, members, least=Trust.UNSIGNED)),
        asyncio.create_task(ours.encrypt_room_event(room, members, "m.call.answer", {}, least=Trust.UNSIGNED)),
    ]
    while not any("@mallory:evil.test" in asked for asked in server.asked):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        (event,) = await ours.receive_sync(answer_of(honest.says()))
    assert event.sender == ALICE
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
