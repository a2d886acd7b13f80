"""Does in one go what several want at the same time: what is asked for meanwhile forms the next batch.

A trip to a thread, a lock or a sync costs as much for one file as for hundreds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mxrtc_bridge.core.files.messages import FileError

WantedT = TypeVar("WantedT")
OutcomeT = TypeVar("OutcomeT")

MAX_BATCH = 256
"""Of what is done in one go: a lock that is held for it is held for some milliseconds."""


class Batches(Generic[WantedT, OutcomeT]):
    """One batch at a time.

    Args:
        work: does a batch, and returns what came of each in the same order; must not raise.
    """

    def __init__(self, work: Callable[[Sequence[WantedT]], Awaitable[Sequence[OutcomeT | FileError]]]) -> None:
        self._work = work
        self._waiting: deque[tuple[WantedT, asyncio.Future[OutcomeT]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def do(self, wanted: WantedT) -> OutcomeT:
        """Do it with others; returns what came of it. It is done also if the caller is cancelled.

        Raises:
            FileError: that is what came of it.
        """
        future: asyncio.Future[OutcomeT] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def close(self) -> None:
        """Wait until what was asked for is done."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            outcomes = await self._work([wanted for wanted, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, FileError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
