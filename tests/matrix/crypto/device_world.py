"""One device of ours in memory, its homeserver, behind which other servers may hang, and those who write to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import vodozemac

from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE
from mxrtc_bridge.core.ids import DeviceId, UserId, server_of
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from mxrtc_bridge.matrix.crypto.values import OLM
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
        server.listed.setdefault(user, {})[self.account.device] = self.account.device_keys()
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


async def peer_at(server: Server, **options: Any) -> CryptoDevice:
    device = CryptoDevice(
        server,  # type: ignore[arg-type]
        MemoryStore(),
        user=PEER,
        pickle_key=PICKLE_KEY,
        display_name="peer",
        wall_ms=lambda: 1_000_000_000_000,
        **options,
    )
    await device.start()
    return device


def answer_of(*events: dict[str, Any]) -> dict[str, Any]:
    return {"to_device": {"events": list(events)}}
