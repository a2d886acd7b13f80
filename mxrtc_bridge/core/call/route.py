"""What a call goes by: a room, or two devices that send each other messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId

_DEVICES = "devices:"


@dataclass(frozen=True, slots=True)
class DevicePair:
    """The two ends of a call between devices."""

    local: UserId
    remote: UserId
    device: DeviceId
    """Of the other side."""

    def __str__(self) -> str:
        """As it is stored where otherwise the id of a room stands; no room is called so."""
        return f"{_DEVICES}{self.local} {self.remote} {self.device}"


CallRoute = RoomId | DevicePair


class Signalling(Enum):
    """What carries the events of a call."""

    DEVICE = "device"
    """Messages between two devices."""
    ROOM = "room"


def signalling_of(route: CallRoute) -> Signalling:
    """Return the kind of a route."""
    return Signalling.DEVICE if isinstance(route, DevicePair) else Signalling.ROOM


def read_call_route(stored: str) -> CallRoute:
    """Read what ``str`` has written of a route.

    Raises:
        ValueError: somebody else has written it.
    """
    if not stored.startswith(_DEVICES):
        return RoomId(stored)
    # No user id holds a space.
    local, remote, device = stored.removeprefix(_DEVICES).split(" ", 2)
    return DevicePair(UserId(local), UserId(remote), DeviceId(device))
