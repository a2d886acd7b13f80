"""The memory of encryption: one :class:`DeviceStore` for each own user, implemented where the tables are.

Changes that belong together go through :meth:`DeviceStore.save` in one transaction: above all a key that came in a
message, and the state of the session that has decrypted it, because the message cannot be decrypted a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mxrtc_bridge.core.crypto.records import (
    AccountRecord,
    Changes,
    InboundRecord,
    OlmRecord,
    OpenedRecord,
    OutboundRecord,
    RoomEncryption,
    UserRecord,
)
from mxrtc_bridge.core.ids import EventId, RoomId, UserId


class DeviceStore(Protocol):
    """The memory of one user's device; every method may raise StorageError, and has then changed nothing."""

    async def account(self) -> AccountRecord | None: ...

    async def save(self, changes: Changes) -> None: ...

    async def forget(self, *, but: AccountRecord | None = None) -> None:
        """Remove everything but what is known of other users and of rooms: the device has been replaced.

        Args:
            but: the device, where it stays and only its sessions go.
        """
        ...

    async def opened(self) -> Sequence[OpenedRecord]:
        """Messages that were decrypted and are not dealt with, of whichever device of the user."""
        ...

    async def olm_sessions(self, curve25519: str) -> Sequence[OlmRecord]:
        """Newest first."""
        ...

    async def inbound(self, room: RoomId, session_id: str, user: UserId) -> InboundRecord | None:
        """The session that ``user`` has sent the key of: nobody can put another in its place."""
        ...

    async def outbound(self, room: RoomId) -> OutboundRecord | None: ...

    async def claim_index(self, room: RoomId, session_id: str, index: int, event_id: EventId, now_ms: int) -> bool:
        """Remember which event used an index; False if it was another one: a replay."""
        ...

    async def user(self, user: UserId) -> UserRecord | None: ...

    async def mark_outdated(self, users: Sequence[UserId] | None) -> None:
        """Note that these users' keys, or those of everybody, must be asked for anew."""
        ...

    async def room(self, room: RoomId) -> RoomEncryption | None:
        """How the room is encrypted; None if it never was."""
        ...
