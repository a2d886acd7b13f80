"""The keys of our Megolm sessions on their way to devices: who has one, who has to be asked first, who gets none.

Must never wait for anybody: it is called under the lock of our device, and what it encrypts is handed back as letters,
which are sent when nothing is locked any more. Who gets the key is decided by
:mod:`mxrtc_bridge.matrix.crypto.outbound`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.crypto.records import OutboundRecord
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.olm_sessions import OlmSessions
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import MEGOLM, DeviceIdentity

DEVICES_PER_REQUEST = 100
CLAIM_AGAIN_MS = 5 * 60 * 1000
"""A device that had no key left is asked for one again after this long."""
MAX_WITHOUT_KEY = 1000
"""Devices without a key that are remembered; the one of longest ago is forgotten, and asked again."""

_REASONS = {
    "m.unverified": "This bridge sends its keys only to devices that their users have verified.",
    "m.no_olm": "No secure channel to your device could be made.",
}


@dataclass(slots=True)
class RoomSession:
    """A Megolm session of ours: as it is stored, and as it encrypts."""

    record: OutboundRecord
    olm: Any


@dataclass(slots=True)
class Letter:
    """What was encrypted for some devices, and is sent when nothing is locked any more."""

    session: RoomSession
    event_type: str
    messages: dict[UserId, dict[str, Mapping[str, object]]]
    shared: frozenset[tuple[UserId, DeviceId, str]] = frozenset()
    """Who has the key once it is sent."""
    withheld: frozenset[tuple[UserId, DeviceId]] = frozenset()
    """Who was told then that they do not get it."""


class KeySharing:
    """See the head of this module.

    Args:
        account: our device.
        olm: its sessions, by which keys are sent.
        store: remembers those sessions.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self, account: OwnAccount, olm: OlmSessions, store: DeviceStore, *, wall_ms: Callable[[], int]
    ) -> None:
        self._account = account
        self._olm = olm
        self._store = store
        self._wall_ms = wall_ms
        self._without_key = Latest[tuple[UserId, str], int](MAX_WITHOUT_KEY)

    async def to_ask(self, devices: Sequence[DeviceIdentity]) -> list[DeviceIdentity]:
        """Those that there is no session with, but for those that had no key left a moment ago."""
        now = self._wall_ms()
        return [
            each
            for each in await self._olm.lacking(devices)
            if now - self._without_key.get((each.user, each.device), -CLAIM_AGAIN_MS) >= CLAIM_AGAIN_MS
        ]

    async def share(
        self,
        session: RoomSession,
        key: Mapping[str, object],
        devices: Sequence[DeviceIdentity],
        asked: Collection[DeviceIdentity],
        letters: list[Letter],
    ) -> list[DeviceIdentity]:
        """Encrypt a key for those who do not have it; returns who could not be asked for a session yet."""
        new = without_it(session.record, devices)
        if not new:
            return []
        without: list[DeviceIdentity] = []
        for start in range(0, len(new), DEVICES_PER_REQUEST):
            without += await self._encrypt_key(session, new[start : start + DEVICES_PER_REQUEST], key, letters)
        for device in without:
            if device in asked:
                self._without_key[device.user, device.device] = self._wall_ms()
        # Whoever was not asked, because it has come just now, is asked with the next message.
        none_left = [each for each in without if each in asked or (each.user, each.device) in self._without_key]
        self.withhold(session, none_left, "m.no_olm", letters)
        return [each for each in without if each not in none_left]

    async def _encrypt_key(
        self,
        session: RoomSession,
        devices: Sequence[DeviceIdentity],
        content: Mapping[str, Any],
        letters: list[Letter],
    ) -> list[DeviceIdentity]:
        """Encrypt the key for some devices; returns those that there is no session with."""
        messages: dict[UserId, dict[str, Mapping[str, object]]] = {}
        reached: list[DeviceIdentity] = []
        for device in devices:
            encrypted = await self._olm.encrypt(device, "m.room_key", content)
            if encrypted is not None:
                messages.setdefault(device.user, {})[device.device] = encrypted
                reached.append(device)
        if messages:
            await self._store.save(self._olm.changes())
            self._olm.saved()
            shared = frozenset((each.user, each.device, each.curve25519) for each in reached)
            letters.append(Letter(session, "m.room.encrypted", messages, shared=shared))
        return [device for device in devices if device not in reached]

    def withhold(
        self, session: RoomSession, devices: Sequence[DeviceIdentity], code: str, letters: list[Letter]
    ) -> None:
        """Tell those who were not told yet why they do not get the key; of many, the next ones the next time."""
        untold = (each for each in devices if (each.user, each.device) not in session.record.withheld)
        new = list(islice(untold, DEVICES_PER_REQUEST))
        if not new:
            return
        messages: dict[UserId, dict[str, Mapping[str, object]]] = {}
        for device in new:
            content: dict[str, object] = {
                "algorithm": MEGOLM,
                "code": code,
                "reason": _REASONS[code],
                "sender_key": self._account.curve25519,
            }
            # "m.no_olm" is about the device as a whole, and names no session (specification, "Reporting that …").
            if code != "m.no_olm":
                content |= {"room_id": session.record.room, "session_id": session.record.session_id}
            messages.setdefault(device.user, {})[device.device] = content
        withheld = frozenset((each.user, each.device) for each in new)
        letters.append(Letter(session, "m.room_key.withheld", messages, withheld=withheld))


def key_of(session: RoomSession) -> dict[str, object]:
    """What gives a device the key of a session, from the next message on."""
    return {
        "algorithm": MEGOLM,
        "room_id": session.record.room,
        "session_id": session.record.session_id,
        "session_key": session.olm.session_key.to_base64(),
    }


def without_it(record: OutboundRecord, devices: Sequence[DeviceIdentity]) -> list[DeviceIdentity]:
    """Those that do not have the key of a session."""
    return [each for each in devices if (each.user, each.device, each.curve25519) not in record.shared]
