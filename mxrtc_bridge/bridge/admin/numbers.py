"""Numbers of what people name by a number: sessions, verifications, questions. None is ever given twice.

They are taken from the database in blocks, the next one before the last is used up, so that as a rule nobody waits for
a write. Where the database fails when all are used up, whoever needs a number gets its error instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.counters import CounterStore

log = logging.getLogger(__name__)

BLOCK = 64
RETRY_S = 15.0


class Numbers:
    """The numbers of one kind.

    Args:
        store: the database.
        name: what is numbered.
        block: how many are taken at a time.
        sleep: waits before a failed reservation is tried again.
    """

    def __init__(
        self,
        store: CounterStore,
        name: str,
        *,
        block: int = BLOCK,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._name = name
        self._block = block
        self._sleep = sleep
        self._free: list[range] = []
        """At most two blocks."""
        self._low = asyncio.Event()
        self._reserving = asyncio.Lock()

    async def next(self) -> int:
        """A number that was never given before.

        Raises:
            StorageError: none is left, and the database does not give any.
        """
        while not self._free:
            await self._reserve(unless_more_than=0)
        numbers = self._free.pop(0)
        if len(numbers) > 1:
            self._free.insert(0, numbers[1:])
        if self._left <= self._block // 2:
            self._low.set()
        return numbers[0]

    async def run(self) -> None:
        """Take blocks ahead, until cancelled."""
        while True:
            try:
                await self._reserve(unless_more_than=self._block // 2)
            except StorageError as error:
                log.warning("! no numbers for %s ahead: %s", self._name, error)
                await self._sleep(RETRY_S)
                continue
            self._low.clear()
            await self._low.wait()

    @property
    def _left(self) -> int:
        return sum(map(len, self._free))

    async def _reserve(self, *, unless_more_than: int) -> None:
        async with self._reserving:
            if self._left <= unless_more_than:
                first = await self._store.reserve(self._name, self._block)
                self._free.append(range(first, first + self._block))


class NumbersOfBridge:
    """All kinds that a bridge has. After making them you should run :meth:`run` in a task.

    Args:
        store: the database.
    """

    def __init__(self, store: CounterStore) -> None:
        self.sessions = Numbers(store, "session")
        self.verifications = Numbers(store, "verification")
        self.questions = Numbers(store, "question")

    async def run(self) -> None:
        """Take blocks ahead, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for numbers in (self.sessions, self.verifications, self.questions):
                tasks.create_task(numbers.run(), name="numbers")
