"""What virtual users say and hear in encrypted rooms: when their devices are not up, and when keys are late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices import devices as encryption_module
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.bridge.devices.room_messages import RoomMessages, explain
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import HomeserverError, StateError
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, Obstacle, Undecryptable, UserDevices
from tests.bridge.devices.test_devices import USER, KeyServerDouble, ignore, made, server, start
from tests.bridge.homeserver import ALICE, PEER, ROOM
from tests.waiting import turns

__all__ = ["server"]


class Rooms:
    """What is known of rooms; nothing at first."""

    def __init__(self) -> None:
        self.encrypted: set[str] = set()
        self.known: dict[str, frozenset[UserId]] = {}
        self.named: set[str] = set()
        self.unread: set[str] = set()

    def is_encrypted(self, room: str) -> bool:
        return room in self.encrypted

    def members(self, room: str) -> frozenset[UserId] | None:
        return self.known.get(room)

    def speaker_in(self, room: str) -> UserId | None:
        return USER if room in self.named else None


@asynccontextmanager
async def talking(server: KeyServerDouble, rooms: Rooms) -> AsyncIterator[tuple[Encryption, RoomMessages]]:
    async with made(server) as encryption:
        config = CurrentConfig(server.config())
        yield encryption, RoomMessages(encryption, rooms, config, lambda _user: False)  # type: ignore[arg-type]


async def test_device_that_could_not_come_up_does_so_later_and_says_nothing_in_plain_text_until_then(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        encryption_module,
        "Transport",
        lambda url, token, **more: Transport(url, token, RequestPolicy(RetryPolicy(total_s=0)), **more),
    )
    server.away_for_devices = True
    rooms = Rooms()
    async with talking(server, rooms) as (encryption, messages):
        await start(encryption, [USER])
        assert encryption.is_on
        assert encryption.device_of(USER) is None
        rooms.encrypted.add(ROOM)
        with pytest.raises(HomeserverError, match="not up"):
            await messages.seal(ROOM, USER, "m.x", {})
        assert await messages.seal(RoomId("!plain:x"), USER, "m.x", {}) == ("m.x", {})
        server.away_for_devices = False
        task = asyncio.create_task(encryption.run())
        began = time.monotonic()
        while encryption.device_of(USER) is None:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_said_and_heard_before_a_device_was_brought_up_waits_for_it(server: KeyServerDouble) -> None:
    """The bridge is ready before its devices are: with many peers that takes a while."""
    rooms = Rooms()
    rooms.encrypted.add(ROOM)
    rooms.known[ROOM] = frozenset({USER})

    async def late(_event: RoomEvent, _result: Opened | Undecryptable) -> None: ...

    async with talking(server, rooms) as (encryption, messages):
        await encryption.begin([USER], ignore)
        assert server.asked == []
        opening = asyncio.create_task(messages.open(encrypted_event(), USER, late))
        sealing = asyncio.create_task(messages.seal(RoomId(ROOM), USER, "m.room.message", {"body": "hello"}))
        await turns(100)
        assert not opening.done()
        assert not sealing.done()
        await encryption.bring_up()
        await asyncio.wait_for(encryption.settled(), 5)
        assert isinstance(await asyncio.wait_for(opening, 5), Undecryptable)
        kind, sealed = await asyncio.wait_for(sealing, 5)
        assert (kind, "hello" in str(sealed)) == ("m.room.encrypted", False)


async def test_room_that_was_encrypted_stays_so_whatever_the_homeserver_says(server: KeyServerDouble) -> None:
    rooms = Rooms()
    async with talking(server, rooms) as (encryption, messages):
        await start(encryption, [USER])
        rooms.encrypted.add(ROOM)
        assert await messages.is_encrypted(ROOM, USER)
    rooms.encrypted.clear()
    async with talking(server, rooms) as (encryption, messages):
        await start(encryption, [USER])
        assert await messages.is_encrypted(ROOM, USER)
        kind, _ = await messages.seal(ROOM, USER, "m.call.answer", {"sdp": "v=0"})
        assert kind == "m.room.encrypted"


async def test_what_is_said_in_an_encrypted_room_is_for_its_members_alone(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms, told = Rooms(), []
    server.members = {ROOM: [ALICE, PEER]}
    async with talking(server, rooms) as (encryption, messages):
        await start(encryption, [USER])
        device = encryption.device_of(USER)
        assert device is not None

        async def encrypt(_room: object, members: frozenset[str], *_: object, **__: object) -> dict[str, object]:
            told.append(members)
            return {}

        monkeypatch.setattr(device.outbound, "encrypt", encrypt)
        rooms.encrypted = {ROOM}
        await messages.seal(ROOM, USER, "m.x", {})
        rooms.named = {ROOM}
        await messages.seal(ROOM, USER, "m.x", {})
        rooms.known = {ROOM: frozenset({USER})}
        await messages.seal(ROOM, USER, "m.x", {})
    assert told == [{USER}, {USER, ALICE}, {USER}]


async def test_who_can_read_is_decided_by_the_policy_and_by_the_devices_that_their_homeserver_lists_now(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms, alice, listed = Rooms(), UserId(ALICE), list[DeviceIdentity]()
    async with made(server) as encryption:
        config = CurrentConfig(server.config(encryption={"devices": "cross-signed"}))
        messages = RoomMessages(encryption, rooms, config, lambda _user: False)  # type: ignore[arg-type]
        assert not await messages.is_readable_by(ROOM, USER, alice), "nobody can speak there yet"
        await start(encryption, [USER])
        device = encryption.device_of(USER)
        assert device is not None
        assert not await messages.is_readable_by(ROOM, USER, alice), "the homeserver lists no device"

        async def of(users: Sequence[UserId]) -> dict[UserId, UserDevices]:
            return {user: UserDevices(user, tuple(listed), None, None) for user in users}

        monkeypatch.setattr(device.lists, "of", of)
        found = {}
        for trust in Trust:
            listed[:] = [DeviceIdentity(alice, DeviceId("PHONE"), "e", "c", trust)]
            found[trust] = await messages.is_readable_by(ROOM, USER, alice)
        assert found == {Trust.UNSIGNED: False, Trust.CROSS_SIGNED: True, Trust.VERIFIED: True}
        rooms.unread.add(ROOM)
        assert not await messages.is_readable_by(ROOM, USER, alice), "nobody knows who is there"


def encrypted_event(name: str = "$e") -> RoomEvent:
    content = {"algorithm": "m.megolm.v1.aes-sha2", "session_id": "s", "ciphertext": "x"}
    return RoomEvent(EventId(name), RoomId(ROOM), "m.room.encrypted", UserId(ALICE), 0, content)


async def test_event_whose_key_is_late_is_handled_when_it_comes_and_nobody_waits_for_it(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening it returns at once, and those behind it in the same session come after it."""
    key_came, results = asyncio.Event(), []
    device = DeviceIdentity(UserId(ALICE), DeviceId("PHONE"), "e", "c")
    first, second = encrypted_event("$1"), encrypted_event("$2")

    async def open_event(event: RoomEvent, key_wait_s: float = 0.0) -> Opened | Undecryptable:
        if key_wait_s == 0 and not key_came.is_set():
            return Undecryptable(Obstacle.NO_KEY, "s")
        await key_came.wait()
        return Opened(event, device)

    async def late(event: RoomEvent, result: Opened | Undecryptable) -> None:
        results.append(event.event_id)
        assert result == Opened(event, device)

    async with talking(server, Rooms()) as (encryption, messages):
        await start(encryption, [USER])
        opened = encryption.rooms_of(USER)
        assert opened is not None
        monkeypatch.setattr(opened, "open", open_event)
        before = await messages.open(first, USER, late)
        assert isinstance(before, Undecryptable), "there is nobody yet who would wait for its key"
        task = asyncio.create_task(messages.run())
        for _ in range(3):
            await asyncio.sleep(0)
        assert await messages.open(first, USER, late) is None
        key_came.set()
        assert await messages.open(second, USER, late) is None, "the first one has not been handled yet"
        while len(results) < 2:
            await asyncio.sleep(0)
        assert results == ["$1", "$2"]
        await asyncio.sleep(0)
        assert await messages.open(second, USER, late) == Opened(second, device)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("obstacle", list(Obstacle))
