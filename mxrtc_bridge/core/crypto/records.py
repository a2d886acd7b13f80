"""What is remembered of encryption, and how far a device is trusted: values that the edges share.

Everything secret in a record is a pickle that the Olm library has encrypted with the pickle key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId


class Trust(Enum):
    """How far a device is known to belong to its user; ordered by :meth:`meets`."""

    UNSIGNED = "any"
    """The user has not signed it, or its user's identity has changed: only the homeserver vouches for it."""
    CROSS_SIGNED = "cross-signed"
    """Signed by its user, whose identity is the one that was seen first."""
    VERIFIED = "verified"
    """As before, and the identity was compared over another way."""

    def meets(self, least: Trust) -> bool:
        """Whether this is at least ``least``."""
        order = list(Trust)
        return order.index(self) >= order.index(least)


@dataclass(frozen=True, slots=True)
class CallerDevice:
    """Which device has called, as its encryption proves it."""

    device: DeviceId
    ed25519: str
    """Its fingerprint."""
    trust: Trust
    master: str | None = None
    """The identity that its user showed when it called; None if there was none, or nobody has asked."""

    def __str__(self) -> str:
        return f"{self.device} ({self.trust.value})"


@dataclass(frozen=True, slots=True)
class RoomEncryption:
    """How a room is encrypted (``m.room.encryption``)."""

    room: RoomId
    rotate_after_messages: int = 100
    rotate_after_ms: int = 604_800_000


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
    user: str = ""
    """Whose device it is; empty where an earlier version has stored it."""


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
class OpenedRecord:
    """A message that was decrypted, and is not dealt with yet."""

    name: str
    user: str
    """Who has sent it."""
    sealed: str = field(repr=False)
    """What it says, encrypted."""
    opened_ms: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What is saved together."""

    account: AccountRecord | None = None
    olm: Sequence[OlmRecord] = ()
    inbound: Sequence[InboundRecord] = ()
    outbound: Sequence[OutboundRecord] = ()
    users: Sequence[UserRecord] = ()
    rooms: Sequence[RoomEncryption] = ()
    opened: Sequence[OpenedRecord] = ()
    dealt_with: Sequence[str] = ()
    """Names of opened messages that are forgotten."""
