"""What goes into a verification and comes out of it (:mod:`mxrtc_bridge.core.crypto.sas`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.ids import DeviceId, UserId


class Agreement(Protocol):
    """What two ephemeral keys give."""

    def code(self, info: str) -> ShortCode: ...

    def mac(self, text: str, info: str) -> str: ...


class Secret(Protocol):
    """Our ephemeral key."""

    @property
    def public(self) -> str:
        """In unpadded base64."""
        ...

    def agree(self, key: str) -> Agreement:
        """Raises ValueError: that is no key."""
        ...


@dataclass(frozen=True, slots=True)
class LocalKeys:
    """Our end."""

    user: UserId
    device: DeviceId
    keys: Mapping[str, str]
    """The keys that we vouch for, by their ids: that of the device, and that of the identity if it is ours."""


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """What is known of the other user, as the homeserver reports it; verification checks this."""

    user: UserId
    devices: Mapping[DeviceId, str]
    """The ed25519 keys of all devices."""
    master: str | None
    """The identity."""


# Events


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask all of their devices."""

    at_ms: int
    """Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message of this verification has come."""

    type: str
    content: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Compared:
    """Our person has looked at both sides."""

    same: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Our side ends it."""


@dataclass(frozen=True, slots=True)
class VerificationTick:
    """Time has passed."""


VerificationEvent = Ask | Received | Compared | GiveUp | VerificationTick


# Effects


@dataclass(frozen=True, slots=True)
class SendToDevices:
    """Send a message to devices of the other user, in order."""

    devices: tuple[DeviceId, ...]
    type: str
    content: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Compare:
    """Show this, and ask whether the other side shows the same."""

    code: ShortCode


@dataclass(frozen=True, slots=True)
class VerifiedKeys:
    """These keys are the other side's: two people have compared what both sides show."""

    device: DeviceId
    master: str | None
    """The identity, if the other side has vouched for the one that we know."""


@dataclass(frozen=True, slots=True)
class VerificationEnded:
    """Nothing more comes."""

    code: str
    """As in the specification; empty if both sides have verified everything."""
    by_them: bool
    reason: str = ""
    """Theirs, if it was by them: their words."""


Effect = SendToDevices | Compare | VerifiedKeys | VerificationEnded
