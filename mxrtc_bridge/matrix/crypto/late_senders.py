"""Messages of devices that nobody knows, and that could not be asked for while what came behind was to be read.

They are asked for outside of the order, in turns (:mod:`mxrtc_bridge.engine.fair_work`): so whoever has a right gets
their message heard, whatever strangers have used up. Must not hold much, nor for long; what waits is lost with a crash,
and its sender's client asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.olm_sessions import OlmMessage
from mxrtc_bridge.matrix.crypto.outbound import Later
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""How long one device is asked for; our homeserver waits 8 seconds for others."""
MAX_CHARS = 64 * 1024
"""Of the ciphertext of one message that waits; what belongs to a call has a few kilobytes."""


class LateSenders:
    """See the head of this module.

    Args:
        lists: asked for devices.
        later: does it while others are read.
        take: given a message with the device that has sent it; returns what is for others.
        deliver: given that; None where nobody wants it, and nothing waits.
    """

    def __init__(
        self,
        lists: DeviceLists,
        later: Later,
        take: Callable[[UserId, OlmMessage, DeviceIdentity], Awaitable[ToDeviceEvent | None]],
        deliver: Callable[[ToDeviceEvent], Awaitable[None]] | None,
    ) -> None:
        self._lists = lists
        self._later = later
        self._take = take
        self._deliver = deliver
        self._seldom = RateLimitedLog(log)

    def put(self, sender: UserId, message: OlmMessage, content: Mapping[str, Any]) -> bool:
        """Let a message wait until its device was asked for; those of one sender stay in order. False without place."""
        deliver = self._deliver
        if deliver is None or len(str(content.get("ciphertext"))) > MAX_CHARS:
            return False

        async def look() -> None:
            try:
                async with asyncio.timeout(LOOK_S):
                    device = await self._lists.find(sender, message.curve25519, message.ed25519)
                if device is None:
                    self._seldom.info(sender, "x a message of %s is ignored: nobody knows its device", sender)
                elif (event := await self._take(sender, message, device)) is not None:
                    await deliver(event)
            except (MxrtcError, TimeoutError) as error:
                self._seldom.info(sender, "x a message of %s is ignored: %s", sender, error)

        return self._later(sender, look)
