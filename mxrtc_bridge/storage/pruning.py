"""Forgetting many rows: in batches, each a transaction of its own, so that nobody else waits long for the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


async def in_batches(batch: Callable[[], Awaitable[int]]) -> int:
    """Forget until a batch has found nothing any more; returns the rows of all of them."""
    forgotten = 0
    while (count := await batch()) > 0:
        forgotten += count
    return forgotten
