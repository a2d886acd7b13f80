"""One device of ours in memory, its homeserver, behind which other servers may hang, and those who write to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import vodozemac

from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE
from mxrtc_bridge.core.ids import DeviceId, UserId, server_of
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from mxrtc_bridge.matrix.crypto.values import OLM, ToDeviceEvent
from tests import virtual_time
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

    async def query_keys(self, users: Sequence[UserId]) -> Mapping[str, object]:
        answer = await super().query_keys(users)
        if any(server_of(user) in self.hanging for user in users):
            await asyncio.get_running_loop().create_future()
        return answer

    async def claim_keys(self, _device: object, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Mapping[str, Any]:
        self.claims += 1
        if any(server_of(user) in self.hanging for user in wanted):
            await asyncio.get_running_loop().create_future()
        return {}

    async def make_device(self, *_args: object) -> None: ...

    async def send_to_device(self, *_args: object) -> None: ...

    async def devices(self) -> tuple[DeviceId, ...]:
        return ()

    async def upload_keys(self, device: DeviceId, content: Mapping[str, Any]) -> int:
        if "device_keys" in content:
            self.listed.setdefault(self.user, {})[device] = content["device_keys"]
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

    def says(self, event_type: str = SIGNAL_TYPE, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = {
            "type": event_type,
            "content": content or {"from": self.user},
            "sender": self.user,
            "recipient": PEER,
            "recipient_keys": {"ed25519": self.ours.ed25519},
            "keys": {"ed25519": self.account.ed25519},
        }
        if self.proves:
            payload["sender_device_keys"] = self.account.device_keys()
        kind, body = self.olm.encrypt(json.dumps(payload).encode()).to_parts()
        ciphertext = {self.ours.curve25519: {"type": kind, "body": unpadded(body)}}
        sealed = {"algorithm": OLM, "sender_key": self.account.curve25519, "ciphertext": ciphertext}
        return {"type": "m.room.encrypted", "sender": self.user, "content": sealed}


async def peer_at(server: Server, *, store: MemoryStore | None = None, **options: Any) -> CryptoDevice:
    device = CryptoDevice(
        server,  # type: ignore[arg-type]
        store or MemoryStore(),
        user=PEER,
        pickle_key=PICKLE_KEY,
        display_name="peer",
        wall_ms=lambda: 1_000_000_000_000,
        **options,
    )
    await device.start()
    return device


class Beside:
    """Does at once what a device leaves to others while it reads."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def put(self, _user: UserId, work: Callable[[], Awaitable[object]]) -> bool:
        async def run() -> None:
            await work()

        self._tasks.add(asyncio.create_task(run()))
        return True

    async def idle(self) -> None:
        while any(not task.done() for task in self._tasks):
            await asyncio.gather(*self._tasks)


def answer_of(*events: dict[str, Any]) -> dict[str, Any]:
    return {"to_device": {"events": list(events)}}


class World:
    """A device of ours that reads, what does the rest beside it, and what is handed on, at once or later."""

    def __init__(self, has_right: Callable[[UserId], bool] = lambda _user: False) -> None:
        self.server, self.received = Server(), list[ToDeviceEvent]()
        self.has_right = has_right
        self.work = FairWork("test", "example.org", has_right)
        self.working: asyncio.Task[None]
        self.ours: CryptoDevice
        self.store = MemoryStore()

    def begin_work_anew(self) -> None:
        """Forget all work that goes on, as with the end of a process."""
        self.working.cancel()
        self.work = FairWork("test", "example.org", self.has_right)
        self.working = asyncio.create_task(self.work.run())

    async def deliver(self, _device: CryptoDevice, event: ToDeviceEvent) -> None:
        self.received.append(event)

    async def receives(self, *messages: dict[str, Any], token: str | None = None) -> None:
        """Give the device one answer, which it reads without waiting for any server."""
        answer, loop = answer_of(*messages), asyncio.get_running_loop()
        began_s = loop.time()
        for event in await self.ours.receive_sync(answer):
            await self.deliver(self.ours, event)
        await self.ours.settle(token or f"s{began_s}", answer)
        assert loop.time() == began_s, "reading waits for nobody"


def tell(story: Callable[[World], Awaitable[None]], world: World | None = None) -> None:
    """Tell a story of a device in virtual time."""

    async def run() -> None:
        made = world or World()
        made.working = asyncio.create_task(made.work.run())
        made.ours = await peer_at(made.server, later=made.work.put, store=made.store)
        made.ours.deliver_to(made.deliver)
        try:
            await story(made)
        finally:
            made.working.cancel()
            await asyncio.gather(made.working, return_exceptions=True)

    virtual_time.run(run())
