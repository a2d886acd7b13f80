"""Calls by messages between devices: from those of virtual users to the calls, and back (docs/reference/signal.md).

Must never take a message that came in plain text, or from a device that the policy does not admit, for part of a call;
and never answer anybody but the device that has called. Must never have the messages of one device wait for those of
another: whoever calls is looked up at the homeserver, and meanwhile only what this device has sent waits, in order.
What waits so is not kept over a crash: the look-up takes seconds, and so does the life of an invite.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.calls.redaction import CallRedaction
from mxrtc_bridge.bridge.devices.lookups import DeviceLookups, JudgedCaller, Standing
from mxrtc_bridge.core.bounds.fair_table import FairTable
from mxrtc_bridge.core.call.events import CallEvent, CallMessage, Hangup, Invite, Reject, Version
from mxrtc_bridge.core.call.limits import (
    BUSY,
    BUSY_ANSWERS_A_MINUTE,
    BUSY_ANSWERS_A_MINUTE_OF_SERVER,
    LIMIT_LOG_S,
    RateLimit,
    owner_of,
)
from mxrtc_bridge.core.call.route import CallRoute, DevicePair
from mxrtc_bridge.core.call.to_device import (
    CHANGED_IDENTITY,
    SIGNAL_TYPE,
    UNKNOWN_DEVICE,
    UNLISTED_DEVICE,
    UNTRUSTED_DEVICE,
    CallOrder,
    CallToDevice,
    call_to_device_content,
    parse_call_to_device,
)
from mxrtc_bridge.core.errors import EventError, HomeserverError, MxrtcError, RefusalCode, StorageError
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, UserId
from mxrtc_bridge.engine.ports import Counters
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.retries import ask_until_done
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent

log = logging.getLogger(__name__)

MAX_CHANNELS, MAX_CHANNELS_OF_STRANGERS = 20_000, 1000
"""Devices that have called, and calls of which it is known how much was said: twice as many as there may be live calls
(``limits.calls_total``); and devices without a right. For another device its keys are asked for again."""
MAX_WAITING = 32
"""Messages of one device that wait while it is looked up; the next ones are not heard."""
MAX_LINES, MAX_LINES_OF_SERVER, MAX_LINES_OF_USER = 256, 64, 8
"""Devices that are looked up at a time, in all, of one server and of one user; the next ones are not heard."""

DATABASE_S = 60.0
"""How long a database is waited for that is busy or away; an invite lives no longer."""
DATABASE_PAUSE_S = 0.5

_REASONS = {
    Standing.UNTRUSTED: UNTRUSTED_DEVICE,
    Standing.CHANGED: CHANGED_IDENTITY,
    Standing.UNLISTED: UNLISTED_DEVICE,
    Standing.UNKNOWN: UNKNOWN_DEVICE,
}


@dataclass(frozen=True, slots=True)
class _Message:
    """One message, with the device that it came to and the one that has sent it."""

    device: CryptoDevice
    caller: DeviceIdentity
    signal: CallToDevice


TakeCall = Callable[[CallEvent, UserId], Awaitable[None]]
"""Given each event of a call, with the virtual user."""


class ToDeviceSignalling:
    """Implements :class:`mxrtc_bridge.engine.ports.Signaller` for rooms and devices."""

    def __init__(
        self,
        rooms: CallRedaction,
        device_of: Callable[[UserId], CryptoDevice | None],
        *,
        lookups: DeviceLookups,
        rights: Rights,
        counters: Counters,
        wall_ms: Callable[[], int],
        own_server: str,
        monotonic: Callable[[], float],
    ) -> None:
        """Make it.

        Args:
            rooms: sends what belongs to a call in a room.
            device_of: the device of a virtual user, if it is up.
            lookups: asks what is to be thought of a device that calls.
            rights: the rules in force.
            counters: counts what is refused.
            wall_ms: milliseconds since the epoch.
            own_server: our homeserver; how many of its users may call at once is bounded by :data:`MAX_LINES` alone.
            monotonic: seconds.
        """
        self._own_server = own_server.lower()
        self._monotonic = monotonic
        self._busy_answers = RateLimit(BUSY_ANSWERS_A_MINUTE, BUSY_ANSWERS_A_MINUTE_OF_SERVER, own_server)
        self._at_limit = RateLimitedLog(log, monotonic, period_s=LIMIT_LOG_S)
        self._rooms = rooms
        self._device_of = device_of
        self._lookups = lookups
        self._rights = rights
        self._counters = counters
        self._seldom = RateLimitedLog(log)
        self._wall_ms = wall_ms
        self._order = CallOrder()
        self._callers: FairTable[DevicePair, JudgedCaller] = FairTable(MAX_CHANNELS)
        self._strangers: FairTable[DevicePair, DeviceIdentity] = FairTable(MAX_CHANNELS_OF_STRANGERS)
        self._lines: dict[DevicePair, deque[_Message]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._sent: FairTable[tuple[DevicePair, CallId], int] = FairTable(MAX_CHANNELS)

    @property
    def lines(self) -> int:
        """Devices of which a message waits."""
        return len(self._lines)

    async def run(self) -> None:
        """Own the look-ups, until cancelled; must run before the first message comes."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    # From devices

    async def handle(self, device: CryptoDevice, event: ToDeviceEvent, take: TakeCall) -> None:
        """Take what another device has sent to one of ours; messages of one device come in order.

        Args:
            device: ours.
            event: what was sent.
            take: given what belongs to a call and may be heard; later where the device is looked up before.
        """
        if event.type != SIGNAL_TYPE:
            log.debug("< %s of %s to a device of %s ignored", event.type, event.sender, device.user)
            return
        caller = event.device
        if caller is None:
            self._refused(RefusalCode.PLAIN_SIGNAL, event.sender)
            return
        try:
            message = _Message(device, caller, parse_call_to_device(event.content))
        except EventError as error:
            self._refused(error.code, event.sender, error.in_full)
            return
        channel = DevicePair(device.user, event.sender, caller.device)
        line = self._lines.get(channel)
        if line is not None:
            self._wait_in(line, message)
        elif self._may_call(message) and self._brings_invite(message):
            self._begin_line(channel, message, take)
        else:
            await self._take(channel, message, take)

    def _may_call(self, message: _Message) -> bool:
        return self._rights.allows(message.caller.user, message.device.user)

    def _brings_invite(self, message: _Message) -> bool:
        """Whether this message may lead to an invite being heard: it is one, or one waits for it."""
        return isinstance(message.signal.message, Invite) or self._order.waits(
            message.caller.user, message.caller.device, message.signal.message.call_id
        )

    def _wait_in(self, line: deque[_Message], message: _Message) -> None:
        if len(line) >= MAX_WAITING:
            self._refused(RefusalCode.RATE, message.caller.user)
        else:
            line.append(message)

    def _begin_line(self, channel: DevicePair, message: _Message, take: TakeCall) -> None:
        user, owner = message.caller.user, owner_of(message.caller.user, self._own_server)
        waiting = [line[0].caller.user for line in self._lines.values()]
        full = (
            len(waiting) >= MAX_LINES
            or (
                owner != self._own_server
                and sum(owner_of(each, self._own_server) == owner for each in waiting) >= MAX_LINES_OF_SERVER
            )
            or waiting.count(user) >= MAX_LINES_OF_USER
        )
        if full or self._tasks is None:
            self._refuse_for_now(channel, message)
            return
        self._lines[channel] = deque([message])
        self._tasks.create_task(self._work(channel, take), name="look-up of a caller")

    def _refuse_for_now(self, channel: DevicePair, message: _Message) -> None:
        """Tell a caller with a right that too many call at this moment, unless it was told so again and again."""
        user, invite = message.caller.user, message.signal.message
        self._counters.refusal(RefusalCode.RATE)
        self._at_limit.warning(
            RefusalCode.RATE, "! a call from %s is refused: too many callers are looked up now", user
        )
        if self._tasks is not None and isinstance(invite, Invite) and self._busy_answers.allow(user, self._monotonic()):
            reject = Reject(invite.call_id, PartyId(secrets.token_hex(8)), Version.V1, BUSY)
            self._tasks.create_task(self._send_alone(message, channel, reject), name="call refused by a limit")

    async def _send_alone(self, message: _Message, channel: DevicePair, reject: Reject) -> None:
        try:
            await self._send(message.device, message.caller, channel, reject)
        except MxrtcError as error:
            self._seldom.info(message.caller.user, "a call was not refused in words: %s", error)
        except Exception as error:  # noqa: BLE001 - what it raised would end the look-ups of all callers
            self._seldom.exception(message.caller.user, "! a call was not refused in words", error=error)

    async def _work(self, channel: DevicePair, take: TakeCall) -> None:
        """Take what waits, in order, until nothing does; the first message stays in the line while it is taken."""
        line = self._lines[channel]
        try:
            while line:
                try:
                    await self._take(channel, line[0], take)
                except MxrtcError as error:
                    user = line[0].caller.user
                    self._seldom.warning(user, "! a message of %s was not handled: %s", user, error)
                except Exception as error:  # noqa: BLE001 - a defect of ours is written down, and keeps back no other message
                    user = line[0].caller.user
                    self._seldom.exception(user, "! a message of %s was not handled", user, error=error)
                line.popleft()
        finally:
            del self._lines[channel]

    async def _take(self, channel: DevicePair, message: _Message, take: TakeCall) -> None:
        """Hand on what can be heard now."""
        caller = message.caller
        try:
            ready = self._order.put(caller.user, caller.device, message.signal, has_right=self._may_call(message))
        except EventError as error:
            self._refused(error.code, caller.user, error.in_full)
            return
        for signal in ready:
            admitted = await self._admit(channel, message, signal)
            if admitted is not None:
                event_id = _event_id(channel, signal)
                event = CallEvent(channel, event_id, caller.user, signal.sent_ms, signal.message, admitted.device)
                await self._hand_on(functools.partial(take, event, message.device.user))

    @staticmethod
    async def _hand_on(take: Callable[[], Awaitable[None]]) -> None:
        """Hand on what has been put in its order, which does not come again: a database that is busy is waited for.

        Raises:
            StorageError: it has refused for too long, or for good.
        """
        failure: StorageError | None = None

        async def once() -> None:
            nonlocal failure
            try:
                await take()
            except StorageError as error:
                failure = error
                raise

        try:
            async with asyncio.timeout(DATABASE_S):
                await ask_until_done(once, pause_s=DATABASE_PAUSE_S, says=False)
        except TimeoutError:
            if failure is None:
                raise
            raise failure from None

    async def _admit(self, channel: DevicePair, message: _Message, signal: CallToDevice) -> JudgedCaller | None:
        """The caller as the device is known now; None if it is not heard.

        An invite is judged by what its user's homeserver answers now. What follows must come from the same device,
        with the same key, as the invite.
        """
        by_message = self._lookups.judge_by_message(message.caller)
        if not isinstance(signal.message, Invite):
            known = (self._callers.get(channel.remote, channel) or by_message).under(self._lookups.least)
            if known.identity is not None and known.identity.ed25519 == message.caller.ed25519 and known.is_good:
                return known
        elif self._may_call(message):
            return await self._look_up(channel, message, signal.message)
        elif by_message.is_good:
            # It is refused by who decides on calls, and must be told so: no question is asked for that.
            self._strangers.put(channel.remote, channel, message.caller)
            return by_message
        self._refused(RefusalCode.DEVICE, message.caller.user)
        return None

    async def _look_up(self, channel: DevicePair, message: _Message, invite: Invite) -> JudgedCaller | None:
        caller = await self._lookups.judge(message.device.user, message.caller)
        if caller.is_good:
            self._strangers.pop(channel.remote, channel)
            self._callers.put(channel.remote, channel, caller)
            return caller
        self._refused(RefusalCode.DEVICE, message.caller.user)
        reject = Reject(invite.call_id, PartyId(secrets.token_hex(8)), Version.V1, _REASONS[caller.standing])
        await self._send(message.device, message.caller, channel, reject)
        return None

    def _refused(self, code: RefusalCode, sender: UserId, why: str | None = None) -> None:
        self._counters.refusal(code)
        self._seldom.info(sender, "x a message of a call from %s ignored: %s", sender, why or code)

    # To rooms and devices

    async def send(self, route: CallRoute, sender: UserId, message: CallMessage, *, step: str) -> None:
        """Send an event of a call where the call is.

        Raises:
            HomeserverError: it was not taken, or the other device is not there any more.
        """
        if not isinstance(route, DevicePair):
            await self._rooms.send(route, sender, message, step=step)
            return
        device = self._device_of(sender)
        if device is None:
            # Not worth waiting for: where encryption was turned off it never comes, and leftover calls wait in a line.
            raise HomeserverError(f"the device of {sender} is not up", 404)
        known = self._callers.get(route.remote, route)
        to = self._strangers.get(route.remote, route) if known is None else known.identity
        await self._send(device, to or await self._find(device, route.remote, route.device), route, message)

    async def _find(self, device: CryptoDevice, user: UserId, name: str) -> DeviceIdentity:
        """Find a device that called an earlier run of the bridge."""
        for each in (await device.devices_of(user, fresh=True)).devices:
            if each.device == name:
                return each
        raise HomeserverError(f"a device of {user} is not there any more", 404)

    async def _send(
        self, device: CryptoDevice, caller: DeviceIdentity, channel: DevicePair, message: CallMessage
    ) -> None:
        key = (channel, message.call_id)
        seq = self._sent.pop(channel.remote, key) or 0
        if not isinstance(message, Hangup | Reject):  # after which nothing comes
            self._sent.put(channel.remote, key, seq + 1)
        content = call_to_device_content(CallToDevice(seq, self._wall_ms(), message))
        await device.sender.send([caller], SIGNAL_TYPE, content)


def _event_id(channel: DevicePair, signal: CallToDevice) -> EventId:
    """Name a message as an event: the same one has the same name, however often it comes."""
    digest = hashlib.sha256(f"{channel} {signal.message.call_id} {signal.seq}".encode()).hexdigest()
    return EventId(f"$signal-{digest}")
