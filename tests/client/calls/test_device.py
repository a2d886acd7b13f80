"""The client's end of calls between devices: only the device that was called is heard."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.client.calls import device as module
from mxrtc_bridge.client.calls.device import DeviceCalls, NoDeviceError
from mxrtc_bridge.core.call.events import Answer, CallMessage, Hangup, Invite, Version
from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE, CallToDevice, call_to_device_content, parse_call_to_device
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import CallId, DeviceId, PartyId, UserId
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")
BUILD = DeviceIdentity(PEER, DeviceId("BUILD"), "ed", "curve", Trust.CROSS_SIGNED)
CALL, PARTY = CallId("call"), PartyId("party")
INVITE, HANGUP = Invite(CALL, PARTY, Version.V1, "v=0\r\n", 60_000), Hangup(CALL, PARTY, Version.V1)
ANSWER = Answer(CALL, PARTY, Version.V1, "v=0\r\n")


@dataclass
class Own:
    user: UserId = ALICE
    sent: list[CallToDevice] = field(default_factory=list)

    async def send_to_device(self, devices: list[DeviceIdentity], event_type: str, content: dict[str, Any]) -> None:
        assert (devices, event_type) == ([BUILD], SIGNAL_TYPE)
        self.sent.append(parse_call_to_device(content))


class World:
    def __init__(self) -> None:
        self.own = Own()
        self.calls = DeviceCalls(self.own, BUILD)  # type: ignore[arg-type]
        self.heard: list[CallMessage] = []
        self.calls.listener = lambda _user, message: self.heard.append(message)

    async def come(
        self,
        message: CallMessage = ANSWER,
        device: DeviceIdentity | None = BUILD,
        sender: UserId = PEER,
        kind: str = SIGNAL_TYPE,
        **changes: Any,
    ) -> None:
        content = {**call_to_device_content(CallToDevice(0, 5, message)), **changes}
        await self.calls.handle(self.own, ToDeviceEvent(kind, sender, content, device))  # type: ignore[arg-type]


async def test_what_we_say_is_numbered_and_ends_with_the_device() -> None:
    world = World()
    assert not world.calls.invited.is_set()
    await world.calls.send(world.calls.route, ALICE, INVITE, step="invite")
    assert world.calls.invited.is_set()
    await world.calls.send(world.calls.route, ALICE, HANGUP, step="hangup")
    await world.calls.close()
    await world.calls.send(world.calls.route, ALICE, HANGUP, step="hangup")
    assert [(signal.seq, type(signal.message)) for signal in world.own.sent] == [(0, Invite), (1, Hangup)]


async def test_the_device_that_was_called_is_heard_and_nothing_else() -> None:
    world = World()
    await world.come(device=None)
    await world.come(device=replace(BUILD, device=DeviceId("OTHER")))
    await world.come(device=replace(BUILD, ed25519="forged"))
    await world.come(sender=ALICE)
    await world.come(kind="m.call.answer")
    await world.come(seq=-1)
    await world.come(content={"call_id": CALL})
    assert world.heard == []
    await world.come()
    await world.come()
    assert world.heard == [ANSWER]


async def test_one_command_at_a_time_holds_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.1)
    path = tmp_path / "state" / "crypto.lock"
    path.parent.mkdir()
    folder = os.open(path.parent, os.O_RDONLY)

    async def hold() -> None:
        async with module._locked(folder, path):
            pass

    async with module._locked(folder, path):
        with pytest.raises(NoDeviceError, match="another mxrtc command"):
            await hold()
        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0.02)
    await waiting
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(NoDeviceError, match="cannot be used"):
        await hold()
    os.close(folder)


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "crypto.key"
    folder = os.open(tmp_path, os.O_RDONLY)
    key = module._key(folder, path)
    assert len(key) >= 32
    assert module._key(folder, path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["crypto.key"]
    os.close(folder)


def test_an_empty_key_that_a_run_has_left_which_died_is_made_anew(tmp_path: Path) -> None:
    path, folder = tmp_path / "crypto.key", os.open(tmp_path, os.O_RDONLY)
    path.touch(mode=0o600)
    assert len(module._key(folder, path)) >= 32
    path.write_bytes(b"")
    (tmp_path / "crypto.db").touch()
    # Something may have been encrypted with the one that is lost.
    assert module._key(folder, path) == b""
    os.close(folder)
