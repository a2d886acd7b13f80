"""Devices joined in memory for verifications, with the real key agreement."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent, UserDevices
from tests.core.crypto.sas_ends import ALICE, BUILD, DEVICES, LAPTOP, MASTERS, PEER, PHONE, key

__all__ = ["ALICE", "BUILD", "LAPTOP", "MASTERS", "PEER", "PHONE", "Device", "key"]


def _like(user: UserId) -> UserId:
    """Whose keys a user has: ``@user1`` and so on those of Alice, ``@rtc_1`` those of the peer."""
    return ALICE if user.startswith("@user") else PEER if user.startswith("@rtc_") else user


@dataclass
class Device:
    """A device of ours, as far as verification needs one; what it sends is collected."""

    user: UserId
    device_id: DeviceId
    identity: bool = True
    sent: list[tuple[UserId, DeviceId, str, Mapping[str, Any]]] = field(default_factory=list)
    fails: Exception | None = None
    queries: int = 0
    seldom: RateLimitedLog = field(default_factory=lambda: RateLimitedLog(logging.getLogger(__name__)))

    @property
    def sender(self) -> Device:
        """What is sent with it is kept here as well."""
        return self

    @property
    def ed25519(self) -> str:
        return DEVICES[_like(self.user)][self.device_id]

    @property
    def master_key(self) -> str | None:
        return MASTERS[_like(self.user)] if self.identity else None

    async def devices_of(self, user: UserId, *, fresh: bool = False) -> UserDevices:
        assert fresh or user == self.user
        self.queries += 1
        like = _like(user)
        devices = DEVICES.get(like, {})
        listed = tuple(DeviceIdentity(user, name, each, "c", Trust.CROSS_SIGNED) for name, each in devices.items())
        return UserDevices(user, listed, MASTERS.get(like), MASTERS.get(like))

    async def send_plain(
        self, user: UserId, devices: Iterable[DeviceId], event_type: str, content: Mapping[str, Any]
    ) -> None:
        if self.fails is not None:
            raise self.fails
        self.sent += [(user, each, event_type, content) for each in devices]

    def take(self, device: DeviceId) -> list[ToDeviceEvent]:
        """What was sent to one device since it was last taken."""
        mine = [each for each in self.sent if each[1] == device]
        self.sent = [each for each in self.sent if each[1] != device]
        return [ToDeviceEvent(kind, self.user, content, None) for _, _, kind, content in mine]

    @property
    def cancelled(self) -> list[str]:
        """Codes of the cancellations that went out and were not taken."""
        return [str(content["code"]) for _, _, kind, content in self.sent if kind == "m.key.verification.cancel"]
