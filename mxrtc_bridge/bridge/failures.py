"""What becomes of failures in the work that the bridge does again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError, MxrtcError, StorageError, first_error
from mxrtc_bridge.engine.cancellation import is_told_to_end

ResultT = TypeVar("ResultT")

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Until something that has failed is begun again."""
STEADY_S = 300.0
"""What has run for this time has not failed again and again, but anew."""


async def outlive(consequence: str, work: Callable[[], Awaitable[None]]) -> bool:
    """Do work whose failure must not end the bridge, as it is tried again when it is due; False if it has failed."""
    try:
        await work()
    except MxrtcError as error:
        log.error("! %s: %s", consequence, error)
    except Exception:
        log.exception("! %s", consequence)
    else:
        return True
    return False


async def keep_running(what: str, run: Callable[[], Awaitable[object]], *, ends: type[Exception] | None = None) -> None:
    """Own a task that serves for as long as the bridge runs: when it ends it is logged, and begun again after a pause.

    It ends only when it is told to, that is, when whoever runs this is cancelled. A CancelledError that nobody meant
    for it (what it waited for was cancelled) is a failure like others, and so is its return.

    Args:
        what: it is, for the log.
        run: runs until cancelled; may be begun again after it has failed.
        ends: raised by it where it has ended in order; passed on.
    """
    loop, failures = asyncio.get_running_loop(), 0
    while True:
        began_s = loop.time()
        try:
            await run()
            log.error("! %s has ended by itself", what)
        except asyncio.CancelledError:
            if is_told_to_end():
                raise
            log.exception("! %s was cancelled by nobody who may", what)
        except Exception as error:
            if ends is not None and isinstance(error, ends):
                raise
            cause = first_error(error) if isinstance(error, ExceptionGroup) else error
            if isinstance(cause, MxrtcError):
                log.error("! %s has failed: %s", what, cause)
            else:
                log.exception("! %s has failed", what)
        failures = 1 if loop.time() - began_s > STEADY_S else failures + 1
        pause_s = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S).pause_s(failures)
        log.warning("%s begins again in %g s", what, pause_s)
        await asyncio.sleep(pause_s)


async def until_possible(what: str, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Do a step of the start, again and again while the database or the homeserver is away; returns its result.

    Args:
        what: is done, for the log.
        work: may be begun again after it has failed.

    Raises:
        MxrtcError: it will not be possible later either.
    """
    failures = 0
    while True:
        try:
            result = await work()
        except (HomeserverError, StorageError) as error:
            if not error.retryable:
                raise
            failures += 1
            if failures == 1:
                log.warning("! %s waits: %s", what, error)
        else:
            if failures:
                log.info("%s: done", what)
            return result
        await asyncio.sleep(Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S / 2).pause_s(failures))
