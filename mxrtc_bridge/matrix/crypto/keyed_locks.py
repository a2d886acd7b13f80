"""A lock for each of many names, which is there only while somebody holds it or waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from weakref import WeakValueDictionary


class KeyedLocks:
    """Locks by name, given in the order in which they were asked for; never more than there are tasks that use them."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    @contextlib.asynccontextmanager
    async def alone_with(self, names: Collection[str]) -> AsyncIterator[None]:
        """Have nobody else inside such a block with any of the names; whoever is late waits."""
        async with contextlib.AsyncExitStack() as held:
            # In one order everywhere, so that nobody waits in a circle.
            for name in sorted(set(names)):
                await held.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
            yield
