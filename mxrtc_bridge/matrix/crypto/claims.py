"""One-time keys of other devices, asked for while nothing is locked.

A key of a device at another server is fetched from that server, which may let us wait as long as it likes. Meanwhile
our device must go on reading and answering everybody else. So the lock of the device is held before, to see who lacks
a session, and after, to begin the sessions and to encrypt; never between. A session that came meanwhile is used, and
the key that was claimed for it is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mxrtc_bridge.matrix.crypto.olm_sessions import ClaimedKey, OlmSessions
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

Target = TypeVar("Target")
Result = TypeVar("Result")

TURNS = 3
"""How often it is looked who lacks a session; keys are claimed between. Then what there is serves."""


class Claims:
    """See the head of this module.

    Args:
        olm: the sessions of our device.
        lock: of our device; held by whoever uses them.
    """

    def __init__(self, olm: OlmSessions, lock: asyncio.Lock) -> None:
        self.olm = olm
        self.lock = lock

    async def for_devices(self, devices: Sequence[DeviceIdentity], use: Callable[[], Awaitable[Result]]) -> Result:
        """Do something under the lock that needs a session with each of some devices; see :meth:`run`."""

        async def look() -> Sequence[DeviceIdentity]:
            return devices

        return await self.run(look, self.olm.lacking, lambda _devices, _asked: use())

    async def run(
        self,
        look: Callable[[], Awaitable[Target]],
        lacking: Callable[[Target], Awaitable[Sequence[DeviceIdentity] | None]],
        use: Callable[[Target, frozenset[DeviceIdentity]], Awaitable[Result]],
    ) -> Result:
        """Encrypt for some devices, with new sessions where there are none.

        Args:
            look: tells who they are; it may ask others, as nothing is locked.
            lacking: tells which of them lack a session, and None if they are to be looked for anew; asks nobody.
            use: encrypts, and is given those that were asked for a key, for those without a session then have none
                left. It asks nobody but our own homeserver.

        Raises:
            HomeserverError: it did not answer.
        """
        asked: dict[DeviceIdentity, None] = {}
        claimed: Sequence[ClaimedKey] = ()
        for turn in range(1, TURNS + 1):
            target = await look()
            async with self.lock:
                await self.olm.begin(claimed)
                found = await lacking(target)
                missing = [device for device in found or () if device not in asked]
                if turn == TURNS or (found is not None and not missing):
                    return await use(target, frozenset(asked))
            claimed = await self.olm.claim(missing)
            asked |= dict.fromkeys(missing)
        raise AssertionError("the last turn returns")
