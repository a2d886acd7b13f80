"""Messages for one device by ``/sync``: a long poll that brings nothing of rooms, or a question when it is woken up.

Must never lose a message: the token of an answer is stored after its messages have been handled, so that after an
outage of either side, or a crash, the homeserver sends again what was not. A handler may therefore see a message twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.matrix.api.sync import next_batch
from mxrtc_bridge.matrix.crypto.device import CryptoDevice, Handler
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.sync_answer import messages_in
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent

log = logging.getLogger(__name__)

LONG_POLL_S = 50.0
"""Below the 60 s after which many proxies cut a request; each answer also says whether one-time keys are needed."""
ANSWER_SLACK_S = 20.0
LONGEST_PAUSE_S = 30.0
WAKE_POLL_S = 10.0
"""How long the homeserver may look for what it was woken up for: its parts may not have heard of it all at once."""
UNASKED_S = 600.0
"""How often it is asked without a wake-up, so that one that was lost delays a message and no more."""
FULL_ANSWER = 50
"""Messages of one answer from which on there may be more; Synapse sends 100 at most."""


class DeviceSync:
    """The long poll of one device."""

    def __init__(
        self,
        server: KeyServer,
        device: CryptoDevice,
        handler: Handler,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        unasked_s: float = UNASKED_S,
        first_polls_s: float = LONG_POLL_S,
        heard: asyncio.Event | None = None,
    ) -> None:
        """Make it.

        Args:
            server: the homeserver, as the device's user.
            device: the device.
            handler: given each message; those of devices that had to be looked up by other tasks, some time later.
            sleep: waits after a failure.
            jitter: 0 to 1, so that many devices do not ask at once.
            unasked_s: how often it is asked without a wake-up.
            first_polls_s: how long polls are until :meth:`listen` says how it is asked.
            heard: set with the first answer, for which the homeserver is told not to wait: from then on silence means
                that there is nothing.
        """
        self._server = server
        self._device = device
        self._handler = handler
        self._seldom = device.seldom.of(log)
        device.deliver_to(handler)
        self._sleep = sleep
        self._jitter = jitter
        self._unasked_s = unasked_s
        self._failures = 0
        self._heard = heard
        self._by_wakeups = False
        self._poll_s = first_polls_s
        self._woken = asyncio.Event()
        self._woken.set()

    def listen(self, *, by_wakeups: bool) -> None:
        """Ask only after :meth:`wake`, or always; either way the homeserver is asked once now."""
        self._by_wakeups = by_wakeups
        self._poll_s = LONG_POLL_S
        self._woken.set()

    def wake(self) -> None:
        """Say that there is something to be fetched."""
        self._woken.set()

    async def run(self) -> None:
        """Receive until cancelled.

        Raises:
            HomeserverError: it refuses for good.
        """
        while True:
            wait_s = 0.0 if self._failures else await self._next_question()
            try:
                await self.once(wait_s)
            except (HomeserverError, StorageError) as error:
                if isinstance(error, HomeserverError) and not error.retryable:
                    raise
                await self._pause(error)
            else:
                if self._heard is not None:
                    self._heard.set()
                if self._failures:
                    log.info("messages for %s come again", self._device.user)
                self._failures = 0

    async def _next_question(self) -> float:
        """Wait until it is time to ask; returns for how many seconds the homeserver may hold the request."""
        if self._device.sync_token is None or (self._heard is not None and not self._heard.is_set()):
            return 0
        if not self._by_wakeups:
            return self._poll_s
        if not await set_within(self._woken, self._unasked_s * (0.75 + self._jitter() / 2)):
            return 0
        self._woken.clear()
        return WAKE_POLL_S

    async def once(self, wait_s: float) -> int:
        """Ask once and deal with the answer; returns how many messages were handed on.

        Args:
            wait_s: seconds that the homeserver may hold the request.
        """
        answer = await self._server.sync(
            self._device.device_id,
            since=self._device.sync_token,
            wait_s=wait_s,
            timeout_s=wait_s + ANSWER_SLACK_S,
        )
        token = next_batch(answer)
        events = await self._device.receive_sync(answer)
        for event in events:
            await self._handle(event)
        await self._device.settle(token, answer)
        if len(messages_in(answer)) >= FULL_ANSWER:
            self._woken.set()
        return len(events)

    async def _handle(self, event: ToDeviceEvent) -> None:
        try:
            await self._handler(self._device, event)
        except StorageError as error:
            if error.retryable:
                raise  # The whole answer comes again, once the database is there.
            self._seldom.log(
                logging.ERROR,
                event.sender,
                "! a message %s for %s was not handled: %s",
                event.type[:80],
                self._device.user,
                error,
            )
        except Exception as error:  # noqa: BLE001 - one message must never stop those behind it, nor come again for ever
            self._seldom.exception(
                event.sender, "! a message %s for %s was not handled", event.type[:80], self._device.user, error=error
            )

    async def _pause(self, error: Exception) -> None:
        self._failures += 1
        # Whatever comes back may have been put back from a copy.
        self._device.doubt_identity()
        if self._failures == 1:
            log.warning("! no messages for %s: %s", self._device.user, error)
        asked_s = error.wait_s if isinstance(error, HomeserverError) else 0.0
        await self._sleep(Backoff(0.5, LONGEST_PAUSE_S).pause_s(self._failures, self._jitter(), asked_s))
