"""What people read in the room of a call that was refused, and how often."""

from __future__ import annotations

import pytest

from mxrtc_bridge.bridge.calls.refusal_notices import MEDIA_TEXT, REFUSED_TEXT, RefusalNotices
from mxrtc_bridge.core.call.route import CallRoute, DevicePair
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId

ALICE, PEER, ROOM = UserId("@alice:example.org"), UserId("@rtc_build:example.org"), RoomId("!r:example.org")
PAIR = DevicePair(PEER, ALICE, DeviceId("PHONE"))


class Told:
    """Outbox and memory of who was told, in one."""

    def __init__(self) -> None:
        self.said: list[tuple[CallRoute, UserId, str]] = []
        self.lately: set[UserId] = set()

    async def may_notify(self, user: UserId, _now_ms: int, _every_ms: int) -> bool:
        fresh = user not in self.lately
        self.lately.add(user)
        return fresh

    async def send_notice(self, room: RoomId, local: UserId, text: str, *, key: str) -> None:
        assert key
        self.said.append((room, local, text))


@pytest.mark.parametrize(("reason", "text"), [(None, REFUSED_TEXT), ("media_refused", MEDIA_TEXT)])
async def test_caller_is_told_once_a_day_in_the_room_and_by_the_reason(reason: str | None, text: str) -> None:
    told = Told()
    notices = RefusalNotices(told, told, lambda: 1000)  # type: ignore[arg-type]
    for route in (PAIR, ROOM, ROOM):
        await notices.say(route, PEER, ALICE, reason)
    assert told.said == [(ROOM, PEER, text)]
