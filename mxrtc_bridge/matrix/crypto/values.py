"""What encryption is about, as frozen values: devices, identities, and what became of an encrypted event.

Keys are unpadded base64, as everywhere in Matrix. Contents are hidden from ``repr`` because they hold SDP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import DeviceId, UserId

OLM = "m.olm.v1.curve25519-aes-sha2"
MEGOLM = "m.megolm.v1.aes-sha2"


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """A device of a user and what is known of it."""

    user: UserId
    device: DeviceId
    ed25519: str
    """Key that signs: the device's fingerprint."""
    curve25519: str
    """Key that Olm sessions are made with."""
    trust: Trust = Trust.UNSIGNED


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """The keys of a device as it has published them; their own signature was checked."""

    user: UserId
    device: DeviceId
    ed25519: str
    curve25519: str
    signed: Mapping[str, Any] = field(repr=False, compare=False)
    """The signed object itself, for the signatures of others."""


@dataclass(frozen=True, slots=True)
class CrossSigningKeys:
    """The public identity of a user: the chain from its master key was checked."""

    user: UserId
    master: str
    self_signing: str


@dataclass(frozen=True, slots=True)
class UserDevices:
    """Everything that is known of one user's devices."""

    user: UserId
    devices: tuple[DeviceIdentity, ...]
    master: str | None
    """The identity that the homeserver shows now."""
    pinned: str | None
    """The identity that was seen first, or accepted since."""

    @property
    def identity_changed(self) -> bool:
        """Whether the identity is another than the one that was seen first."""
        return self.pinned is not None and self.master != self.pinned


@dataclass(frozen=True, slots=True)
class ToDeviceEvent:
    """An event that was sent to our device."""

    type: str
    sender: UserId
    content: Mapping[str, Any] = field(repr=False)
    device: DeviceIdentity | None
    """The device that has encrypted it; None for one that came in plain text."""


@dataclass(frozen=True, slots=True)
class Decrypted:
    """An event of a room, decrypted."""

    type: str
    content: Mapping[str, Any] = field(repr=False)
    device: DeviceIdentity
    """The device that has sent it."""


class Obstacle(Enum):
    """Why an event cannot be read; the value is for people."""

    NO_KEY = "its key has not been received"
    WITHHELD = "the sending device keeps its key from this one"
    UNKNOWN_ALGORITHM = "it is encrypted in a way that is not known here"
    MALFORMED = "it is damaged"
    REPLAY = "it repeats an earlier message"


@dataclass(frozen=True, slots=True)
class Undecryptable:
    """An event of a room that cannot be read."""

    obstacle: Obstacle
    session_id: str = ""
    withheld: str = ""
    """The code of ``m.room_key.withheld``, where one came."""
    device: str | None = field(default=None, compare=False)
    """The device that says that it has sent the event: good for asking it, and for nothing else."""

    @property
    def may_come(self) -> bool:
        """Whether waiting for the key makes sense."""
        return self.obstacle is Obstacle.NO_KEY
