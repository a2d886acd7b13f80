"""A message in a room, through a real homeserver that asks another one which takes the connection and never answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from mxrtc_bridge.core.crypto.records import RoomEncryption, Trust
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.encrypted_rooms import EncryptedRooms
from mxrtc_bridge.matrix.crypto.key_server import QUERY_TIMEOUT_MS, KeyServer
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import Decrypted, ToDeviceEvent
from tests.conftest import HomeserverFactory
from tests.matrix.crypto.conftest import wall_ms
from tests.matrix.crypto.key_homeserver import PICKLE_KEY
from tests.matrix.crypto.memory import MemoryStore
from tests.synapse import Synapse

pytestmark = [pytest.mark.real, pytest.mark.alone]


@contextlib.asynccontextmanager
async def hanging_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The name of a server that takes connections and says nothing, and whether somebody has come."""
    came, over = asyncio.Event(), asyncio.Event()

    async def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await over.wait()
        writer.close()

    listener = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", came
    finally:
        over.set()
        listener.close()
        await listener.wait_closed()
        await asyncio.sleep(0)


async def _device(synapse: Synapse, name: str, stack: contextlib.AsyncExitStack) -> tuple[CryptoDevice, KeyServer]:
    await synapse.register_user(name, "password")
    login = await synapse.login(name, "password")
    transport = Transport(synapse.url, login.access_token)
    stack.push_async_callback(transport.close)
    user = UserId(login.user_id)
    server = KeyServer(transport, user, masquerade=False)
    device = CryptoDevice(
        server, MemoryStore(), user=user, pickle_key=PICKLE_KEY, display_name="test", wall_ms=wall_ms,
        device=DeviceId(login.device_id),
    )  # fmt: skip
    await device.start()
    return device, server


async def test_members_of_a_room_do_not_wait_for_the_server_of_another_that_hangs(
    make_homeserver: HomeserverFactory,
) -> None:
    settings = {"federation_domain_whitelist": None, "ip_range_blacklist": [], "federation_ip_range_blacklist": []}

    async def ignore(_device: CryptoDevice, _event: ToDeviceEvent) -> None: ...

    async with contextlib.AsyncExitStack() as stack:
        hanging, came = await stack.enter_async_context(hanging_server())
        synapse = await make_homeserver(extra_config=settings)
        (ours, _), (reader, server) = [await _device(synapse, name, stack) for name in ("ours", "reader")]
        room, members = RoomEncryption(RoomId("!room:x")), [ours.user, reader.user, UserId(f"@mallory:{hanging}")]
        rooms = EncryptedRooms(reader, MemoryStore(), None)  # type: ignore[arg-type]
        took_s = []
        for number in range(3):
            began_s = time.monotonic()
            said = await ours.outbound.encrypt(room, members, "m.call.answer", {"n": number}, least=Trust.UNSIGNED)
            took_s.append(time.monotonic() - began_s)
            if not number:
                await DeviceSync(server, reader, ignore).once(0)
            read = await rooms.decrypt(room.room, EventId(f"$event{number}"), ours.user, said)
            assert isinstance(read, Decrypted)
            assert read.content == {"n": number}
        assert came.is_set(), "the homeserver has asked the one that hangs"
        assert max(took_s) < QUERY_TIMEOUT_MS / 1000 / 2
        assert sum(took_s) < QUERY_TIMEOUT_MS / 1000 / 2
