"""The SCTP association of a peer connection: joins the pure machine (:mod:`mxrtc_bridge.sctp`) to DTLS and the loop.

It gives the machine packets and the time, sends what it wants sent, keeps one timer for its next deadline, and tells
its listener what happened. All of that happens in *turns*: one after each batch of packets, one when the timer fires,
and one for all calls that were made in the same turn of the loop. In a turn events are told first, so that what they
make the listener send leaves with the same acknowledgements; the listener is never called from inside one of its calls.

What it must never do: raise into the event loop because of the other side, or work for long without letting others
read: a turn sends a bounded number of packets, tells for a bounded time, and goes on in the next turn of the loop.

The time is that of the monotonic clock, not the loop's: uvloop's has milliseconds, which is longer than a round trip.

One file: one turn is read, told and sent by methods of one object; a part of it in another file would need all of its
state.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from random import random

from mxrtc_bridge.core.errors import StateError, TransportError
from mxrtc_bridge.core.stream import silence
from mxrtc_bridge.engine.ports import ABORTED, SHUT_DOWN, PeerConnectionListener
from mxrtc_bridge.rtc.channel import DataChannel
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.send_burst import SendBurst
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.sctp.association import Association
from mxrtc_bridge.sctp.bbr import Bbr
from mxrtc_bridge.sctp.channels import (
    ChannelClosed,
    ChannelClosing,
    ChannelEvent,
    ChannelMessage,
    ChannelOffered,
    ChannelOpened,
    ChannelRefused,
    DataChannels,
)
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.events import Ended, Established, SendSpace
from mxrtc_bridge.sctp.handshake import RandomValues
from mxrtc_bridge.sctp.settings import SctpSettings

log = logging.getLogger(__name__)

LOCAL_PORT = 5000
"""The number every implementation uses (RFC 8841 section 5.1); it has nothing to do with UDP ports."""
IN_FLIGHT = 64 * 1024 * 1024
"""Room of the machine for what was sent and is not acknowledged, on top of the send limit."""
TELL_FOR_S = 0.004
"""How long what has happened is told before it is the turn of others: one packet may complete what a thousand before it
have brought, and each piece of it may make the listener work."""
_REASONS = {
    "aborted": ABORTED,
    "closed": SHUT_DOWN,
}


class PeerAssociation:
    """One association over a DTLS transport.

    Args:
        transport: an open one by the time of :meth:`establish`.
        settings: limits and the send mark.
        listener: called in order, never from inside a method that it calls; told of the end of an established one.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        transport: DtlsTransport,
        settings: RtcSettings,
        listener: PeerConnectionListener,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._listener = listener
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._machine: Association | None = None
        self._channels: DataChannels | None = None
        self._by_number: dict[int, DataChannel] = {}
        self._waiting: list[DataChannel] = []
        self._waiting_bytes = 0
        self._message_limit = settings.max_message
        self._settled = asyncio.Event()
        self._established = False
        self._ending = self._ended = False
        self._end_reason = "the association ended"
        self._turns = SendBurst()
        self._in_turn = False
        self._turn_due: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._open_tokens = float(settings.max_channels)
        self._open_tokens_at = clock()

    # Life

    async def establish(self, *, dtls_client: bool, port: int, max_message_size: int, timeout_s: float) -> None:
        """Set the association up.

        Args:
            dtls_client: our role; it decides which numbers our channels get (RFC 8832 section 6).
            port: SCTP port of the other side.
            max_message_size: what the other side takes; 0 is without a limit.
            timeout_s: for all of it.

        Raises:
            TransportError: ``sctp_failed``.
        """
        if not self._ended:
            self._start(dtls_client, port, max_message_size)
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise TransportError("sctp_failed", f"no SCTP association within {timeout_s:g} s") from None
        if not self._established:
            raise TransportError("sctp_failed", f"no SCTP association: {self._end_reason}")

    def _start(self, dtls_client: bool, port: int, max_message_size: int) -> None:
        settings = self._settings
        self._message_limit = min(settings.max_message, max_message_size or settings.max_message)
        smallest_packet, packet_size, largest_packet = self._transport.packet_sizes()
        machine = self._machine = Association(
            SctpSettings(
                local_port=LOCAL_PORT,
                remote_port=port,
                packet_size=packet_size,
                packet_size_floor=smallest_packet,
                packet_size_ceiling=largest_packet,
                receive_window=settings.receive_window,
                max_message=settings.max_message,
                max_remote_message=self._message_limit,
                max_queued=settings.send_limit + IN_FLIGHT,
                setup_timeout=self._transport.first_wait_s,
                rto_initial=self._transport.timeout_s,
                heartbeat_interval=0,  # ICE asks for consent all the time (RFC 7675)
                backoff_max=silence.REPEAT_S,
                max_retransmissions=silence.REPETITIONS,
            ),
            RandomValues(secrets.randbelow(2**32 - 1) + 1, secrets.randbits(32), secrets.token_bytes(32)),
            Bbr(packet_size, random),
        )
        # An event comes when the queue falls to the space mark, and there is space below the send mark.
        machine.set_space_mark(settings.send_mark - 1)
        self._channels = DataChannels(machine, dtls_client=dtls_client, max_channels=settings.max_channels)
        machine.start(self._clock())
        self._announce_waiting()
        self._schedule()
        self._transport.attach(self.packets_received)

    def _announce_waiting(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for channel in waiting:
            self._announce(channel)
            early, channel.unannounced = channel.unannounced, []
            try:
                for message in early:
                    self.send_message(channel, message)
            except StateError as error:
                self.abort(str(error))  # the other side's limit was not known when it was queued
            if channel.closing:
                self.close_channel(channel)

    def _announce(self, channel: DataChannel) -> None:
        assert self._channels is not None
        number = self._channels.open(self._clock(), OpenMessage(channel.label, channel.protocol))
        channel.number = number
        self._by_number[number] = channel

    def abort(self, reason: str) -> None:
        """End the association and tell the other side, if it can be told; the end comes after all that has arrived.

        Of that the other side knows that it has, and may have left for that reason.
        """
        if self._machine is None:
            self._finish(reason)
        elif not self._ending:
            self._ending, self._end_reason = True, reason
            self._machine.abort(reason)
            self._schedule()

    async def stop(self) -> None:
        """End the association and everything that belongs to it."""
        self.abort("the connection was closed")
        if not self._in_turn:
            self._turn()
        self._finish(self._end_reason)

    def _finish(self, reason: str) -> None:
        """Everything ends here, once."""
        if self._ended:
            return
        self._ending = self._ended = True
        self._end_reason = reason
        for handle in (self._timer, self._turn_due):
            if handle is not None:
                handle.cancel()
        self._timer = self._turn_due = None
        channels = [*self._by_number.values(), *self._waiting]
        self._by_number.clear()
        self._waiting.clear()
        self._machine = self._channels = None
        self._established, was_established = False, self._established
        self._settled.set()
        for channel in channels:
            channel.ended()
        if was_established:
            self._listener.connection_lost(reason)

    # Calls of the peer and of streams

    def can_send(self) -> bool:
        """Whether less than the send mark waits, not counting what is on its way."""
        return self._queued() < self._settings.send_mark

    def _queued(self) -> int:
        return self._machine.buffered() if self._machine is not None else self._waiting_bytes

    def packet_size(self) -> int | None:
        """See :attr:`mxrtc_bridge.sctp.association.Association.packet_size`."""
        return None if self._machine is None else self._machine.packet_size

    def open_channel(self, label: str, protocol: str) -> DataChannel:
        """Open a channel; what is sent on it before the association is up is sent afterwards.

        Raises:
            StateError: the name is too long or not ASCII, there are too many channels, or the association is over.
        """
        # aiortc and others count characters where RFC 8832 counts bytes: ASCII makes no difference.
        limit = self._settings.max_channel_name
        if not (label + protocol).isascii() or len(label) + len(protocol) > limit:
            raise StateError(f"channel name {label[:40]!a} is not ASCII, or longer than {limit} with its protocol")
        count = len(self._channels) if self._channels is not None else len(self._waiting)
        if count >= self._settings.max_channels:
            raise StateError(f"{self._settings.max_channels} channels are open; that is the limit for one connection")
        if self._ended:
            raise StateError("the connection has ended")
        channel = DataChannel(self, label, protocol)
        if self._channels is None:
            self._waiting.append(channel)
        else:
            self._announce(channel)
            self._schedule()
        return channel

    def send_message(self, channel: DataChannel, message: str | bytes) -> None:
        """Queue a message.

        Raises:
            StateError: it is larger than either side allows.
        """
        if not channel.sendable:
            return
        size = len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
        if size > self._message_limit:
            raise StateError(f"a message of {size} bytes is larger than the limit of {self._message_limit}")
        if self._queued() + size > self._settings.send_limit:
            self.abort("the send queue overflowed")
        elif self._channels is None:
            channel.unannounced.append(message)
            self._waiting_bytes += size
        else:
            self._queue(self._channels, channel, message)

    def _queue(self, channels: DataChannels, channel: DataChannel, message: str | bytes) -> None:
        assert channel.number is not None
        now = self._clock()
        self._turns.passed(now, channel, len(message), beside_bulk=self._queued() > 0)
        try:
            channels.send(now, channel.number, message)
        except StateError as error:
            self.abort(f"the send queue overflowed: {error}")
        else:
            self._schedule()

    def close_channel(self, channel: DataChannel) -> None:
        """Reset a channel once its queued messages are sent."""
        channel.sendable = False
        if channel.number is None:
            channel.closing = True
        elif self._channels is not None:
            self._channels.close(channel.number)
            self._schedule()

    def credit(self, channel: DataChannel, size: int) -> None:
        """The application is done with ``size`` bytes of ``channel``: they count as free again."""
        if self._channels is not None and channel.number is not None:
            self._channels.consumed(channel.number, size)
            self._schedule()

    def keep(self, size: int) -> None:
        """Channels that have closed leave ``size`` bytes in the memory of the application."""
        if self._machine is not None:
            self._machine.keep(size)

    def give_back(self, size: int) -> None:
        """The application is done with ``size`` bytes of those."""
        if self._machine is not None:
            self._machine.consumed(size)
            self._schedule()

    # Turns

    def packets_received(self, packets: list[bytes]) -> None:
        """Take a batch of packets."""
        machine = self._machine
        if machine is None:
            return
        now = self._clock()
        receive = machine.receive
        for packet in packets:
            receive(now, packet)
        self._turn()

    def _schedule(self) -> None:
        """Take a turn soon; several calls make one."""
        if not self._in_turn and self._turn_due is None and not self._ended:
            self._turn_due = self._loop.call_soon(self._take_due_turn)

    def _take_due_turn(self) -> None:
        self._turn_due = None
        self._turn()

    def _timer_fired(self) -> None:
        self._timer = None
        if self._machine is not None:
            self._machine.handle_timeout(self._clock())
            self._turn()

    def _turn(self) -> None:
        """Tell what happened and send what may leave; go on in another turn while there is more of it."""
        if self._in_turn or self._machine is None:
            return
        self._in_turn = True
        try:
            self._tell_events()
            sent = self._send_packets()
            more = self._tell_events() or sent
        finally:
            self._in_turn = False
        if more:
            self._schedule()  # let others read first
        self._set_timer()

    def _send_packets(self) -> bool:
        """Send what may leave now, up to a limit; True if there was anything."""
        machine = self._machine
        if machine is None:
            return False
        now = self._clock()
        packets = machine.datagrams(now, self._turns.packets(now))
        probe = machine.take_probe()
        if not packets and probe is None:
            return False
        try:
            self._transport.send_packets(packets)
            if probe is not None:
                self._transport.send_probe(probe)
        except ConnectionError:
            return False  # lost packets; the owner of the transport hears of its end
        return True

    def _set_timer(self) -> None:
        """Have the timer fire at the next deadline, or before: moving it for every packet would cost too much."""
        machine = self._machine
        deadline = machine.next_deadline() if machine is not None else None
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        wait = deadline - self._clock()
        if wait <= 0:
            self._timer_at = -math.inf
            self._timer = self._loop.call_soon(self._timer_fired)
        else:
            self._timer_at = deadline
            self._timer = self._loop.call_later(wait, self._timer_fired)

    # Events

    def _tell_events(self) -> bool:
        """Tell what has happened, for a bounded time; True if there was anything."""
        told = False
        now = self._clock()
        until = now + TELL_FOR_S
        while (
            self._channels is not None
            and not (told and self._clock() > until)
            and (event := self._channels.poll_event()) is not None
        ):
            told = True
            if type(event) is ChannelMessage:
                channel = self._by_number.get(event.channel)
                if channel is not None:
                    self._turns.passed(now, channel, event.size, beside_bulk=self._queued() > 0)
                    channel.message_received(event.data)
                else:
                    self._channels.consumed(event.channel, event.size)  # nobody wanted the channel
            else:
                self._tell(event)
        return told

    def _tell(self, event: ChannelEvent) -> None:
        match event:
            case SendSpace():
                self._listener.send_space()
            case ChannelOffered(channel=number, opened=opened):
                self._offer(number, opened)
            case Established():
                self._established = True
                self._settled.set()
            case Ended(code=code, reason=reason):
                log.debug("= association ended (%s): %s", code, reason)
                self._send_packets()  # the last words
                self._finish(self._end_reason if code == "local" else _reason(code, reason))
            case ChannelRefused(channel=number, reason=reason):
                log.debug("! channel %d refused: %s", number, reason)
            case ChannelOpened() | ChannelClosing() | ChannelClosed():
                self._tell_channel(event)

    def _tell_channel(self, event: ChannelOpened | ChannelClosing | ChannelClosed) -> None:
        channel = self._by_number.get(event.channel)
        if channel is None:
            return  # refused
        if isinstance(event, ChannelOpened):
            channel.opened()
        elif isinstance(event, ChannelClosing):
            channel.sendable = False
        else:
            del self._by_number[event.channel]
            channel.ended()

    def _offer(self, number: int, opened: OpenMessage) -> None:
        assert self._channels is not None
        names = len(opened.label.encode()) + len(opened.protocol.encode())
        usual = opened.ordered and opened.reliable
        if not usual or names > self._settings.max_channel_name or not self._take_open_token():
            log.debug("! channel refused: %s", "too many, or a long name" if usual else "not reliable and ordered")
            self._channels.close(number)
            return
        channel = DataChannel(self, opened.label, opened.protocol, number)
        self._by_number[number] = channel
        self._listener.channel_offered(channel)

    def _take_open_token(self) -> bool:
        now = self._clock()
        earned = (now - self._open_tokens_at) * self._settings.opens_per_second
        self._open_tokens = min(self._open_tokens + earned, float(self._settings.max_channels))
        self._open_tokens_at = now
        if self._open_tokens < 1:
            return False
        self._open_tokens -= 1
        return True


def _reason(code: str, reason: str) -> str:
    """Why an association has ended, in our words where the other side's would be shown otherwise."""
    return f"protocol violation: {reason}" if code == "violation" else _REASONS.get(code, reason)
