"""What an encrypted message relates to stands outside of what is encrypted, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from mxrtc_bridge.core.bot.message_text import read_message
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import EncryptedRooms, Opened
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

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
