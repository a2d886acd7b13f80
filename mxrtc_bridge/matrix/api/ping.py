"""Whether the homeserver is there, and whether it reaches us.

Must never give up because the homeserver is merely away, and never go on with a token that it refuses.

Synapse stops pushing after one failed transaction and tries again after 2, 4, ... 512 seconds; a ping makes it try at
once. So the bridge pings at its start, then regularly, soon after the homeserver has failed a device of ours, or we
could not take a transaction, and every few seconds while it fails: an outage of either side ends as soon as both are
up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from mxrtc_bridge.core.bounds.backoff import LONGEST_ASKED_S, Backoff
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver, TokenOwner
from mxrtc_bridge.matrix.api.transport import Repeat

log = logging.getLogger(__name__)

PING_EVERY_S = 60.0
PING_RETRY_S = 3.0
NO_PING_S = 3600.0
"""Between questions where the homeserver has no ping (before version 1.7 of the specification, and Dendrite): it may be
upgraded."""

UNKNOWN_TOKEN = ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN")
"""What a homeserver says to a token that it does not know; some say it already where none is needed."""
REGISTER_FIRST = (
    "the homeserver does not know the bridge's token; list the registration file under app_service_config_files "
    "in homeserver.yaml, restart the homeserver, and see that as_token is the same in both files"
)
_PING_HINTS = {
    "M_URL_NOT_SET": "the registration has no url, so the homeserver sends no events",
    "M_CONNECTION_FAILED": "the homeserver cannot connect to the url of the registration; is it right seen from there?",
    "M_CONNECTION_TIMEOUT": "the url of the registration does not answer the homeserver in time",
    "M_BAD_STATUS": "the url of the registration leads to something that refuses the homeserver; is hs_token the same?",
    "M_FORBIDDEN": "the homeserver knows this token by another appservice id",
}

_REACHED_ALREADY = (": AlreadyCancelled:", ": AlreadyCalled:")
"""Synapse (1.163) says that it cannot connect also where it has, and then cannot begin to send what waits, as it is
doing so already: what it names is the exception of a timer (``_Recoverer.force_retry``)."""


async def wait_for_homeserver(
    homeserver: QuietHomeserver,
    *,
    first_s: float = 0.5,
    longest_s: float = 15.0,
    told_s: float = 2.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> TokenOwner:
    """Wait until the homeserver answers, however long it takes, and check our token.

    What it is waited for is logged at once, and each time it is something else. What is none of Matrix comes from a
    proxy in front of it, and is waited for as well: who started us may try no second time.

    Args:
        homeserver: asked with the appservice's token.
        first_s: pause after the first failure; doubles from then on.
        longest_s: longest pause.
        told_s: how long no answer at all is nothing to be told.
        sleep: waits between attempts.

    Returns:
        Whom the token stands for: the sender of the registration.

    Raises:
        HomeserverError: it refuses us, or the token; the remedy is in the message.
    """
    failures, said, asked_s = 0, "", 0.0
    while True:
        asking = asyncio.ensure_future(_ask(homeserver))
        try:
            done, _ = await asyncio.wait([asking], timeout=told_s)
            if not done and not said:
                said = "it has not answered yet"
                log.warning("waiting for the homeserver: %s", said)
            identity = await asking
        except HomeserverError as error:
            if error.errcode in UNKNOWN_TOKEN:
                raise HomeserverError(REGISTER_FIRST, error.status, error.errcode) from error
            if not error.retryable:
                raise
            if str(error) != said:
                said = str(error)
                log.warning("waiting for the homeserver: %s", said)
            failures += 1
            asked_s = error.wait_s
        else:
            if said:
                log.info("the homeserver is there")
            return identity
        finally:
            asking.cancel()
        await sleep(Backoff(first_s, longest_s).pause_s(failures, asked_s=asked_s))


async def _ask(homeserver: QuietHomeserver) -> TokenOwner:
    # Not repeated there, which would take a minute and tell nobody.
    await homeserver.versions(Repeat.NEVER)
    return await homeserver.whoami(repeat=Repeat.NEVER)


async def ping(homeserver: QuietHomeserver, appservice_id: str) -> int:
    """Have the homeserver reach us once.

    Returns:
        Milliseconds that the homeserver measured, or that it took.

    Raises:
        HomeserverError: it did not reach us; the message has the probable cause.
    """
    began = elapsed_s()
    try:
        return await homeserver.ping_appservice(appservice_id, secrets.token_hex(8))
    except HomeserverError as error:
        if error.errcode == "M_CONNECTION_FAILED" and any(each in str(error) for each in _REACHED_ALREADY):
            return round((elapsed_s() - began) * 1000)
        hint = _PING_HINTS.get(error.errcode)
        if hint is None:
            raise
        raise HomeserverError(f"{hint} ({error})", error.status, error.errcode, error.wait_s) from error


async def ping_loop(
    homeserver: QuietHomeserver,
    appservice_id: str,
    *,
    on_change: Callable[[HomeserverError | None], None] | None = None,
    every_s: float = PING_EVERY_S,
    retry_s: float = PING_RETRY_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Ping for ever: now, every ``every_s`` seconds, every ``retry_s`` seconds while it fails, and hourly in vain.

    Args:
        homeserver: pings with the appservice's token.
        appservice_id: ``id`` of the registration.
        on_change: told when the way has opened (None) or closed (the error).
        every_s: seconds between pings while all is well.
        retry_s: seconds between pings after a failure.
        sleep: waits between pings.
    """
    reached: bool | None = None
    told_of_none = False
    while True:
        problem: HomeserverError | None = None
        try:
            duration = await ping(homeserver, appservice_id)
        except HomeserverError as error:
            problem = error
        if problem is not None and problem.errcode == "M_UNRECOGNIZED":
            if not told_of_none:
                log.info("whether the homeserver reaches the bridge is not told: it has no ping")
            # It has answered: who waits for its return may go on.
            if (reached is not None or not told_of_none) and on_change is not None:
                on_change(None)
            told_of_none = True
            reached = None
            await sleep(NO_PING_S)
            continue
        if (problem is None) is not reached:
            reached = problem is None
            if problem is None:
                log.info("the homeserver reaches the bridge (%d ms)", duration)
            else:
                log.warning("the homeserver does not reach the bridge: %s", problem)
            if on_change is not None:
                on_change(problem)
        await sleep(every_s if problem is None else max(retry_s, min(problem.wait_s, LONGEST_ASKED_S)))


