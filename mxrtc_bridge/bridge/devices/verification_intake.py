"""What comes for verifications, from devices and from rooms: taken at once, and done in turns by whoever has sent it.

A verification asks the homeserver, and it another one, for the keys of whoever begins it, which may take long. Neither
the messages of a device nor the events of a room wait for that; the messages of one sender are dealt with in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mxrtc_bridge.bridge.devices.verification import BridgeVerifications
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.crypto.sas_events import EVENT_TYPES, TYPES, Request
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent

REQUESTS_PER_MINUTE = 10
REQUESTS_PER_MINUTE_OF_SERVER = 60


class VerificationIntake:
    """See the head of this module.

    Args:
        verifications: given what has come, the messages of one sender in order.
        work: does it.
        monotonic: seconds.
        own_server: our homeserver; its users together may ask for more than those of another.
    """

    def __init__(
        self,
        verifications: BridgeVerifications,
        work: FairWork,
        monotonic: Callable[[], float],
        *,
        own_server: str = "",
    ) -> None:
        self._verifications = verifications
        self._work = work
        self._monotonic = monotonic
        self._requests = RateLimit(REQUESTS_PER_MINUTE, REQUESTS_PER_MINUTE_OF_SERVER, own_server)

    def take(self, device: CryptoDevice, event: ToDeviceEvent) -> bool:
        """Take what another device has sent to one of ours; False if it belongs to no verification. Never waits."""
        if event.type not in EVENT_TYPES:
            return False
        self._put(event.sender, event.type, lambda: self._verifications.handle(device, event))
        return True

    def take_in_room(self, device: CryptoDevice, event: RoomEvent) -> bool:
        """Take an event of a room, decrypted if it was encrypted; False if it belongs to none. Never waits."""
        kind = event.content.get("msgtype") if event.type == "m.room.message" else event.type
        in_message = event.type == "m.room.message" and kind == TYPES[Request]
        if not in_message and (event.type not in EVENT_TYPES or event.type == TYPES[Request]):
            return False
        self._put(event.sender, str(kind), lambda: self._verifications.handle_in_room(device, event))
        return True

    def _put(self, sender: UserId, kind: str, work: Callable[[], Awaitable[object]]) -> None:
        if kind != TYPES[Request] or self._requests.allow(sender, self._monotonic()):
            self._work.put(sender, work)
