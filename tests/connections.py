"""Connections to servers that a test runs in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OwnedConnections:
    """Connections that end with whoever owns them: a server that is closed lets those go on that it has taken."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def guarded(self, handler: Handler) -> Handler:
        """Return a handler for a server; the end of its other side is no failure."""

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._open.add(task)
            try:
                with suppress(OSError, asyncio.CancelledError):
                    await handler(reader, writer)
            finally:
                self._open.discard(task)
                writer.close()

        return guarded

    async def close(self) -> None:
        """End them all."""
        ending = tuple(self._open)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
