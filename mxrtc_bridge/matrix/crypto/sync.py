"""Messages for one device by ``/sync``: a long poll that brings nothing of rooms.

Must never lose a message: the token of an answer is stored after its messages have been handled, so that after an
outage of either side, or a crash, the homeserver sends again what was not. A handler may therefore see a message twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent

_log = logging.getLogger(__name__)

LONG_POLL_S = 50.0
"""Below the 60 s after which many proxies cut a request; each answer also says whether one-time keys are needed."""
ANSWER_SLACK_S = 20.0
LONGEST_PAUSE_S = 30.0

Handler = Callable[[CryptoDevice, ToDeviceEvent], Awaitable[None]]


class DeviceSync:
    """The long poll of one device."""

    def __init__(
        self,
        server: KeyServer,
        device: CryptoDevice,
        handler: Handler,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._server = server
        self._device = device
        self._handler = handler
        self._sleep = sleep
        self._jitter = jitter
        self._failures = 0

    async def run(self) -> None:
        """Receive until cancelled.

        Raises:
            HomeserverError: it refuses for good.
        """
        while True:
            try:
                await self.once(0 if self._failures or self._device.sync_token is None else LONG_POLL_S)
            except (HomeserverError, StorageError) as error:
                if isinstance(error, HomeserverError) and not error.retryable:
                    raise
                await self._pause(error)
            else:
                if self._failures:
                    _log.info("messages for %s come again", self._device.user)
                self._failures = 0

    async def once(self, wait_s: float) -> int:
        """Ask once and deal with the answer; returns how many messages were handed on.

        Args:
            wait_s: seconds that the homeserver may hold the request.
        """
        answer = await self._server.sync(
            self._device.device_id,
            since=self._device.sync_token,
            wait_s=wait_s,
            timeout_s=wait_s + ANSWER_SLACK_S,
        )
        token = _token(answer)
        events = await self._device.receive_sync(answer)
        for event in events:
            await self._handle(event)
        await self._device.settle(token, answer)
        return len(events)

    async def _handle(self, event: ToDeviceEvent) -> None:
        try:
            await self._handler(self._device, event)
        except Exception:  # noqa: BLE001 - as the comment says
            # One message must never stop those behind it, nor come again for ever.
            _log.exception("! a message %s for %s was not handled", event.type[:80], self._device.user)

    async def _pause(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.warning("! no messages for %s: %s", self._device.user, error)
        pause = min(0.5 * 2.0 ** min(self._failures - 1, 20), LONGEST_PAUSE_S)
        await self._sleep(pause * (0.75 + self._jitter() / 2))


def _token(answer: dict[str, Any]) -> str:
    token = answer.get("next_batch")
    if not isinstance(token, str) or not 0 < len(token) <= 4096:
        raise HomeserverError("the answer to /sync holds no next_batch", 200)
    return token
