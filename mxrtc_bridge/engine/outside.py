"""Threads for what others may keep waiting: the resolver of a target's name, and the disk behind a target.

The threads of the loop also read transactions and resolve the name of the homeserver. So nothing that may hang is done
there: it would keep the end of a right from being heard. What hangs here keeps targets waiting, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

THREADS = 32

_threads = ThreadPoolExecutor(THREADS, "mxrtc-outside")
_under_way: dict[Hashable, asyncio.Future[Any]] = {}


def in_thread(work: Callable[..., Result], *args: object) -> asyncio.Future[Result]:
    """Do in a thread what may hang."""
    return asyncio.get_running_loop().run_in_executor(_threads, work, *args)


async def in_one_thread(work: Callable[..., Result], *args: Hashable) -> Result:
    """Ask in a thread for what may hang; who asks the same meanwhile has the same answer, and takes no other thread.

    So one name or path that hangs takes one thread, however often it is asked for. The question goes on when whoever
    has asked it is cancelled.
    """
    what = (asyncio.get_running_loop(), work, args)
    future = _under_way.get(what)
    if future is None:
        future = _under_way[what] = in_thread(work, *args)
        future.add_done_callback(lambda _: _under_way.pop(what, None))
    answer: Result = await asyncio.shield(future)
    return answer
