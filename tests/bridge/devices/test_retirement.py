"""Devices that nobody reads for are taken away, each for itself, and come back with their keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices.retirement import retire
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.storage.tables import open_stores
from tests.bridge.devices.test_devices import USER, KeyServerDouble, made, server, start
from tests.bridge.homeserver import PEER

__all__ = ["server"]

OTHER, NEVER_UP = (UserId(PEER.replace("build", name)) for name in ("other", "never"))


@pytest.mark.parametrize("trouble", [None, "defect", "hangs"])
async def test_devices_are_taken_away_each_for_itself_and_come_back_with_their_keys(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str | None
) -> None:
    before = await master_keys(server)
    deleted, defects, delete, troubles = list[UserId](), list[UserId](), KeyServer.delete_devices, [trouble]

    async def deletes(server: KeyServer, devices: Any) -> None:
        if server.user == OTHER and troubles == ["defect"]:
            raise RecursionError("a defect of ours")
        if server.user == OTHER and troubles == ["hangs"]:
            await asyncio.Event().wait()
        await delete(server, devices)
        deleted.append(server.user)

    monkeypatch.setattr(KeyServer, "delete_devices", deletes)
    config = server.config()
    transport = Transport(config.homeserver.address, config.appservice.as_token)
    async with open_stores(config.database) as stores:

        async def take_away() -> None:
            users = [OTHER, USER, NEVER_UP]
            await retire(users, stores.crypto, transport, lambda user, _: defects.append(user), within_s=0.5)

        try:
            await take_away()
            assert set(deleted) == ({USER} if trouble else {USER, OTHER})
            troubles.clear()
            await take_away()
            assert sorted(deleted) == sorted([USER, OTHER]), "each once"
        finally:
            await transport.close()
    assert defects == ([OTHER] if trouble == "defect" else [])
    assert ("stays at the homeserver" in caplog.text) is (trouble == "defect")
    assert ("not all devices were taken away" in caplog.text) is (trouble == "hangs")
    assert await master_keys(server) == before


async def master_keys(server: KeyServerDouble) -> dict[UserId, str | None]:
    async with made(server) as encryption:
        await start(encryption, [USER, OTHER])
        devices = {user: encryption.device_of(user) for user in (USER, OTHER)}
        return {user: device.master_key for user, device in devices.items() if device is not None}
