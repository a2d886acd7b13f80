"""Which devices get the key of a room, which are told that they do not, and which are asked first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.crypto.records import Changes, OutboundRecord
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.key_sharing import (
    CLAIM_AGAIN_MS,
    DEVICES_PER_REQUEST,
    KeySharing,
    Letter,
    RoomSession,
    key_of,
)
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from tests.matrix.crypto.key_homeserver import PICKLE_KEY

ALICE = UserId("@alice:example.org")
OURS = OwnAccount.new(UserId("@rtc_build:example.org"), DeviceId("OURS"), PICKLE_KEY)


class Olm:
    """Sessions with all devices but some."""

    def __init__(self) -> None:
        self.without: set[DeviceIdentity] = set()
        self.encrypted: list[Mapping[str, Any]] = []
        self.saved_times = 0

    async def lacking(self, devices: Sequence[DeviceIdentity]) -> list[DeviceIdentity]:
        return [each for each in devices if each in self.without]

    async def encrypt(self, device: DeviceIdentity, event_type: str, content: Mapping[str, Any]) -> object:
        assert event_type == "m.room_key"
        self.encrypted.append(content)
        return None if device in self.without else {"to": device.device}

    def changes(self) -> Changes:
        return Changes()

    def saved(self) -> None:
        self.saved_times += 1

    async def save(self, _changes: Changes) -> None:
        """As the store."""


class World:
    """One session of a room."""

    def __init__(self) -> None:
        self.now_ms, self.olm = CLAIM_AGAIN_MS, Olm()
        self.keys = KeySharing(OURS, self.olm, self.olm, wall_ms=lambda: self.now_ms)  # type: ignore[arg-type]
        olm = vodozemac.GroupSession()
        record = OutboundRecord(RoomId("!r:x"), olm.session_id, "", 0, 0, frozenset())
        self.session = RoomSession(record, olm)

    async def share(self, *devices: DeviceIdentity, asked: Sequence[DeviceIdentity] = ()) -> list[Letter]:
        letters: list[Letter] = []
        self.left_out = await self.keys.share(self.session, key_of(self.session), devices, asked, letters)
        return letters

    def sent(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            record = self.session.record
            self.session.record = replace(
                record, shared=record.shared | letter.shared, withheld=record.withheld | letter.withheld
            )


@pytest.fixture
def world() -> World:
    return World()


def phones(count: int) -> list[DeviceIdentity]:
    return [DeviceIdentity(ALICE, DeviceId(f"P{number}"), "e", f"c{number}") for number in range(count)]


async def test_who_has_the_key_does_not_get_it_again_and_many_get_it_by_several_letters(world: World) -> None:
    devices = phones(DEVICES_PER_REQUEST + 2)
    world.sent(await world.share(devices[0]))
    letters = await world.share(*devices)
    assert [len(letter.messages[ALICE]) for letter in letters] == [DEVICES_PER_REQUEST, 1]
    assert (len(world.olm.encrypted), world.olm.saved_times) == (len(devices), 3)
    assert {content["session_id"] for content in world.olm.encrypted} == {world.session.record.session_id}
    world.sent(letters)
    assert await world.share(*devices) == []


async def test_a_device_without_a_key_left_is_told_once_and_asked_again_after_a_while(world: World) -> None:
    (phone,) = phones(1)
    world.olm.without = {phone}
    assert await world.keys.to_ask([phone]) == [phone]
    letters = await world.share(phone, asked=[phone])
    assert [(letter.event_type, letter.messages[ALICE][phone.device]["code"]) for letter in letters] == [
        ("m.room_key.withheld", "m.no_olm")
    ]
    assert "session_id" not in letters[0].messages[ALICE][phone.device]
    assert world.left_out == []
    world.sent(letters)
    assert await world.keys.to_ask([phone]) == []
    assert await world.share(phone) == []
    world.now_ms += CLAIM_AGAIN_MS
    assert await world.keys.to_ask([phone]) == [phone]


async def test_a_device_that_has_come_just_now_is_left_out_and_told_nothing(world: World) -> None:
    (phone,) = phones(1)
    world.olm.without = {phone}
    assert await world.share(phone) == []
    assert world.left_out == [phone]


def test_of_many_devices_that_get_no_key_all_are_told_in_the_end(world: World) -> None:
    devices, told = phones(DEVICES_PER_REQUEST + 1), []
    for _ in range(3):
        letters: list[Letter] = []
        world.keys.withhold(world.session, devices, "m.unverified", letters)
        world.sent(letters)
        told += [list(letter.messages[ALICE]) for letter in letters]
    assert told == [[each.device for each in devices[:-1]], [devices[-1].device]]