class HomeserverReturn:
    """Lets those whom the homeserver has failed ask again as soon as it is back, and not after a back-off of their own.

    :func:`ping_loop` asks for all of them: give it :meth:`until_next_ping` as ``sleep``, and :meth:`changed`.

    Args:
        least_s: between two pings, whoever doubts.
    """

    def __init__(self, *, least_s: float = PING_RETRY_S) -> None:
        self._least_s = least_s
        self._doubted = asyncio.Event()
        self._back = asyncio.Event()
        self.reachable = False
        """Whether all was well with the last ping; before the first one it is not known to be."""

    async def pause(self, seconds: float) -> None:
        """Wait after a failure: until the homeserver is back, but no longer than ``seconds``."""
        self.doubt()
        await set_within(self._back, seconds)

    def doubt(self) -> None:
        """Have it pinged soon."""
        self._doubted.set()

    async def until_next_ping(self, seconds: float) -> None:
        """Wait until it is time to ping: sooner than ``seconds`` if somebody doubts that all is well."""
        least_s = min(seconds, self._least_s)
        await asyncio.sleep(least_s)
        await set_within(self._doubted, seconds - least_s)
        self._doubted.clear()

    def changed(self, problem: HomeserverError | None) -> None:
        """Take what the pings have found: None where the way is open again."""
        self.reachable = problem is None
        if problem is None:
            self._back.set()
            self._back.clear()  # who waits goes on, and who comes later waits