def test_every_obstacle_is_explained_with_what_to_do(obstacle: Obstacle) -> None:
    text = explain(Undecryptable(obstacle))
    assert obstacle.value in text
    assert "Please" in text


async def test_keys_are_prepared_where_there_is_a_room_and_a_device_and_failures_are_nobodys(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rooms, prepared = Rooms(), list[object]()
    async with talking(server, rooms) as (encryption, messages):
        await messages.prepare(RoomId(ROOM), USER)
        await start(encryption, [USER])
        device = encryption.device_of(USER)
        assert device is not None

        async def prepare(_encryption: object, members: object, *, least: object) -> None:
            prepared.append(members)
            if len(prepared) > 1:
                raise HomeserverError("away", 502)

        monkeypatch.setattr(device.outbound, "prepare", prepare)
        rooms.encrypted.add(ROOM)
        await messages.prepare(RoomId(ROOM), USER)
        rooms.known[ROOM] = frozenset({USER})
        await messages.prepare(RoomId("!plain:x"), USER)
        assert prepared == [], "neither where nobody is known, nor where nothing is encrypted"
        for _ in range(2):
            await messages.prepare(RoomId(ROOM), USER)
    assert prepared == [{USER}] * 2
    assert "the keys of a room of" in caplog.text


async def test_nothing_is_heard_without_a_device(server: KeyServerDouble) -> None:
    async def late(_event: RoomEvent, _result: Opened | Undecryptable) -> None: ...

    async with talking(server, Rooms()) as (_, messages):
        with pytest.raises(StateError, match="not been started"):
            await messages.open(encrypted_event(), USER, late)
