"""Megolm, receiving: the keys that others send, and the events that they fit (client-server API, "m.megolm.v1").

An event is believed to be from the device that has sent the key, and only if that device belongs to the sender of the
event. An index of a session is taken once: the homeserver cannot play an event a second time.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.crypto.records import InboundRecord
from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId, parse_room_id
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.signed_json import is_key
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import MEGOLM, DeviceIdentity, Obstacle, Undecryptable

MAX_WITHHELD = 1000
MAX_WAITING = 256
"""Keys that one device waits for at the same time; for the next one nobody waits."""
MAX_SESSION_KEY_CHARS = 1024

_DEVICE_ID = re.compile(r"[!-~]{1,255}")

Name = tuple[RoomId, str, UserId]


def read_session(
    sender: UserId,
    message: OlmMessage,
    device: DeviceIdentity,
    open_key: Callable[[str], vodozemac.InboundGroupSession],
    *,
    pickle_key: bytes,
    now_ms: int,
) -> InboundRecord:
    """Read the key of a room, in whichever form it came.

    Args:
        sender: who has sent it.
        message: the message that has brought it.
        device: of the sender.
        open_key: makes a session of ``session_key``; raises ValueError.
        pickle_key: secrets in the store are encrypted with it.
        now_ms: milliseconds since the epoch.

    Raises:
        EventError: it is malformed.
    """
    content = message.content
    room = parse_room_id(content.get("room_id"))
    session_id, key = content.get("session_id"), content.get("session_key")
    if content.get("algorithm") != MEGOLM or not is_key(session_id):
        raise EventError(RefusalCode.BAD_EVENT, "the key of a room is malformed")
    if not isinstance(key, str) or len(key) > MAX_SESSION_KEY_CHARS:
        raise EventError(RefusalCode.BAD_EVENT, "the key of a room is malformed or too long")
    try:
        session = open_key(key)
    except ValueError as error:
        raise EventError(RefusalCode.BAD_EVENT, "the key of a room is damaged") from error
    if session.session_id != session_id:
        raise EventError(RefusalCode.BAD_EVENT, "the key of a room is that of another session")
    return InboundRecord(
        room=room,
        session_id=str(session_id),
        pickle=session.pickle(pickle_key),
        user=sender,
        curve25519=message.curve25519,
        ed25519=message.ed25519,
        device=device.device,
        received_ms=now_ms,
    )


def _open_session_key(key: str) -> vodozemac.InboundGroupSession:
    return vodozemac.InboundGroupSession(vodozemac.SessionKey(key))


@dataclass(slots=True)
class _Wait:
    """Those who wait for one key."""

    came: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0
    """How many they are: the last one to go takes it out of the table, or the others were never woken."""


class InboundSessions:
    """The Megolm sessions of others, as one device of ours has received them."""

    def __init__(self, store: DeviceStore, pickle_key: bytes, *, wall_ms: Callable[[], int]) -> None:
        self._store = store
        self._pickle_key = pickle_key
        self._wall_ms = wall_ms
        self._withheld = Latest[Name, str](MAX_WITHHELD)
        self._waiting: dict[Name, _Wait] = {}

    def read_key(self, sender: UserId, message: OlmMessage, device: DeviceIdentity) -> InboundRecord:
        """Read an ``m.room_key``; to be saved together with the session that has brought it.

        Raises:
            EventError: it is malformed.
        """
        return read_session(
            sender, message, device, _open_session_key, pickle_key=self._pickle_key, now_ms=self._wall_ms()
        )

    def key_saved(self, record: InboundRecord) -> None:
        """Wake whoever waits for this key."""
        name = (record.room, record.session_id, record.user)
        self._withheld.pop(name, None)
        if (waiting := self._waiting.get(name)) is not None:
            waiting.came.set()

    def read_withheld(self, sender: UserId, content: Mapping[str, Any]) -> None:
        """Take ``m.room_key.withheld``: a key will not come, or not yet."""
        room, session_id, code = (content.get(name) for name in ("room_id", "session_id", "code"))
        if not (isinstance(room, str) and isinstance(session_id, str) and isinstance(code, str)):
            return
        if max(len(room), len(session_id), len(code)) > 255:
            return
        self._withheld[RoomId(room), session_id, sender] = code

    @property
    def awaited(self) -> int:
        """Keys that somebody waits for."""
        return len(self._waiting)

    async def wait_for_key(self, room: RoomId, session_id: str, sender: UserId, timeout_s: float) -> bool:
        """Wait until the key of a session has come; False after the time, or when too many wait already."""
        name = (room, session_id, sender)
        if await self._store.inbound(*name) is not None:
            return True
        if name not in self._waiting and len(self._waiting) >= MAX_WAITING:
            return False
        wait = self._waiting.setdefault(name, _Wait())
        wait.count += 1
        try:
            # The key may have come while the database was asked.
            return await self._store.inbound(*name) is not None or await set_within(wait.came, timeout_s)
        finally:
            wait.count -= 1
            if not wait.count:
                self._waiting.pop(name, None)

    async def decrypt(
        self, room: RoomId, event_id: EventId, sender: UserId, content: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any], InboundRecord] | Undecryptable:
        """Decrypt the content of an ``m.room.encrypted`` event: type, content, and the key that fitted."""
        session_id, ciphertext = content.get("session_id"), content.get("ciphertext")
        if content.get("algorithm") != MEGOLM:
            return Undecryptable(Obstacle.UNKNOWN_ALGORITHM)
        if not is_key(session_id) or not isinstance(ciphertext, str):
            return Undecryptable(Obstacle.MALFORMED)
        record = await self._store.inbound(room, str(session_id), sender)
        if record is None:
            code = self._withheld.get((room, str(session_id), sender), "")
            device = content.get("device_id")
            return Undecryptable(
                Obstacle.WITHHELD if code else Obstacle.NO_KEY,
                str(session_id),
                code,
                device if isinstance(device, str) and _DEVICE_ID.fullmatch(device) else None,
            )
        opened = self._open(record, ciphertext)
        if isinstance(opened, Undecryptable):
            return opened
        index, event_type, inner = opened
        if not await self._store.claim_index(room, record.session_id, index, event_id, self._wall_ms()):
            return Undecryptable(Obstacle.REPLAY, record.session_id)
        return event_type, inner, record

    def _open(self, record: InboundRecord, ciphertext: str) -> tuple[int, str, Mapping[str, Any]] | Undecryptable:
        try:
            session = vodozemac.InboundGroupSession.from_pickle(record.pickle, self._pickle_key)
            message = vodozemac.MegolmMessage.from_base64(ciphertext)
            if message.message_index() < session.first_known_index:
                # The key was given to us later than this event was sent.
                return Undecryptable(Obstacle.WITHHELD, record.session_id, "m.history")
            decrypted = session.decrypt(message)
            payload = json.loads(decrypted.plaintext)
        except (ValueError, RecursionError):
            return Undecryptable(Obstacle.MALFORMED, record.session_id)
        event = _inner_event(payload, record.room)
        if event is None:
            return Undecryptable(Obstacle.MALFORMED, record.session_id)
        return decrypted.message_index, *event


def _inner_event(payload: object, room: RoomId) -> tuple[str, Mapping[str, Any]] | None:
    if not isinstance(payload, dict) or payload.get("room_id") != room:
        return None
    event_type, content = payload.get("type"), payload.get("content")
    if not isinstance(event_type, str) or not 0 < len(event_type) <= 255 or not isinstance(content, dict):
        return None
    # An encrypted event inside of an encrypted one would be read twice.
    return None if event_type == "m.room.encrypted" else (event_type, content)


def unknown_device(record: InboundRecord) -> DeviceIdentity:
    """The sender of a key whose device the homeserver does not list: nobody but itself vouches for it."""
    return DeviceIdentity(record.user, DeviceId(record.device), record.ed25519, record.curve25519)
