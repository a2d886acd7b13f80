"""Writes down what became of stored events: many outcomes in one database transaction.

One commit for each event would cost a disk flush for each event. Instead the outcomes that come in while a commit is
under way are written together by the next one. The price: after a crash the events of the last commits may be handled
once more, so handlers must know a repetition (calls are claimed durably; a hangup of an ended call does nothing).

Never loses an outcome while the process lives: when the database refuses, it is asked again until it takes them, and
:meth:`EventOutcomes.put` lets its callers wait once ``limit`` outcomes are held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mxrtc_bridge.core.inbox import EventOutcome
from mxrtc_bridge.engine.retries import ask_until_done

BATCH = 500


class EventOutcomes:
    """The outcomes that are not yet in the database."""

    def __init__(
        self, settle: Callable[[Sequence[EventOutcome]], Awaitable[None]], *, limit: int = 1000, pause_s: float = 1.0
    ) -> None:
        self._settle = settle
        self._limit = limit
        self._pause_s = pause_s
        self._held: deque[EventOutcome] = deque()
        self._given = 0
        self._settled = 0
        self._changed = asyncio.Event()

    @property
    def held(self) -> int:
        """Verdicts that are not yet committed."""
        return len(self._held)

    async def put(self, outcome: EventOutcome) -> int:
        """Hand over an outcome; waits while too many are held. Returns its ticket for :meth:`settled`."""
        while len(self._held) >= self._limit:
            await self._changed.wait()
        self._held.append(outcome)
        self._given += 1
        self._signal()
        return self._given

    async def settled(self, ticket: int) -> None:
        """Return when the outcome of this ticket, and all before it, are committed."""
        while self._settled < ticket:
            await self._changed.wait()

    async def run(self) -> None:
        """Write outcomes until cancelled."""
        while True:
            while not self._held:
                await self._changed.wait()
            batch = [self._held[place] for place in range(min(BATCH, len(self._held)))]

            async def settle(batch: Sequence[EventOutcome] = batch) -> None:
                await self._settle(batch)

            await ask_until_done(settle, pause_s=self._pause_s)
            for _ in batch:
                self._held.popleft()
            self._settled += len(batch)
            self._signal()

    def _signal(self) -> None:
        """Wake all that wait; each looks for itself whether its wait is over."""
        self._changed.set()
        self._changed = asyncio.Event()
