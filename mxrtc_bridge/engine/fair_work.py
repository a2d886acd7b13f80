"""Work that others order and that nobody waits for: bounded by who has ordered it, and done in turns.

For what asks other homeservers: whoever reads events or messages hands it over here and goes on reading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mxrtc_bridge.core.bounds.shares import FullShare, ShareLimits, Shares, host_of
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.round_robin import RoundRobin

log = logging.getLogger(__name__)

WAITING = ShareLimits(sender=16, server=64, foreign=128, others=192, total=256)
"""What waits. One verification has six messages, and each asks for the next."""
AT_ONCE = ShareLimits(sender=1, server=2, foreign=4, others=6, total=8)


class FairWork:
    """See the head of this module. Until :meth:`run` runs, what is taken waits.

    Args:
        what: in the log, for what was dropped.
        own_server: the server name of our homeserver.
        has_right: whether a user holds any right; asked only where places become few.
        waiting: how much may be taken and not done yet.
        at_once: how much is done at the same time; of one sender never more than one, so that it is done in order.
    """

    def __init__(
        self,
        what: str,
        own_server: str,
        has_right: Callable[[UserId], bool],
        *,
        waiting: ShareLimits = WAITING,
        at_once: ShareLimits = AT_ONCE,
    ) -> None:
        self._what = what
        self._waiting = Shares(waiting, own_server)
        self._turns = RoundRobin(at_once, own_server, has_right)
        self._has_right = has_right
        self._tasks: asyncio.TaskGroup | None = None
        self._early: list[tuple[UserId, Callable[[], Awaitable[object]]]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._seldom = RateLimitedLog(log)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, sender: UserId, work: Callable[[], Awaitable[object]]) -> bool:
        """Take some work; False, and it is dropped, where a share is full.

        Args:
            sender: who has ordered it.
            work: what to do; what it raises is logged.
        """
        full = self._waiting.full(sender, has_right=self._has_right)
        if full is not None:
            # One line for each share that is full, not for each name that was invented.
            whose = {FullShare.SENDER: sender, FullShare.SERVER: host_of(sender)}.get(full)
            self._seldom.warning(
                (full, whose), "! %s of %s dropped: the share %s is full", self._what, sender, full.value
            )
            return False
        self._waiting.add(sender)
        self._idle.clear()
        if self._tasks is None:
            self._early.append((sender, work))
        else:
            self._tasks.create_task(self._do(sender, work), name=self._what)
        return True

    async def run(self) -> None:
        """Do the work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            early, self._early = self._early, []
            for sender, work in early:
                tasks.create_task(self._do(sender, work), name=self._what)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                # What comes from now on waits until this is begun again.
                self._tasks = None

    async def idle(self) -> None:
        """Return when everything that was taken is done."""
        await self._idle.wait()

    async def _do(self, sender: UserId, work: Callable[[], Awaitable[object]]) -> None:
        try:
            async with self._turns.of(sender):
                await work()
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this work, and no other
            self._seldom.exception(sender, "! %s of %s failed", self._what, sender, error=error)
        finally:
            self._waiting.remove(sender)
            if not len(self._waiting):
                self._idle.set()
