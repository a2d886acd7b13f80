"""What may pass is tried again: a database that is busy, or away for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import StorageError

T = TypeVar("T")

MAX_PAUSE_S = 30.0

log = logging.getLogger(__name__)
_WAITING: set[Callable[[], Awaitable[object]]] = set()
"""What waits now. It is said once for all of it: how much there is may be the choice of others."""


async def ask_until_done(operation: Callable[[], Awaitable[T]], *, pause_s: float, says: bool = True) -> T:
    """Return the result of ``operation``, repeating it with growing pauses while the database is of no use.

    How long that may be is the caller's to say, by a timeout around it.

    Args:
        operation: may be begun again.
        pause_s: seconds after the first failure.
        says: whether the log says that it waits; not where thousands may.

    Raises:
        StorageError: the database works, and refuses this.
    """
    refusals = 0
    try:
        while True:
            try:
                result = await operation()
            except StorageError as error:
                if not error.retryable:
                    raise
                if says and not _WAITING:
                    log.warning("! waiting for the database: %s", error)
                if says:
                    _WAITING.add(operation)
                refusals += 1
            else:
                if {operation} == _WAITING:
                    log.warning("the database works again")
                return result
            await asyncio.sleep(Backoff(pause_s, MAX_PAUSE_S).pause_s(refusals))
    finally:
        _WAITING.discard(operation)
