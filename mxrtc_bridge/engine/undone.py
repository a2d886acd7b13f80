"""What was asked for and is not wanted any more, when the answer comes: it is taken back.

A request that has left cannot be called back. Whoever is cancelled while it is under way would leave behind what it has
made, and nobody would know of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

WITHIN_S = 3.0
"""How long what is not wanted any more may take to come, and as long again to be taken back."""


async def undone_if_cancelled(
    making: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[object]], *, within_s: float = WITHIN_S
) -> T:
    """Wait for something that is made; if whoever waits is cancelled, take it back.

    Args:
        making: makes it. Goes on for a while when whoever waits is cancelled.
        undo: takes it back; how that ends is of no interest.
        within_s: how long each of the two may take then.
    """
    made = asyncio.create_task(making, name="what may be taken back")
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        await asyncio.wait([made], timeout=within_s)
        if made.done() and not made.cancelled() and made.exception() is None:
            await taken_back(undo(made.result()), within_s=within_s)
        raise
    finally:
        if not made.done():
            made.cancel()
            await asyncio.gather(made, return_exceptions=True)


async def taken_back(undoing: Awaitable[object], *, within_s: float = WITHIN_S) -> None:
    """Take something back on the way out of a failure, which says more than that this has failed as well."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(within_s):
            await undoing
