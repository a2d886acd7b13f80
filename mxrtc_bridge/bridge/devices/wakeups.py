"""Fetching messages for devices when a transaction of the homeserver says that there are some, instead of long polls.

The homeserver must have been told to say it, by two experimental switches and the registration. Must never trust that
it does: a message that one of our devices sends to itself shows it, at the start and again every some minutes. As long
as no announcement comes of it, all devices keep their long polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.core.errors import HomeserverError, MxrtcError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.sync import DeviceSync

log = logging.getLogger(__name__)

PROBE_TYPE = "io.mxrtc.probe"
ANSWER_S = 20.0
"""How long the announcement of a probe may take."""
EVERY_S = 300.0
FIRST_POLLS_S = 5.0
"""How long polls are until it is known whether wake-ups come, so that few are left when they do."""
AGAIN_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Until the next probe after one that was not announced, and after the following ones."""
PAUSE_FACTOR = 3
"""How long changes are collected after some were noted, in times what that took."""
LONGEST_PAUSE_S = 5.0
"""But no longer than that: a database that was away must not keep changes from being noted once it is back."""
MAX_CHANGED = 10_000
"""Users whose changes wait to be noted; beyond that everybody is asked for anew."""


class DeviceWakeups:
    """See the head of this module.

    Args:
        devices: our devices that are up, with their polls.
        sleep: waits until the next probe.
    """

    def __init__(
        self,
        devices: Callable[[], Collection[tuple[CryptoDevice, DeviceSync]]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._answer_s = answer_s
        self._devices = devices
        self._sleep = sleep
        self._heard = asyncio.Event()
        self._changed: set[UserId] = set()
        self._has_changed = asyncio.Event()
        self._seldom = RateLimitedLog(log)
        self.in_use: bool | None = None
        """Whether devices wait for wake-ups; None until it is known whether any come."""

    def hear(self, news: DeviceListChanges) -> None:
        """Take what a transaction says."""
        log.debug("< news %r", news)
        if news.waiting:
            self._heard.set()
        if news.changed and self.in_use:
            # Else the long polls bring it.
            if len(self._changed) <= MAX_CHANGED:
                self._changed |= news.changed
            self._has_changed.set()
        for device, sync in self._devices():
            if news.incomplete or device.user in news.waiting:
                sync.wake()

    async def run(self) -> None:
        """Find out whether wake-ups come, and pass on whose devices have changed; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._note_changes(), name="changed devices")
            misses = 0
            while True:
                self._use(await self._come())
                await self._sleep(EVERY_S if self.in_use else AGAIN_S[min(misses, len(AGAIN_S) - 1)])
                misses = 0 if self.in_use else misses + 1

    async def _come(self) -> bool:
        """Whether a message to one of our devices is announced."""
        devices = self._devices()
        if not devices:
            return False
        device, _ = next(iter(devices))
        self._heard.clear()
        try:
            await device.sender.send_plain(device.user, [device.device_id], PROBE_TYPE, {})
            async with asyncio.timeout(self._answer_s):
                await self._heard.wait()
        except (HomeserverError, TimeoutError) as error:
            log.debug("a probe was not announced: %r", error)
            return False
        return True

    def _use(self, come: bool) -> None:
        if come is self.in_use:
            return
        self.in_use = come
        if come:
            log.info("messages for devices are announced by transactions; they are fetched then")
        else:
            log.warning("! messages for devices are not announced by transactions; they are polled for until they are")
        for _, sync in self._devices():
            sync.listen(by_wakeups=come)

    async def _note_changes(self) -> None:
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changed, self._changed = self._changed, set()
            began_s = asyncio.get_running_loop().time()
            for device, _ in self._devices():
                try:
                    if len(changed) > MAX_CHANGED:
                        await device.lists.mark_all_outdated()
                    else:
                        await device.lists.mark_outdated(sorted(changed))
                except MxrtcError as error:
                    self._seldom.warning(str(error), "! changed devices were not noted for %s: %s", device.user, error)
                    if isinstance(error, StorageError) and error.retryable:
                        # What is stored would count as up to date, so all are told once more.
                        self._changed |= changed
                        self._has_changed.set()
            # Each peer notes them for itself: one user's changes, over and over, leave most of the time to others.
            took_s = asyncio.get_running_loop().time() - began_s
            await asyncio.sleep(min(PAUSE_FACTOR * took_s, LONGEST_PAUSE_S))
