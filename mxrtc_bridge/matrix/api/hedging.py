"""A request that is sent again beside those that are silent, as connections that have lost packets may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

FINAL = 2
"""Rank of a failure after which the same request, sent again, would only fail again."""

MAX_REQUESTS = 4
"""Of one question, at a time: of connections that lose a fifth in each direction, one in five is silent for three
seconds, and whoever asks waits for fifteen. A homeserver that is slow has to bear no more than that."""


async def hedged(send: Callable[[], Coroutine[Any, Any, T]], hedge_s: float, rank: Callable[[BaseException], int]) -> T:
    """Send, and again after each some seconds of silence; whichever comes to an end that counts is taken.

    TCP doubles its pause with each packet that is lost in a row, so on a line that loses a fifth a new connection is
    answered long before an unlucky one goes on.

    Args:
        send: sends a request that has the same effect once or several times, at the same time too, and returns what
            came of it.
        hedge_s: seconds of silence until the next, up to :data:`MAX_REQUESTS`; once one has failed there is no other.
        rank: how much an exception of ``send`` says: ``FINAL`` for an answer, of others more for those that tell more.
            One that is not final leaves the word to the other requests: it may be one too many in a second that is
            refused, while the first is being answered.

    Raises:
        Exception: of ``send``: a final one, or of the others the one that tells most.
    """
    waiting = {asyncio.create_task(send(), name="request")}
    asking = set(waiting)
    failed: list[BaseException] = []
    try:
        while waiting:
            more = not failed and len(asking) < MAX_REQUESTS
            done, waiting = await asyncio.wait(
                waiting, timeout=hedge_s if more else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                waiting.add(asyncio.create_task(send(), name="hedged request"))
                asking |= waiting
                continue
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
