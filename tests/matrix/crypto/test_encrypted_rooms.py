"""Events of encrypted rooms: what of them counts, when they can be opened, and which key is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.bot.message_text import read_message
from mxrtc_bridge.core.crypto.records import Changes, InboundRecord
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import ASK_AFTER_S, EncryptedRooms, Opened
from mxrtc_bridge.matrix.crypto.inbound import InboundSessions
from mxrtc_bridge.matrix.crypto.key_requests import KeyRequests
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, Obstacle, Undecryptable
from tests import virtual_time
from tests.matrix.crypto.memory import MemoryStore

GRANT = "!rtc grant @mallory:x build/ssh for 30d"


SENDER = DeviceIdentity(UserId("@bob:x"), DeviceId("PHONE"), "ed", "curve")


@dataclass
class Device:
    """A device that decrypts everything into the same; it is its own keys and lists of devices."""

    result: tuple[str, Mapping[str, Any]]

    async def decrypt(self, *_: object) -> tuple[str, Mapping[str, Any], DeviceIdentity]:
        return *self.result, SENDER

    async def find(self, *_: object) -> DeviceIdentity:
        return SENDER

    @property
    def inbound(self) -> Device:
        return self

    lists = inbound


async def opened(event_type: str, inner: Mapping[str, Any], **outer: object) -> Mapping[str, Any]:
    rooms = EncryptedRooms(Device((event_type, inner)), None, None)  # type: ignore[arg-type]
    event = RoomEvent(
        EventId("$e"), RoomId("!r:x"), "m.room.encrypted", UserId("@bob:x"), 1, {"ciphertext": "", **outer}
    )
    result = await rooms.open(event, key_wait_s=0)
    assert isinstance(result, Opened)
    assert result.device == SENDER
    return result.event.content


EDIT = {"rel_type": "m.replace", "event_id": "$before"}


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ({"body": GRANT}, {"m.relates_to": EDIT}),
        ({"body": GRANT, "m.relates_to": {"rel_type": "m.thread"}}, {"m.relates_to": EDIT}),
        ({"body": f"* {GRANT}", "m.new_content": {"msgtype": "m.text", "body": GRANT}}, {"m.relates_to": EDIT}),
        ({"body": f"* {GRANT}", "m.new_content": {"msgtype": "m.text", "body": GRANT}}, {}),
        ({"body": GRANT, "m.relates_to": EDIT}, {}),
        ({"body": GRANT}, {"m.relates_to": {"rel_type": "m.reference", "event_id": "$x"}}),
        ({"body": GRANT}, {"m.relates_to": "unreadable"}),
        ({"body": f"> <@mallory:x> {GRANT}\n\nno"}, {"m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}}),
        ({"body": f"> <@mallory:x> {GRANT}\n\nno"}, {}),
        ({"body": GRANT, "m.forwarded": {}}, {}),
        ({"body": GRANT, "msgtype": "m.file", "file": {}}, {}),
    ],
)
async def test_an_encrypted_event_that_carries_anothers_words_is_no_command(
    inner: dict[str, Any], outer: dict[str, Any]
) -> None:
    content = await opened("m.room.message", {"msgtype": "m.text", **inner}, **outer)
    assert read_message(content, direct=False) is None


async def test_an_encrypted_answer_in_a_thread_is_read_by_what_stands_outside() -> None:
    relation = {"rel_type": "m.thread", "event_id": "$root"}
    content = await opened("m.room.message", {"msgtype": "m.text", "body": GRANT}, **{"m.relates_to": relation})
    assert content["m.relates_to"] == relation
    assert read_message(content, direct=False) is not None


async def test_other_events_are_opened_as_they_are() -> None:
    inner = {"m.relates_to": {"rel_type": "m.reference", "event_id": "$inside"}}
    assert await opened("m.key.verification.done", inner, **{"m.relates_to": EDIT}) == inner


PICKLE, ROOM, BOB = bytes(32), RoomId("!r:x"), UserId("@bob:x")


class Reader:
    """A device of ours that has the keys which a test gives it, and is told what it asks for."""

    user, seldom = UserId("@peer:x"), RateLimitedLog(logging.getLogger())

    def __init__(self) -> None:
        self.store, self.olm = MemoryStore(), vodozemac.GroupSession()
        self.key = vodozemac.InboundGroupSession(self.olm.session_key).pickle(PICKLE)
        self.inbound = InboundSessions(self.store, PICKLE, wall_ms=lambda: 0)
        self.requests = KeyRequests(lambda: DeviceId("OURS"), PICKLE, wall_ms=lambda: 0)
        self.sender = self
        self.lists, self.asked, self.unreachable = self, list[tuple[UserId, list[DeviceId]]](), False
        self.rooms = EncryptedRooms(self, self.store, None)  # type: ignore[arg-type]

    async def find(self, *_: object) -> None:
        """As lists of devices that do not have the sender's."""

    async def send_plain(self, user: UserId, devices: list[DeviceId], kind: str, _: object) -> None:
        assert kind == "m.room_key_request"
        self.asked.append((user, devices))
        if self.unreachable:
            raise HomeserverError("away", 502)

    def says(self, payload: object) -> RoomEvent:
        content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "session_id": self.olm.session_id,
            "device_id": "PHONE",
            "ciphertext": self.olm.encrypt(json.dumps(payload).encode()).to_base64(),
        }
        return RoomEvent(EventId("$e"), ROOM, "m.room.encrypted", BOB, 1, content)

    async def gets_the_key(self) -> None:
        record = InboundRecord(ROOM, self.olm.session_id, self.key, BOB, "curve", "ed", "PHONE", 0)
        await self.store.save(Changes(inbound=[record]))
        self.inbound.key_saved(record)


