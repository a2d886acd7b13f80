"""One-time keys of other devices, asked for while nothing is locked.

A key of a device at another server is fetched from that server, which may let us wait as long as it likes. Meanwhile
our device must go on reading and answering everybody else. So the lock of the device is held before, to see who lacks
a session, and after, to begin the sessions and to encrypt; never between. A session that came meanwhile is used, and
the key that was claimed for it is dropped. Where a message goes to several, the slow servers among them are not waited
for longer than :mod:`mxrtc_bridge.matrix.crypto.patience` says.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from mxrtc_bridge.core.ids import server_of
from mxrtc_bridge.matrix.crypto.olm_sessions import ClaimedKey, OlmSessions
from mxrtc_bridge.matrix.crypto.patience import Patience
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
        patience: how long servers are waited for where not all devices must be had.
    """

    def __init__(self, olm: OlmSessions, lock: asyncio.Lock, patience: Patience) -> None:
        self.olm = olm
        self.lock = lock
        self.patience = patience

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
        *,
        began_s: float | None = None,
        others: Callable[[Target, Sequence[DeviceIdentity]], bool] = lambda _target, _missing: False,
    ) -> Result:
        """Encrypt for some devices, with new sessions where there are none.

        Args:
            look: tells who they are; it may ask others, as nothing is locked.
            lacking: tells which of them lack a session, and None if they are to be looked for anew; asks nobody.
            use: encrypts, and is given those that were asked for a key, for those without a session then have none
                left. It asks nobody but our own homeserver.
            began_s: when the waiting has begun, by the clock of the loop, where the slow may be left out.
            others: whether there is somebody to encrypt for beside those that lack a session.

        Raises:
            HomeserverError: it did not answer.
        """
        tried: dict[DeviceIdentity, None] = {}
        asked: dict[DeviceIdentity, None] = {}
        claimed: Sequence[ClaimedKey] = ()
        for turn in range(1, TURNS + 1):
            target = await look()
            async with self.lock:
                await self.olm.begin(claimed)
                found = await lacking(target)
                missing = [device for device in found or () if device not in tried]
                if turn == TURNS or (found is not None and not missing):
                    return await use(target, frozenset(asked))
            tried |= dict.fromkeys(missing)
            if began_s is None:
                claimed, answered = await self.olm.claim(missing), missing
            else:
                claimed, answered = await self._claim(missing, began_s, others(target, missing))
            asked |= dict.fromkeys(answered)
        raise AssertionError("the last turn returns")

    async def _claim(
        self, devices: Sequence[DeviceIdentity], began_s: float, somebody: bool
    ) -> tuple[list[ClaimedKey], list[DeviceIdentity]]:
        """The keys that came in time, and the devices whose servers have answered."""
        by_server: dict[str, list[DeviceIdentity]] = {}
        for device in devices:
            by_server.setdefault(server_of(device.user), []).append(device)

        def is_enough(answers: Mapping[str, list[ClaimedKey]]) -> bool:
            return somebody or any(answers.values())

        questions = {server: functools.partial(self.olm.claim, each) for server, each in by_server.items()}
        answers = await self.patience.ask("keys", questions, began_s, is_enough)
        return (
            [key for keys in answers.values() for key in keys],
            [device for server in answers for device in by_server[server]],
        )
