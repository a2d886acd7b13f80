"""What encryption remembers, and the store that keeps it: one :class:`CryptoStore` per user of ours.

Everything secret in a record is a pickle that the Olm library has encrypted with the pickle key. Changes that belong
together go through :meth:`CryptoStore.save` in one transaction: above all a key that came in a message, and the state
of the session that has decrypted it, because the message cannot be decrypted a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.crypto.values import DeviceId, RoomEncryption


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """The device itself."""

    device: DeviceId
    pickle: str = field(repr=False)
    uploaded: bool = False
    """Whether the homeserver has its keys."""
    fallback_ms: int = 0
    """When the fallback key was made; 0 for none."""
    sync_token: str | None = None
    """Of the last answer that was dealt with completely."""


@dataclass(frozen=True, slots=True)
class OlmRecord:
    """One session with one other device."""

    curve25519: str
    session_id: str
    pickle: str = field(repr=False)
    used_ms: int
    """When the other side last used it; the newest is the one to encrypt with."""


@dataclass(frozen=True, slots=True)
class InboundRecord:
    """A Megolm session of somebody else."""

    room: RoomId
    session_id: str
    pickle: str = field(repr=False)
    user: UserId
    curve25519: str
    """Of the device that has sent the key."""
    ed25519: str
    device: DeviceId
    received_ms: int


@dataclass(frozen=True, slots=True)
class OutboundRecord:
    """Our Megolm session of one room."""

    room: RoomId
    session_id: str
    pickle: str = field(repr=False)
    created_ms: int
    messages: int
    shared: frozenset[tuple[UserId, DeviceId, str]]
    """User, device and curve25519 key of everyone who has it."""
    withheld: frozenset[tuple[UserId, DeviceId]] = frozenset()
    """Who was told that they do not get it."""


@dataclass(frozen=True, slots=True)
class UserRecord:
    """What is known of another user's keys."""

    user: UserId
    keys_json: str = field(repr=False)
    """The checked answer of ``/keys/query``: ``{"master", "self_signing", "devices"}``; empty before the first."""
    queried_ms: int
    outdated: bool
    pinned_master: str | None = None
    verified_master: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is saved together."""

    account: AccountRecord | None = None
    olm: Sequence[OlmRecord] = ()
    inbound: Sequence[InboundRecord] = ()
    outbound: Sequence[OutboundRecord] = ()
    users: Sequence[UserRecord] = ()
    rooms: Sequence[RoomEncryption] = ()


class CryptoStore(Protocol):
    """The memory of one user's device; every method may raise StorageError, and has then changed nothing."""

    async def account(self) -> AccountRecord | None: ...

    async def save(self, changes: Changes) -> None: ...

    async def forget(self) -> None:
        """Remove everything but what is known of other users and of rooms: the device has been replaced."""
        ...

    async def olm_sessions(self, curve25519: str) -> Sequence[OlmRecord]:
        """Newest first."""
        ...

    async def inbound(self, room: RoomId, session_id: str, user: UserId) -> InboundRecord | None:
        """The session that ``user`` has sent the key of: nobody can put another in its place."""
        ...

    async def outbound(self, room: RoomId) -> OutboundRecord | None: ...

    async def drop_outbound(self, room: RoomId) -> None: ...

    async def claim_index(self, room: RoomId, session_id: str, index: int, event_id: EventId) -> bool:
        """Remember which event used an index; False if it was another one: a replay."""
        ...

    async def user(self, user: UserId) -> UserRecord | None: ...

    async def mark_outdated(self, users: Sequence[UserId]) -> None: ...

    async def room(self, room: RoomId) -> RoomEncryption | None:
        """How the room is encrypted; None if it never was."""
        ...

    async def prune(self, now_ms: int) -> int:
        """Forget sessions that nobody will use; returns how many."""
        ...
