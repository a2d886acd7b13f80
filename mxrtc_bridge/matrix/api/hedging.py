"""A request that is sent once more beside one that is silent, as a connection that has lost packets may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

FINAL = 2
"""Rank of a failure after which the same request, sent again, would only fail again."""


async def hedged(send: Callable[[], Coroutine[Any, Any, T]], hedge_s: float, rank: Callable[[BaseException], int]) -> T:
    """Send, and once more after some seconds of silence; whichever comes to an end that counts is taken.

    TCP doubles its pause with each packet that is lost in a row, so on a line that loses a fifth a new connection is
    answered long before an unlucky one goes on.

    Args:
        send: sends a request that has the same effect once or twice, at the same time too, and returns what came of it.
        hedge_s: seconds of silence until the second.
        rank: how much an exception of ``send`` says: ``FINAL`` for an answer, of others more for those that tell more.
            One that is not final leaves the word to the other request: it may be a second too many that is refused,
            while the first is being answered.

    Raises:
        Exception: of ``send``: a final one, or of two others the one that tells more.
    """
    waiting = {asyncio.create_task(send(), name="request")}
    asking = set(waiting)
    failed: list[BaseException] = []
    try:
        done, _ = await asyncio.wait(waiting, timeout=hedge_s)
        if not done:
            asking.add(asyncio.create_task(send(), name="hedged request"))
        waiting = set(asking)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answered = [each for each in done if each.exception() is None]
            if answered:
                return answered[0].result()
            failed += [error for each in done if (error := each.exception()) is not None]
            if max(map(rank, failed)) >= FINAL:
                break
        raise max(failed, key=rank)
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
