"""Data channels on an association (RFC 8831, RFC 8832): names, text and binary, opening and closing.

A channel is a stream in each direction with the same number. The side that is the DTLS client opens channels with even
numbers, the server with odd ones, so both may open at any time without asking. Closing resets our direction; the other
side answers with a reset of its own, and then the number is free (RFC 8831 section 6.7). It rests nevertheless: as long
as the answer to its reset is on its way, or lost, the other side may take the number for used.

A machine around the association: drive the association as its module says, but poll events here.
What it guards against: more channels than allowed (reset at once; twice as many abort), data on streams without a
channel (dropped, and given back to the window). A message of a channel that breaks the protocol, be it an OPEN that
cannot be read or stands where a channel is, or text that is not UTF-8, resets that channel and no other (RFC 8832
section 6).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp import dcep
from mxrtc_bridge.sctp.association import Association
from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.events import (
    Ended,
    Established,
    Event,
    MessageReceived,
    ResetDone,
    SendSpace,
    StreamReset,
)

_DCEP = 50
_TEXT = 51
_BINARY = 53
_EMPTY_TEXT = 56
_EMPTY_BINARY = 57
_MAX_EARLY = 64
_UNREADABLE = OpenMessage("", "")
_EMPTY = b"\0"
"""SCTP has no empty messages: one byte that is ignored stands for it (RFC 8831 section 6.6)."""


@dataclass(frozen=True, slots=True)
class ChannelOffered:
    """The other side opened a channel; it is open, and may be closed to refuse it."""

    channel: int
    opened: OpenMessage


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """The other side took a channel that we opened."""

    channel: int


class ChannelMessage(NamedTuple):
    """A message; text is ``str``. Its ``size`` stays charged to the window until ``consumed`` is called for it."""

    channel: int
    data: str | bytes
    size: int


@dataclass(frozen=True, slots=True)
class ChannelClosing:
    """The other side closes a channel: no more messages come, and none can be sent."""

    channel: int


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """A channel is gone in both directions; no more events follow for it, and its number may be used again."""

    channel: int


@dataclass(frozen=True, slots=True)
class ChannelRefused:
    """A message broke the protocol, so its channel is being closed; one that was offered has ``ChannelClosing`` too."""

    channel: int
    reason: str


ChannelEvent = (
    Established
    | ChannelOffered
    | ChannelRefused
    | ChannelOpened
    | ChannelMessage
    | ChannelClosing
    | ChannelClosed
    | SendSpace
    | Ended
)


class ChannelState(Enum):
    """A channel; both directions together."""

    OPENING = "opening"
    """We sent OPEN; messages may follow, but in order."""
    OPEN = "open"
    CLOSING = "closing"
    """Our direction is being reset, or theirs was and ours will be."""


class _Channel:
    """What is known of one channel."""

    __slots__ = ("early", "opened", "ours_reset", "state", "theirs_reset", "unread")

    def __init__(self, opened: OpenMessage, state: ChannelState) -> None:
        self.opened = opened
        self.state = state
        self.ours_reset = False
        self.theirs_reset = False
        self.unread = 0
        self.early: list[MessageReceived | StreamReset] = []
        """Came after their reset: of the next channel with this number, whose OPEN overtook the answer to our reset."""


class DataChannels:
    """All channels of an association.

    Args:
        association: not started, or started; its events are taken from it.
        dtls_client: our role in the DTLS handshake.
        max_channels: open at the same time.
    """

    def __init__(self, association: Association, *, dtls_client: bool, max_channels: int = 512) -> None:
        self._association = association
        self._max_channels = max_channels
        self._channels: dict[int, _Channel] = {}
        self._events: deque[ChannelEvent] = deque()
        self._next_number = 0 if dtls_client else 1
        self._parity = self._next_number
        self._resting: deque[int] = deque()
        self._ended = False

    def __len__(self) -> int:
        return len(self._channels)

    # Calls

    def open(self, now: float, opened: OpenMessage, *, negotiated: int | None = None) -> int:
        """Open a channel; messages may be sent on it from now on.

        Args:
            now: seconds.
            opened: its names and its kind.
            negotiated: the number, if both sides agreed on it by other means: nothing is sent then.

        Returns:
            Its number.

        Raises:
            StateError: too many channels, a number in use, none that is free, names that are too long, or the
                association is over.
        """
        size = len(opened.label.encode()) + len(opened.protocol.encode())
        if size > dcep.MAX_NAME:
            raise StateError(f"channel names of {size} bytes; the limit is {dcep.MAX_NAME}")
        if len(self._channels) >= self._max_channels:
            raise StateError(f"{self._max_channels} channels are open; that is the limit for one connection")
        if negotiated is not None:
            if negotiated in self._channels:
                raise StateError(f"channel {negotiated} is in use")
            self._channels[negotiated] = _Channel(opened, ChannelState.OPEN)
            return negotiated
        number = self._free_number()
        self._association.send(now, number, _DCEP, dcep.format_open(opened))
        if number == self._next_number:
            self._next_number += 2
        else:
            self._resting.popleft()
        self._channels[number] = _Channel(opened, ChannelState.OPENING)
        return number

    def _free_number(self) -> int:
        """Return the number of the next channel: one that was never used, else the one that has rested longest."""
        while self._next_number in self._channels:
            self._next_number += 2
        if self._next_number < self._association.outbound_streams:
            return self._next_number
        if not self._resting:
            count = self._association.outbound_streams
            raise StateError(f"no stream is free for a channel: the other side takes {count}, half of them from us")
        return self._resting[0]

    def send(self, now: float, channel: int, message: str | bytes) -> None:
        """Queue a message.

        Raises:
            StateError: the channel is closing or closed, or the message does not fit (see ``Association.send``).
        """
        entry = self._channels.get(channel)
        if entry is None or entry.state is ChannelState.CLOSING:
            raise StateError(f"channel {channel} is closed")
        opened = entry.opened
        if isinstance(message, str):
            ppid, data = (_TEXT, message.encode()) if message else (_EMPTY_TEXT, _EMPTY)
        else:
            ppid, data = (_BINARY, message) if message else (_EMPTY_BINARY, _EMPTY)
        if opened.ordered and opened.reliable:
            self._association.send(now, channel, ppid, data)
            return
        self._association.send(
            now,
            channel,
            ppid,
            data,
            # RFC 8832 section 6: nothing may overtake the OPEN.
            ordered=opened.ordered or entry.state is ChannelState.OPENING,
            lifetime=opened.lifetime,
            max_retransmissions=opened.max_retransmissions,
        )

    def consumed(self, channel: int, size: int) -> None:
        """Say that ``size`` bytes that came on a channel have left the memory of the application."""
        entry = self._channels.get(channel)
        if entry is None:
            return  # given back when the channel closed
        size = min(size, entry.unread)
        entry.unread -= size
        self._association.consumed(size)

    def close(self, channel: int) -> None:
        """Close a channel after what is queued on it; ``ChannelClosed`` follows."""
        entry = self._channels.get(channel)
        if entry is not None and entry.state is not ChannelState.CLOSING:
            entry.state = ChannelState.CLOSING
            self._association.reset(channel)

    def describe(self, channel: int) -> OpenMessage | None:
        """Return the names and the kind of a channel, or None if there is no such channel."""
        entry = self._channels.get(channel)
        return entry.opened if entry is not None else None

    # Events

    def poll_event(self) -> ChannelEvent | None:
        """Return the next event, or None."""
        while not self._events:
            event = self._association.poll_event()
            if event is None:
                return None
            try:
                if type(event) is MessageReceived:
                    message = self._receive(event)
                    if message is not None:
                        return message
                else:
                    self._take(event)
            except MalformedError as error:
                self._association.abort(f"the other side broke the protocol: {error}", "violation")
        return self._events.popleft()

    def _take(self, event: Event) -> None:
        if isinstance(event, StreamReset):
            self._their_reset(event.stream)
        elif isinstance(event, ResetDone):
            self._our_reset(event.stream)
        elif isinstance(event, Established):
            self._events.append(event)
            self._close_beyond(event.outbound_streams)
        elif isinstance(event, Ended):
            self._end(event)
        else:
            assert isinstance(event, SendSpace)
            self._events.append(event)

    def _receive(self, event: MessageReceived) -> ChannelMessage | None:
        number, ppid, data = event
        entry = self._channels.get(number)
        size = len(data)
        if entry is not None and entry.theirs_reset:
            if len(entry.early) >= _MAX_EARLY:
                raise MalformedError("messages on a channel that is not closed in both directions")
            entry.early.append(event)
            return None
        if ppid == _DCEP:
            self._association.consumed(size)
            try:
                self._receive_dcep(number, entry, dcep.read(data))
            except MalformedError as error:
                self._refuse(number, str(error))
            return None
        if entry is None or ppid not in (_BINARY, _TEXT, _EMPTY_BINARY, _EMPTY_TEXT):
            self._association.consumed(size)  # no such channel any more, or a kind that RFC 8831 took back
            return None
        message: str | bytes
        if ppid == _BINARY:
            message = data
        elif ppid == _TEXT:
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self._association.consumed(size)
                self._refuse(number, "text that is not UTF-8")
                return None
        else:
            self._association.consumed(size)
            message, size = (b"" if ppid == _EMPTY_BINARY else ""), 0
        entry.unread += size
        return ChannelMessage(number, message, size)

    def _receive_dcep(self, number: int, entry: _Channel | None, opened: OpenMessage | None) -> None:
        if opened is None:
            if entry is not None and entry.state is ChannelState.OPENING:
                entry.state = ChannelState.OPEN
                self._events.append(ChannelOpened(number))
            return
        if entry is not None or number % 2 == self._parity:
            raise MalformedError("a channel is opened on a stream that is not free")
        if self._add(number, opened):
            self._association.reply(number, _DCEP, dcep.ACK)
            self._events.append(ChannelOffered(number, opened))

    def _add(self, number: int, opened: OpenMessage) -> bool:
        """Note a channel of the other side; returns whether there is room for it. If not, it is being closed."""
        self._channels[number] = _Channel(opened, ChannelState.OPEN)
        if len(self._channels) > 2 * self._max_channels:
            self._association.abort("the other side opens channels faster than refusals can be told", "violation")
        elif len(self._channels) > self._max_channels:
            self.close(number)
        return len(self._channels) <= self._max_channels

    def _refuse(self, number: int, reason: str) -> None:
        """Close a channel, or what was to become one, for what came on it."""
        entry = self._channels.get(number)
        if entry is not None and entry.state is ChannelState.CLOSING:
            return
        if entry is not None:
            self._events.append(ChannelClosing(number))
        elif number % 2 == self._parity and number < self._next_number:
            return  # was ours, and was reset when it was closed
        else:
            self._add(number, _UNREADABLE)
        self._events.append(ChannelRefused(number, reason))
        self.close(number)

    def _their_reset(self, number: int) -> None:
        entry = self._channels.get(number)
        if entry is None:
            return
        if entry.theirs_reset:
            if 0 < len(entry.early) < _MAX_EARLY:
                entry.early.append(StreamReset(number))
            return
        entry.theirs_reset = True
        if entry.state is not ChannelState.CLOSING:
            self._events.append(ChannelClosing(number))
            self.close(number)
        self._forget_if_done(number, entry)

    def _our_reset(self, number: int) -> None:
        entry = self._channels.get(number)
        if entry is None:
            return
        entry.ours_reset = True
        if not self._association.peer_resets:
            entry.theirs_reset = True  # it cannot: there is nothing to wait for
        self._forget_if_done(number, entry)

    def _forget_if_done(self, number: int, entry: _Channel) -> None:
        if entry.ours_reset and entry.theirs_reset:
            del self._channels[number]
            self._association.consumed(entry.unread)
            if number % 2 == self._parity and number < self._next_number:
                self._resting.append(number)
            self._events.append(ChannelClosed(number))
            for event in entry.early:
                if isinstance(event, StreamReset):
                    self._their_reset(number)
                    continue
                message = self._receive(event)
                if message is not None:
                    self._events.append(message)

    def _close_beyond(self, streams: int) -> None:
        """Give up channels for which the other side has no streams."""
        for number in [number for number in self._channels if number >= streams]:
            del self._channels[number]
            self._events.append(ChannelClosed(number))

    def _end(self, event: Ended) -> None:
        self._events.extend([ChannelClosed(number) for number in self._channels])
        self._channels.clear()
        self._events.append(event)
