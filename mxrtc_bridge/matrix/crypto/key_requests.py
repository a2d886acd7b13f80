"""Keys of rooms that have not come: asked for from the device that has made them (``m.room_key_request``).

A message that carried a key may be unreadable (the session with the device was broken), and all that is encrypted with
that key with it. The device that has made the key may give it again, to whom it has given it before. Must never take a
key from anybody else: only what was asked for, and only from the device whose key it is, counts as if it had come in
the first place.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.crypto.records import InboundRecord
from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId, parse_room_id
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.inbound import read_session
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.signed_json import is_key
from mxrtc_bridge.matrix.crypto.values import MEGOLM, DeviceIdentity

REQUEST = "m.room_key_request"
MAX_ASKED = 256
"""Keys that are asked for and have not come; the one that was asked for longest ago is forgotten."""
AGAIN_MS = 3600 * 1000
"""A key is asked for at most this often."""
ALL_DEVICES = "*"

Name = tuple[RoomId, str, UserId]


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Somebody asks for a key of ours."""

    room: RoomId
    session_id: str
    device: DeviceId


class KeyRequests:
    """What one device of ours has asked for.

    Args:
        device: tells our device.
        pickle_key: secrets in the store are encrypted with it.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(self, device: Callable[[], DeviceId], pickle_key: bytes, *, wall_ms: Callable[[], int]) -> None:
        self._device = device
        self._pickle_key = pickle_key
        self._wall_ms = wall_ms
        self._asked = Latest[Name, int](MAX_ASKED)

    def ask(self, room: RoomId, session_id: str, sender: UserId) -> Mapping[str, object] | None:
        """Return the content of a request; None if it was asked for a moment ago."""
        name, now = (room, session_id, sender), self._wall_ms()
        if now - self._asked.get(name, -AGAIN_MS) < AGAIN_MS:
            return None
        self._asked[name] = now
        return {
            "action": "request",
            "body": {"algorithm": MEGOLM, "room_id": room, "session_id": session_id},
            "request_id": secrets.token_hex(12),
            "requesting_device_id": self._device(),
        }

    def read_key(self, sender: UserId, message: OlmMessage, device: DeviceIdentity) -> InboundRecord:
        """Read a key that was given again; to be saved together with the session that has brought it.

        Raises:
            EventError: it was not asked for, is another device's, or is malformed.
        """
        record = read_session(
            sender, message, device, _open_exported, pickle_key=self._pickle_key, now_ms=self._wall_ms()
        )
        if (record.room, record.session_id, sender) not in self._asked:
            raise EventError(RefusalCode.BAD_EVENT, "nobody has asked for the key of this room")
        maker = (message.content.get("sender_key"), message.content.get("sender_claimed_ed25519_key"))
        if maker != (message.curve25519, message.ed25519):
            raise EventError(RefusalCode.BAD_EVENT, "only the device that has made the key of a room may give it again")
        return record

    def came(self, record: InboundRecord) -> None:
        """Forget that a key was asked for: it is there."""
        self._asked.pop((record.room, record.session_id, record.user), None)


def _open_exported(key: str) -> vodozemac.InboundGroupSession:
    return vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(key))


def parse_request(content: Mapping[str, Any]) -> KeyRequest | None:
    """Read the request of another device for a key of ours; None for anything else, the end of a request among it."""
    body, device = content.get("body"), content.get("requesting_device_id")
    if content.get("action") != "request" or not isinstance(body, dict) or not isinstance(device, str):
        return None
    session_id = body.get("session_id")
    try:
        room = parse_room_id(body.get("room_id"))
    except EventError:
        return None
    if body.get("algorithm") != MEGOLM or not is_key(session_id) or len(device) > 255:
        return None
    return KeyRequest(room, str(session_id), DeviceId(device))