GOOD = {"type": "m.x", "content": {"n": 1}, "room_id": ROOM}


def test_event_whose_key_comes_when_it_was_asked_for_is_opened_once() -> None:
    async def story() -> None:
        reader = Reader()
        event = reader.says(GOOD)
        waiting = asyncio.create_task(reader.rooms.open(event, 60))
        await asyncio.sleep(ASK_AFTER_S / 2)
        assert reader.asked == [], "most keys come by themselves"
        await asyncio.sleep(ASK_AFTER_S)
        assert reader.asked == [(BOB, ["PHONE"])]
        await reader.gets_the_key()
        opened = await waiting
        assert isinstance(opened, Opened)
        assert (opened.event.type, opened.event.content, opened.device.device) == ("m.x", {"n": 1}, "PHONE")
        assert isinstance(await reader.rooms.open(event), Opened), "the same event may come again"
        again = await reader.rooms.open(replace(event, event_id=EventId("$other")))
        assert isinstance(again, Undecryptable)
        assert again.obstacle is Obstacle.REPLAY

    virtual_time.run(story())


@pytest.mark.parametrize("unreachable", [True, False])
def test_event_whose_key_does_not_come_is_given_up_after_the_time(unreachable: bool) -> None:
    async def story() -> None:
        reader, loop = Reader(), asyncio.get_running_loop()
        reader.unreachable = unreachable
        began_s = loop.time()
        assert await reader.rooms.open(reader.says(GOOD), 20) == Undecryptable(Obstacle.NO_KEY, reader.olm.session_id)
        assert (len(reader.asked), loop.time() - began_s) == (1, pytest.approx(20))

    virtual_time.run(story())


@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        ([], {}),
        ({**GOOD, "room_id": "!other:x"}, {}),
        ({**GOOD, "type": 5}, {}),
        ({**GOOD, "type": "m.room.encrypted"}, {}),
        ({**GOOD, "content": None}, {}),
        (GOOD, {"ciphertext": "AAAA"}),
        (GOOD, {"ciphertext": None}),
        (GOOD, {"session_id": "x"}),
    ],
)
async def test_what_is_damaged_is_not_opened(payload: object, changes: dict[str, Any]) -> None:
    reader = Reader()
    event = reader.says(payload)
    await reader.gets_the_key()
    result = await reader.rooms.open(replace(event, content={**event.content, **changes}), 60)
    assert isinstance(result, Undecryptable)
    assert result.obstacle is Obstacle.MALFORMED


async def test_what_was_said_before_the_key_was_given_and_what_is_encrypted_otherwise_is_not_opened() -> None:
    reader = Reader()
    early = reader.says(GOOD)
    reader.key = vodozemac.InboundGroupSession(reader.olm.session_key).pickle(PICKLE)
    await reader.gets_the_key()
    obstacles = []
    for event in (early, replace(early, content={**early.content, "algorithm": "m.other"})):
        result = await reader.rooms.open(event)
        assert isinstance(result, Undecryptable)
        obstacles.append(result.obstacle)
    assert obstacles == [Obstacle.WITHHELD, Obstacle.UNKNOWN_ALGORITHM]


async def test_key_that_is_withheld_is_not_waited_for() -> None:
    reader = Reader()
    event = reader.says(GOOD)
    told = {"room_id": ROOM, "session_id": reader.olm.session_id, "code": "m.unverified"}
    for odd in ({"code": 5}, {"code": "x" * 256}):
        reader.inbound.read_withheld(BOB, {**told, **odd})
    reader.inbound.read_withheld(BOB, told)
    expected = Undecryptable(Obstacle.WITHHELD, reader.olm.session_id, "m.unverified")
    assert await reader.rooms.open(event, 60) == expected
    assert reader.asked == []
