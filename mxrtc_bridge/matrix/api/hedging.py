"""A request that is sent once more beside one that is silent, as a connection that has lost packets may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def hedged(
    send: Callable[[], Coroutine[Any, Any, T]], hedge_s: float, is_answer: Callable[[BaseException], bool]
) -> T:
    """Send, and once more after some seconds of silence; whichever is answered first counts.

    TCP doubles its pause with each packet that is lost in a row, so on a line that loses a fifth a new connection is
    answered long before an unlucky one goes on.

    Args:
        send: sends a request that has the same effect once or twice, and returns what came of it.
        hedge_s: seconds of silence until the second.
        is_answer: whether an exception of ``send`` is an answer too; others leave the word to the other request.

    Raises:
        Exception: of ``send``: an answer, or that of the last of two failures.
    """
    waiting = {asyncio.create_task(send(), name="request")}
    asking = set(waiting)
    try:
        done, _ = await asyncio.wait(waiting, timeout=hedge_s)
        if not done:
            asking.add(asyncio.create_task(send(), name="hedged request"))
        waiting = set(asking)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                error = each.exception()
                if not waiting or error is None or is_answer(error):
                    return each.result()
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
