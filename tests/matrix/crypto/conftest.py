"""Devices at the real homeserver of the folder above: of peers (masquerading) and of people (with a token)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio

from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.encrypted_rooms import EncryptedRooms
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys, pickle_key
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from tests.matrix.conftest import BridgeWorld
from tests.matrix.crypto.memory import MemoryStore

KEY = b"k" * 32


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class End:
    """One device with what it has received."""

    user: UserId
    transport: Transport
    device: CryptoDevice
    sync: DeviceSync
    store: DeviceStore
    work: FairWork
    """Does what the device leaves to others while it reads."""
    received: list[ToDeviceEvent] = field(default_factory=list)

    @property
    def rooms(self) -> EncryptedRooms:
        return EncryptedRooms(self.device, self.store, self.homeserver)

    @property
    def homeserver(self) -> Homeserver:
        return Homeserver(self.transport)

    async def once(self) -> int:
        """Take what is there now; returns how many messages were handed on."""
        before = len(self.received)
        await self.sync.once(0)
        await self.work.idle()
        return len(self.received) - before

    async def until_received(self, count: int = 1) -> ToDeviceEvent:
        while len(self.received) < count:
            await self.sync.once(5)
            await self.work.idle()
        return self.received[count - 1]


MakeEnd = Callable[..., Awaitable[End]]


@pytest_asyncio.fixture(loop_scope="session")
async def make_end(bridge_world: BridgeWorld) -> AsyncIterator[MakeEnd]:
    """A factory: ``peer=True`` is a virtual user with a cross-signed device, else a person who has logged in."""
    transports: list[Transport] = []
    work = FairWork("test", "localhost", lambda _user: True)
    running = asyncio.create_task(work.run())
    url = bridge_world.synapse.url

    async def make(*, peer: bool, user: UserId | None = None, store: DeviceStore | None = None, **options: Any) -> End:
        retry, device = RetryPolicy(total_s=5), None
        if peer:
            user = user or bridge_world.peer()
            transport = Transport(url, bridge_world.as_token, RequestPolicy(retry))
            await Homeserver(transport).register_user(user)
            options.setdefault("identity", IdentityKeys.derived(KEY, user))
        else:
            name, password = f"crypto-{secrets.token_hex(4)}", secrets.token_hex(8)
            await bridge_world.synapse.register_user(name, password)
            login = await bridge_world.synapse.login(name, password)
            user, device = UserId(login.user_id), DeviceId(login.device_id)
            transport = Transport(url, login.access_token, RequestPolicy(retry))
        transports.append(transport)
        server = KeyServer(transport, user, masquerade=peer)
        kept = store or MemoryStore()
        options = {"wall_ms": wall_ms, "display_name": "test", "pickle_key": pickle_key(KEY), **options}
        options.setdefault("later", work.put)
        made = CryptoDevice(server, kept, user=user, device=device, **options)
        await made.start()
        end: End

        async def take(_: CryptoDevice, event: ToDeviceEvent) -> None:
            end.received.append(event)

        end = End(user, transport, made, DeviceSync(server, made, take), kept, work)
        return end

    yield make
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    for transport in transports:
        await transport.close()


async def encrypted_room(person: End, peer: End) -> RoomId:
    """A room of the two, encrypted from its beginning."""
    room = await person.homeserver.create_direct_room(peer.user)
    await peer.homeserver.join(room, peer.user)
    return room
