"""Sessions of others that are broken: their messages cannot be read, and a new session takes their place.

Must not let anybody have us send, or ask their server, for every piece of rubbish that they send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mxrtc_bridge.core.call.limits import MAX_REMEMBERED, RateLimit
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.claims import Claims
from mxrtc_bridge.matrix.crypto.receive_budget import ReceiveBudget
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, UserDevices

log = logging.getLogger(__name__)

UNWEDGE_EVERY_MS = 3600 * 1000
"""A broken session is replaced at most this often."""
MAX_UNWEDGED = 1000
TRIES_A_MINUTE = 6
"""Of one user. All users of other servers have a limit together: the time that the budget gives them."""


class Device(Protocol):
    """Our device."""

    async def devices_of(self, user: UserId) -> UserDevices: ...

    async def send_to_device(
        self, devices: Sequence[DeviceIdentity], event_type: str, content: Mapping[str, Any]
    ) -> None: ...


class BrokenSessions:
    """See the head of this module.

    Args:
        device: ours.
        claims: of our device.
        budget: how long we may ask for it.
        replaced: when sessions were replaced, by the other device's key; kept by us.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        device: Device,
        claims: Claims,
        budget: ReceiveBudget,
        replaced: dict[str, int],
        *,
        wall_ms: Callable[[], int],
    ) -> None:
        self._device = device
        self._claims = claims
        self._budget = budget
        self._replaced = replaced
        self._wall_ms = wall_ms
        self._tries = RateLimit(TRIES_A_MINUTE, TRIES_A_MINUTE * MAX_REMEMBERED)
        self._seldom = RateLimitedLog(log)

    async def replace(self, sender: UserId, curve25519: str) -> None:
        """Begin a new session with a device whose messages we cannot read; it uses the newest from then on."""
        now = self._wall_ms()
        if now - self._replaced.get(curve25519, -UNWEDGE_EVERY_MS) < UNWEDGE_EVERY_MS:
            return
        # Also what ends without a session costs a question: a device that has no key left, a user who lists nothing.
        if not self._tries.allow(sender, elapsed_s()):
            return
        try:
            async with self._budget.asking(sender):
                for device in (await self._device.devices_of(sender)).devices:
                    if device.curve25519 == curve25519:
                        claimed = await self._claims.olm.claim([device])
                        async with self._claims.lock:
                            await self._claims.olm.begin(claimed, anew=True)
                        await self._device.send_to_device([device], "m.dummy", {})
        except HomeserverError as error:
            self._seldom.info(sender, "no new session with %s: %s", sender, error)
            return
        # Only now: where nobody could be asked, the next message has another try.
        self._replaced[curve25519] = now
        while len(self._replaced) > MAX_UNWEDGED:
            del self._replaced[next(iter(self._replaced))]
