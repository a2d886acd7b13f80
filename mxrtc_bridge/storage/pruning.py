"""Forgetting many rows: in batches, each a transaction of its own, so that nobody else waits long for the database."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable


async def in_batches(batch: Callable[[], Awaitable[int]], *, at_most: int | None = None) -> int:
    """Forget until a batch has found nothing any more; returns the rows of all of them.

    Args:
        batch: forgets some rows, and says how many.
        at_most: batches of one run; what they leave goes in the next.
    """
    forgotten = 0
    for _ in itertools.count() if at_most is None else range(at_most):
        if (count := await batch()) <= 0:
            break
        forgotten += count
    return forgotten
