"""What a person in front of a command learns while it waits, and how long that may be.

Within some seconds what is known, or else what is waited for; a cause is kept, whatever comes after it. A homeserver
that cannot be reached is tried again for a moment only: the person, or a loop around the command, decides about more.
What it asks to wait for itself (a rate limit) is waited for as long as there is time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Says
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.matrix.api.reach import Reach
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy

HOMESERVER = Reach.ANSWER.value
"""What is waited for, unless somebody says otherwise."""
FIRST_TOLD_S = 1.5
TOLD_EVERY_S = 8.0
FAILING_S = 1.0
"""How long a homeserver is tried that does not take connections, or answers with failures of its own."""

HEDGE_S = 3.0
"""A new connection takes less on any line on which a call can be made."""


class Waiting:
    """One command that waits for the homeserver, and perhaps for others behind it.

    Args:
        report: where to say what is waited for.
        timeout_s: how long silence may last.
    """

    def __init__(self, report: Says, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.cause: HomeserverError | None = None
        """Why the homeserver did not answer last, as long as it is waited for."""
        self._step = HOMESERVER
        self._reach = Reach.ANSWER
        self._report = report

    @property
    def step(self) -> str:
        """What is waited for: as long as the homeserver is not reached, what it takes to do so."""
        homeserver = self._step.startswith(HOMESERVER)
        return self._reach.value if homeserver and self._reach is not Reach.ANSWER else self._step

    @property
    def patience(self) -> RequestPolicy:
        """How to ask the homeserver."""
        retry = RetryPolicy(self.timeout_s, failing_s=FAILING_S)
        return RequestPolicy(retry, self.timeout_s, HEDGE_S, self._change, self._reached)

    def waits_for(self, what: str) -> None:
        """From now on this is waited for."""
        self._step = what

    def _change(self, error: HomeserverError | None) -> None:
        self.cause = error

    def _reached(self, reach: Reach) -> None:
        self._reach = reach

    @contextlib.asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Inside of the context say what is waited for (:attr:`step`), and end it after ``timeout_s``.

        Raises:
            ClientError: it took too long; says for what, and what is known.
        """
        self.cause = None
        async with self.told(lambda: self.step):
            try:
                async with asyncio.timeout(self.timeout_s) as limit:
                    yield
            except TimeoutError:
                if not limit.expired():
                    raise
                raise self.too_long(self.step) from None

    @contextlib.asynccontextmanager
    async def told(self, what: Callable[[], str], name: str = "") -> AsyncIterator[None]:
        """Inside of the context say what is waited for, once that takes long enough to wonder.

        Args:
            what: for what, at the moment.
            name: whom it is about, if it is about somebody.
        """
        telling = asyncio.create_task(self._tell(what, name), name="progress")
        try:
            yield
        finally:
            telling.cancel()

    def too_long(self, what: str) -> ClientError:
        """What to say when ``what`` was waited for in vain."""
        if self.cause is not None:
            return ClientError(Exit.RETRY, f"{self.cause} (tried for {self.timeout_s:g} seconds)")
        return ClientError(Exit.RETRY, f"no answer within {self.timeout_s:g} seconds; waited for {what}")

    async def _tell(self, what: Callable[[], str], name: str) -> None:
        pause = FIRST_TOLD_S
        while True:
            await asyncio.sleep(pause)
            pause = TOLD_EVERY_S
            waiting_for = what()
            why = f" ({self.cause})" if self.cause is not None else ""
            sentence = f"waiting for {waiting_for}{why}"
            self._report.say(
                "waiting",
                f"{name}: {sentence}" if name else sentence,
                waiting_for=waiting_for,
                cause=None if self.cause is None else str(self.cause),
            )
