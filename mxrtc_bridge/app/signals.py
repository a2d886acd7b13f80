"""Calls by messages between devices: from the devices of our users to the calls, and back (docs/reference/signal.md).

Must never take a message that came in plain text, or from a device that the policy does not admit, for part of a call;
and never answer anybody but the device that has called.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from mxrtc_bridge.app.device_policy import shows_another_identity
from mxrtc_bridge.app.rights import Rights
from mxrtc_bridge.core.encryption import CallerDevice
from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.events import CallEvent, CallMessage, Invite, Reject, Version
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, UserId
from mxrtc_bridge.core.policy import Allow
from mxrtc_bridge.core.signal import (
    CHANGED_IDENTITY,
    SIGNAL_TYPE,
    UNTRUSTED_DEVICE,
    Signal,
    SignalOrder,
    channel_ends,
    channel_of,
    parse_signal,
    signal_content,
)
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent

log = logging.getLogger("mxrtc_bridge.signals")

MAX_CHANNELS = 1000
"""Devices that have called, and whose keys are at hand; for another one they are asked for again."""
LOOK_EVERY_MS = 2000
"""How often the devices of a user are asked for anew because one of them is not trusted enough."""


class RoomSignaller(Protocol):
    """Sends events of calls into rooms."""

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> None: ...


class Refusals(Protocol):
    """Counts what is refused."""

    def refusal(self, code: str) -> None: ...


class Signals:
    """Implements :class:`mxrtc_bridge.engine.ports.Signaller` for rooms and devices."""

    def __init__(
        self,
        rooms: RoomSignaller,
        device_of: Callable[[UserId], CryptoDevice | None],
        receive: Callable[[CallEvent, UserId], Awaitable[None]],
        *,
        rights: Rights,
        counters: Refusals,
        wall_ms: Callable[[], int],
    ) -> None:
        """Make it.

        Args:
            rooms: sends what belongs to a call in a room.
            device_of: the device of one of our users, if it is up.
            receive: given each event of a call, with our user.
            rights: the rules in force, the policy for devices among them.
            counters: counts what is refused.
            wall_ms: milliseconds since the epoch.
        """
        self._rooms = rooms
        self._device_of = device_of
        self._receive = receive
        self._rights = rights
        self._counters = counters
        self._wall_ms = wall_ms
        self._order = SignalOrder()
        self._callers: OrderedDict[RoomId, DeviceIdentity] = OrderedDict()
        self._looked: OrderedDict[tuple[UserId, UserId], int] = OrderedDict()
        self._sent: OrderedDict[tuple[RoomId, CallId], int] = OrderedDict()

    # From devices

    async def handle(self, device: CryptoDevice, event: ToDeviceEvent) -> None:
        """Take what another device has sent to one of ours; messages of one device come in order."""
        if event.type != SIGNAL_TYPE:
            log.debug("< %s of %s to a device of %s ignored", event.type, event.sender, device.user)
            return
        caller = event.device
        if caller is None:
            self._refused("plain_signal", event.sender)
            return
        try:
            signal = parse_signal(event.content)
            if not caller.trust.meets(self._rights.config.encryption.least):
                caller = await self._look_again(device, caller, signal)
            if not caller.trust.meets(self._rights.config.encryption.least):
                await self._refuse_device(device, caller, signal)
                return
            ready = self._order.put(event.sender, caller.device, signal)
        except EventError as error:
            self._refused(error.code, event.sender)
            return
        channel = channel_of(device.user, event.sender, caller.device)
        self._remember(channel, caller)
        for each in ready:
            event_id = _event_id(channel, each)
            known = CallerDevice(caller.device, caller.ed25519, caller.trust)
            call_event = CallEvent(channel, event_id, event.sender, each.sent_ms, each.message, known)
            await self._receive(call_event, device.user)

    async def _look_again(self, device: CryptoDevice, caller: DeviceIdentity, signal: Signal) -> DeviceIdentity:
        """Ask how far a device is trusted now: where no room is shared, nobody tells us that it was signed."""
        may_call = isinstance(self._rights.may_call(caller.user, device.user), Allow)
        now_ms = self._wall_ms()
        key = (device.user, caller.user)
        if not (
            isinstance(signal.message, Invite)
            and may_call
            and now_ms - self._looked.get(key, -LOOK_EVERY_MS) >= LOOK_EVERY_MS
        ):
            return caller
        self._looked[key] = now_ms
        self._looked.move_to_end(key)
        if len(self._looked) > MAX_CHANNELS:
            self._looked.popitem(last=False)
        try:
            found = await device.devices_of(caller.user, fresh=True)
        except HomeserverError as error:
            log.info("the devices of %s could not be asked for: %s", caller.user, error)
            return caller
        same = [each for each in found.devices if (each.device, each.ed25519) == (caller.device, caller.ed25519)]
        return same[0] if same else caller

    async def _refuse_device(self, device: CryptoDevice, caller: DeviceIdentity, signal: Signal) -> None:
        self._refused("device", caller.user)
        if isinstance(signal.message, Invite) and isinstance(self._rights.may_call(caller.user, device.user), Allow):
            changed = await shows_another_identity(device, caller.user)
            reason = CHANGED_IDENTITY if changed else UNTRUSTED_DEVICE
            reject = Reject(signal.message.call_id, PartyId(secrets.token_hex(8)), Version.V1, reason)
            await self._send(device, caller, channel_of(device.user, caller.user, caller.device), reject)

    def _refused(self, code: str, sender: UserId) -> None:
        self._counters.refusal(code)
        log.info("x a message of a call from %s ignored: %s", sender, code)

    def _remember(self, channel: RoomId, caller: DeviceIdentity) -> None:
        self._callers[channel] = caller
        self._callers.move_to_end(channel)
        if len(self._callers) > MAX_CHANNELS:
            self._callers.popitem(last=False)

    # To rooms and devices

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> None:
        """Send an event of a call where the call is.

        Raises:
            HomeserverError: it was not taken, or the other device is not there any more.
        """
        ends = channel_ends(room)
        if ends is None:
            await self._rooms.send(room, sender, message, step=step)
            return
        device = self._device_of(sender)
        if device is None:
            raise HomeserverError(f"the device of {sender} is not up")
        caller = self._callers.get(room) or await self._find(device, ends.remote, ends.device)
        await self._send(device, caller, room, message)

    async def _find(self, device: CryptoDevice, user: UserId, name: str) -> DeviceIdentity:
        """Find a device that called an earlier run of the bridge."""
        for each in (await device.devices_of(user, fresh=True)).devices:
            if each.device == name:
                return each
        raise HomeserverError(f"a device of {user} is not there any more", 404)

    async def _send(self, device: CryptoDevice, caller: DeviceIdentity, channel: RoomId, message: CallMessage) -> None:
        key = (channel, message.call_id)
        seq = self._sent.get(key, 0)
        self._sent[key] = seq + 1
        self._sent.move_to_end(key)
        if len(self._sent) > MAX_CHANNELS:
            self._sent.popitem(last=False)
        content = signal_content(Signal(seq, self._wall_ms(), message))
        await device.send_to_device([caller], SIGNAL_TYPE, content)


def _event_id(channel: RoomId, signal: Signal) -> EventId:
    """Name a message as an event: the same one has the same name, however often it comes."""
    digest = hashlib.sha256(f"{channel} {signal.message.call_id} {signal.seq}".encode()).hexdigest()
    return EventId(f"$signal-{digest}")
