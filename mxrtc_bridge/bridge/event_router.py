"""Decides who gets what arrives, from rooms and from devices: verifications, calls, or the bot.

Must never give anybody a call or a command that came in plain text into an encrypted room, or from a device that the
policy does not admit: :mod:`mxrtc_bridge.bridge.devices.decryption` decides that, and nothing goes past it. Only
verifications come before: they find out how far a device is trusted, and what they say is believed only after people
have compared it.
"""

from __future__ import annotations

import asyncio
import logging

from mxrtc_bridge.bridge.bot.bot import Bot
from mxrtc_bridge.bridge.build import CallHandling, Devices
from mxrtc_bridge.bridge.devices.decryption import ClearEvent
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import EVENT_TYPES, CallEvent
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.engine.ports import Counters
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.matrix.inbox.lanes import lane_of
from mxrtc_bridge.matrix.inbox.redactions import WithdrawnEvents
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex

log = logging.getLogger(__name__)


class EventRouter:
    """See the head of this module.

    Args:
        rooms: the virtual user in each room.
        devices: decrypt, and take verifications.
        calls: take calls, and invitations to rooms for them.
        bot: takes commands.
        withdrawn: what was redacted.
        counters: counts what is refused.
        serving: set when calls between devices may be taken; until then they wait.
    """

    def __init__(
        self,
        rooms: RoomIndex,
        devices: Devices,
        calls: CallHandling,
        bot: Bot,
        *,
        withdrawn: WithdrawnEvents,
        counters: Counters,
        serving: asyncio.Event,
    ) -> None:
        self._rooms = rooms
        self._devices = devices
        self._calls = calls
        self._bot = bot
        self._withdrawn = withdrawn
        self._counters = counters
        self._serving = serving
        self._seldom = RateLimitedLog(log)

    async def receive_room_event(self, event: RoomEvent) -> None:
        """Take one event of a room; those of one sender come in order, and so do changes of a room."""
        if lane_of(event):
            await self._calls.peers.settled(event.room_id)
        await self._calls.peers.handle(event)
        local = self._rooms.speaker_in(event.room_id)
        if local is not None and not self._rooms.is_own(event.sender):
            clear = await self._devices.decryption.open(event, local, self._take)
            if clear is not None:
                await self._take(clear)

    async def receive_to_device(self, device: CryptoDevice, event: ToDeviceEvent) -> None:
        """Take what another device has sent to one of ours."""
        if not self._devices.verification_intake.take(device, event):
            # What comes while the bridge starts waits here: it is judged by what is in force once that is done.
            await self._serving.wait()
            await self._calls.signalling.handle(device, event, self._calls.manager.receive)

    async def _take(self, clear: ClearEvent) -> None:
        if self._is_verification(clear):
            return
        event, local = clear.event, clear.local
        caller = await self._devices.decryption.admit(clear)
        if caller is None:
            return
        if event.type not in EVENT_TYPES:
            self._bot.receive_message(event, local)
            return
        if self._withdrawn.holds(event.room_id, event.event_id):
            return  # Redacted, while its key was waited for.
        if self._rooms.peer_in(event.room_id) is None:
            return  # A room that is named for the bot takes no calls.
        try:
            message = parse_message(event.type, event.content)
        except EventError as error:
            self._counters.refusal(error.code)
            self._seldom.info(event.sender, "x %s from %s ignored: %s", event.type, event.sender, error.in_full)
            return
        call = CallEvent(event.room_id, event.event_id, event.sender, event.origin_server_ts, message, caller.device)
        await self._calls.manager.receive(call, local)

    def _is_verification(self, clear: ClearEvent) -> bool:
        if self._withdrawn.holds(clear.event.room_id, clear.event.event_id):
            return False
        device = self._devices.encryption.device_of(clear.local)
        return device is not None and self._devices.verification_intake.take_in_room(device, clear.event)
