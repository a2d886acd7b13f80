"""Encrypted rooms: what may be said in them, and how an encrypted event becomes an ordinary one.

Must never let anything but redactions and state out into a room in plain text once it was encrypted: that the room is
encrypted is kept in the database, and a homeserver cannot take it back. Must never let an event of a call in that came
in plain text into an encrypted room: everybody on its way could have written it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.crypto.records import Changes, RoomEncryption
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.inbound import unknown_device
from mxrtc_bridge.matrix.crypto.key_requests import ALL_DEVICES, REQUEST
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import MEGOLM, Decrypted, DeviceIdentity, Undecryptable

log = logging.getLogger(__name__)

ASK_AFTER_S = 1.0
"""How long a key may be late before it is asked for."""
MAX_KNOWN = 10_000
"""Rooms whose encryption is remembered in memory; the database has the rest."""
_MIN_MESSAGES, _MAX_MESSAGES = 1, 10_000
_MIN_MS, _MAX_MS = 3600 * 1000, 30 * 24 * 3600 * 1000

Seal = Callable[[RoomId, UserId, str, Mapping[str, object]], Awaitable[tuple[str, Mapping[str, object]]]]


class SealingHomeserver(Homeserver):
    """A homeserver through which everything that is said in an encrypted room goes encrypted."""

    def __init__(self, transport: Transport, seal: Seal) -> None:
        super().__init__(transport)
        self._seal = seal

    async def send_event(
        self,
        room: RoomId,
        event_type: str,
        content: Mapping[str, object],
        txn_id: str,
        as_user: UserId | None = None,
    ) -> EventId:
        """Send an event, encrypted where the room is; see :meth:`Homeserver.send_event`."""
        if as_user is not None:
            event_type, content = await self._seal(room, as_user, event_type, content)
        return await super().send_event(room, event_type, content, txn_id, as_user)


@dataclass(frozen=True, slots=True)
class Opened:
    """An event of an encrypted room as if it had been sent in plain text, with the device that has sent it."""

    event: RoomEvent
    device: DeviceIdentity


class EncryptedRooms:
    """The encrypted rooms of one device."""

    def __init__(self, device: CryptoDevice, store: DeviceStore, homeserver: Homeserver) -> None:
        """Make them.

        Args:
            device: encrypts and decrypts.
            store: remembers which rooms are encrypted.
            homeserver: asked how a room is encrypted.
        """
        self.device = device
        self._store = store
        self._homeserver = homeserver
        self._known = Latest[RoomId, RoomEncryption](MAX_KNOWN)

    async def encryption_of(self, room: RoomId, *, encrypted: bool) -> RoomEncryption | None:
        """How a room is encrypted; None if it never was.

        Args:
            room: a room that the own user is in.
            encrypted: what is known of its state; a room that was encrypted once stays so whatever this says.

        Raises:
            HomeserverError: it cannot be found out, or the room is encrypted in a way that we do not know.
        """
        known = self._known.get(room) or await self._store.room(room)
        if known is None and encrypted:
            content = await self._homeserver.state(room, "m.room.encryption", as_user=self.device.user)
            known = read_encryption(room, content or {})
            await self._store.save(Changes(rooms=[known]))
        if known is not None:
            self._known[room] = known
        return known

    async def joined_members(self, room: RoomId) -> frozenset[UserId]:
        """The members of a room by the homeserver.

        Raises:
            HomeserverError: it does not say.
        """
        return await self._homeserver.joined_members(room, self.device.user)

    async def open(self, event: RoomEvent, key_wait_s: float = 0.0) -> Opened | Undecryptable:
        """Decrypt an ``m.room.encrypted`` event.

        Args:
            event: the event.
            key_wait_s: seconds to wait for a key that is still on its way.
        """
        room, sender = event.room_id, event.sender
        result = await self.decrypt(room, event.event_id, sender, event.content)
        if isinstance(result, Undecryptable) and result.may_come and key_wait_s > 0:
            device = result.device or ALL_DEVICES
            if not await self.wait_for_key(room, result.session_id, sender, key_wait_s, device=device):
                return result
            result = await self.decrypt(room, event.event_id, sender, event.content)
        if isinstance(result, Undecryptable):
            return result
        content = result.content
        if result.type == "m.room.message" and "m.relates_to" in event.content:
            # What a message relates to stands outside: an edit, say, which is no new message.
            content = {**content, "m.relates_to": event.content["m.relates_to"]}
        return Opened(replace(event, type=result.type, content=content, state_key=None), result.device)

    async def decrypt(
        self, room: RoomId, event_id: EventId, sender: UserId, content: Mapping[str, Any]
    ) -> Decrypted | Undecryptable:
        """Decrypt the content of an ``m.room.encrypted`` event."""
        found = await self.device.inbound.decrypt(room, event_id, sender, content)
        if isinstance(found, Undecryptable):
            return found
        event_type, inner, key = found
        device = await self.device.lists.find(sender, key.curve25519, key.ed25519)
        return Decrypted(event_type, inner, device or unknown_device(key))

    async def wait_for_key(
        self, room: RoomId, session_id: str, sender: UserId, timeout_s: float, *, device: str = ALL_DEVICES
    ) -> bool:
        """Wait until the key of a room's session has come, and ask for it after a moment; False after the time.

        Args:
            room: the room.
            session_id: of the session.
            sender: whose session it is.
            timeout_s: seconds.
            device: the one that is asked; all of the sender's if it is not known.
        """
        ours = self.device
        if await ours.inbound.wait_for_key(room, session_id, sender, min(timeout_s, ASK_AFTER_S)):
            return True
        request = ours.requests.ask(room, session_id, sender)
        if request is not None:
            try:
                ours.seldom.info(sender, "> the key of a room of %s is asked for", sender)
                await ours.sender.send_plain(sender, [DeviceId(device)], REQUEST, request)
            except HomeserverError as error:
                ours.seldom.info(sender, "the key of a room could not be asked for: %s", error)
        return await ours.inbound.wait_for_key(room, session_id, sender, max(timeout_s - ASK_AFTER_S, 0))


def read_encryption(room: RoomId, content: Mapping[str, object]) -> RoomEncryption:
    """Read ``m.room.encryption``; periods beyond reason are moved to the nearest that is not.

    Raises:
        HomeserverError: the algorithm is not Megolm.
    """
    algorithm = content.get("algorithm")
    # Without the state (it was redacted, or is hidden) the room stays encrypted, in the one known way.
    if algorithm not in (None, MEGOLM):
        raise HomeserverError(f"{room} is encrypted in a way that is not known here", 200)
    default = RoomEncryption(room)
    return RoomEncryption(
        room,
        _bounded(content.get("rotation_period_msgs"), _MIN_MESSAGES, _MAX_MESSAGES, default.rotate_after_messages),
        _bounded(content.get("rotation_period_ms"), _MIN_MS, _MAX_MS, default.rotate_after_ms),
    )


def _bounded(value: object, low: int, high: int, default: int) -> int:
    return min(max(value, low), high) if type(value) is int else default
