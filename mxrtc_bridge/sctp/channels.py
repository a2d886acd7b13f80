"""Data channels on an association (RFC 8831, RFC 8832): names, text and binary, opening and closing.

A channel is a stream in each direction with the same number. The side that is the DTLS client opens channels with even
numbers, the server with odd ones, so both may open at any time without asking. Closing resets our direction; the other
side answers with a reset of its own, and then the number is free (RFC 8831 section 6.7). It rests nevertheless: as long
as the answer to its reset is on its way, or lost, the other side may take the number for used.

What is done with a number when something happens to it stands in a table (:mod:`mxrtc_bridge.sctp.stream_states`).
What comes for the next channel of a number before this one has ended waits, and is charged to the window as that of any
slow reader; if it shows that our request was carried out, it stands for the answer that was lost.

A machine around the association: drive the association as its module says, but poll events here.
What it guards against: more channels than allowed (reset at once; twice as many abort), data on streams without a
channel (dropped, and the stream is reset if there is a place for it). A message of a channel that breaks the protocol,
be it an OPEN that cannot be read or stands where a channel is, or text that is not UTF-8, resets that channel and no
other (RFC 8832 section 6).

One file: every step changes the same few fields of a number, and what is told of it must be in the order of the steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
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
    StreamSilent,
)
from mxrtc_bridge.sctp.stream_states import STEPS, StreamAction, StreamInput, StreamState

_DCEP = 50
_TEXT = 51
_BINARY = 53
_EMPTY_TEXT = 56
_EMPTY_BINARY = 57
_OPEN = StreamState.OPEN
_FREE = StreamState.FREE
_OVER = StreamState.OVER
_GIVEN_UP = StreamState.GIVEN_UP
_ENDED_HERE = StreamState.ENDED_HERE
_ENDED_THERE = StreamState.ENDED_THERE
_ACK = StreamInput.ACK
_CLOSE = StreamInput.CLOSE
_MESSAGE = StreamInput.MESSAGE
_ODD = StreamInput.ODD
_OPEN_RECEIVED = StreamInput.OPEN_RECEIVED
_RESET_DONE = StreamInput.RESET_DONE
_SILENCE = StreamInput.SILENCE
_THEIR_RESET = StreamInput.THEIR_RESET
_AWAIT = StreamAction.AWAIT
_DROP = StreamAction.DROP
_KEEP = StreamAction.KEEP
_OFFER = StreamAction.OFFER
_RESET = StreamAction.RESET
_TELL_CLOSED = StreamAction.TELL_CLOSED
_TELL_CLOSING = StreamAction.TELL_CLOSING
_TELL_REFUSED = StreamAction.TELL_REFUSED
_UNREADABLE = OpenMessage("", "")
_NEGOTIATED = "no OPEN came before its messages; channels that both sides agree on beforehand are not supported"
_COMMON_STREAMS = 1024
"""libwebrtc asks for 65,535 streams, and opens no channel on one above 1,023."""
_SILENT_AT_ONCE = 64
"""Events of the association that lead to none here and are taken in one step: one packet may bring ten thousands."""
_MAX_GIVEN_UP = 1024
"""Numbers that are remembered as given up; one of ours that is not remembered any more is not used again either."""
_MAX_OVER = 1024
"""Numbers that are remembered as over, but for those of ours: what comes late comes soon."""
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


@dataclass(frozen=True, slots=True)
class NothingToTell:
    """What has happened concerns nobody. There may be more: ask again, and let others have their turn before."""


_NOTHING_TO_TELL = NothingToTell()


ChannelEvent = (
    Established
    | ChannelOffered
    | ChannelRefused
    | ChannelOpened
    | ChannelMessage
    | ChannelClosing
    | ChannelClosed
    | SendSpace
    | NothingToTell
    | Ended
)


class _Stream:
    """A stream number that is not free, and its channel.

    Attributes:
        opened: names and kind of the channel.
        awaits_ack: we sent OPEN; messages may follow, but in order.
        unread: bytes handed on and not yet given back.
        early: what came after their reset, and is of the next channel with this number; None before there was any.
    """

    __slots__ = ("awaits_ack", "early", "opened", "state", "unread")

    def __init__(self, opened: OpenMessage, state: StreamState = _OPEN, *, awaits_ack: bool = False) -> None:
        self.opened = opened
        self.state = state
        self.awaits_ack = awaits_ack
        self.unread = 0
        self.early: deque[MessageReceived | StreamReset] | None = None


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
        self._streams: dict[int, _Stream] = {}
        self._events: deque[ChannelEvent] = deque()
        self._next_number = 0 if dtls_client else 1
        self._parity = self._next_number
        self._resting: deque[int] = deque()
        self._given_up: dict[int, None] = {}
        self._over: dict[int, None] = {}
        self._waited: deque[deque[MessageReceived | StreamReset]] = deque()  # of each number that is free now
        self._ended = False

    def __len__(self) -> int:
        return len(self._streams)

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
        if len(self._streams) >= self._max_channels:
            raise StateError(f"{self._max_channels} channels are open; that is the limit for one connection")
        if negotiated is not None:
            if negotiated in self._streams:
                raise StateError(f"channel {negotiated} is in use")
            self._streams[negotiated] = _Stream(opened)
            return negotiated
        number = self._free_number()
        self._association.send(now, number, _DCEP, dcep.format_open(opened))
        if number == self._next_number:
            self._next_number += 2
        else:
            self._resting.popleft()
        self._streams[number] = _Stream(opened, awaits_ack=True)
        return number

    def _free_number(self) -> int:
        """Return the number of the next channel: one that was never used, else the one that has rested longest."""
        while self._knows_of(self._next_number):
            self._next_number += 2
        count = self._association.outbound_streams
        if self._next_number < (min(count, _COMMON_STREAMS) if self._resting else count):
            return self._next_number
        if not self._resting:
            raise StateError(f"no stream is free for a channel: the other side takes {count}, half of them from us")
        return self._resting[0]

    def send(self, now: float, channel: int, message: str | bytes) -> None:
        """Queue a message.

        Raises:
            StateError: the channel is closing or closed, or the message does not fit (see ``Association.send``).
        """
        entry = self._streams.get(channel)
        if entry is None or entry.state is not _OPEN:
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
            ordered=opened.ordered or entry.awaits_ack,
            lifetime=opened.lifetime,
            max_retransmissions=opened.max_retransmissions,
        )

    def consumed(self, channel: int, size: int) -> None:
        """Say that ``size`` bytes that came on a channel have left the memory of the application."""
        entry = self._streams.get(channel)
        if entry is None:
            return  # given back when the channel closed
        size = min(size, entry.unread)
        entry.unread -= size
        self._association.consumed(size)

    def close(self, channel: int) -> None:
        """Close a channel after what is queued on it; ``ChannelClosed`` follows."""
        self._step(channel, _CLOSE)

    def describe(self, channel: int) -> OpenMessage | None:
        """Return the names and the kind of a channel, or None if there is no such channel."""
        entry = self._streams.get(channel)
        return entry.opened if entry is not None else None

    # Events

    def poll_event(self) -> ChannelEvent | None:
        """Return the next event, or None."""
        silent = 0
        while not self._events:
            if silent == _SILENT_AT_ONCE:
                return _NOTHING_TO_TELL
            silent += 1
            event = self._next_event() if self._waited else self._association.poll_event()
            if event is None:
                return None
            if type(event) is MessageReceived:
                message = self._receive(event)
                if message is not None:
                    return message
            else:
                self._take(event)
        return self._events.popleft()

    def _next_event(self) -> Event | None:
        while self._waited:
            early = self._waited[0]
            stream = self._streams.get(early[0].stream) if early else None
            if not early:
                self._waited.popleft()
            elif stream is not None and stream.state is _ENDED_THERE:
                # One channel of the number has come and gone. The rest waits for the next as it is: were it kept one
                # by one, each answer to a reset would cost as much as all that waits.
                stream.early = self._waited.popleft()
            else:
                self._association.set_aside(-1)
                return early.popleft()
        return self._association.poll_event()

    def _take(self, event: Event) -> None:
        if type(event) is StreamReset:
            number = event.stream
            known = number in self._streams or self._knows_of(number) or self._may_refuse(number)
            if known and _KEEP in self._step(number, _THEIR_RESET):
                self._keep(event)
        elif type(event) is ResetDone:
            self._our_reset(event.stream)
        elif isinstance(event, StreamSilent):
            self._step(event.stream, _SILENCE)
        elif isinstance(event, Established):
            self._events.append(event)
            self._close_beyond(event.outbound_streams)
        elif isinstance(event, Ended):
            self._end(event)
        else:
            assert isinstance(event, SendSpace)
            self._events.append(event)

    def _step(
        self, number: int, happens: StreamInput, opened: OpenMessage = _UNREADABLE, reason: str = ""
    ) -> tuple[StreamAction, ...]:
        """Take a step of the table; return its actions, those with a message are still to be done."""
        stream = self._streams.get(number)
        if stream is not None:
            before = stream.state
            state, actions = STEPS[before, happens]
            stream.state = state
        else:
            before = self._past(number)
            state, actions = STEPS[before, happens]
            if state is not before:
                self._given_up.pop(number, None)
                self._over.pop(number, None)
                if state is not _OVER:
                    self._add(number, _Stream(opened, state))
        if actions:
            self._carry_out(number, actions, opened, reason)
        if state is _OVER is not before:
            if self._was_ours(number):
                self._resting.append(number)
            else:
                _remember(number, self._over, _MAX_OVER)
        elif state is _GIVEN_UP is not before:
            _remember(number, self._given_up, _MAX_GIVEN_UP)
        return actions

    def _carry_out(self, number: int, actions: tuple[StreamAction, ...], opened: OpenMessage, reason: str) -> None:
        # Neither match nor attributes of an Enum, nor a call for each: a channel takes seven such steps.
        for action in actions:
            if action is _RESET:
                self._association.reset(number)
            elif action is _TELL_CLOSED:
                self._forget(number)
            elif action is _OFFER:
                self._offer(number, opened)
            elif action is _AWAIT:
                self._association.await_reset(number)
            elif action is _TELL_CLOSING:
                self._events.append(ChannelClosing(number))
            elif action is _TELL_REFUSED:
                self._events.append(ChannelRefused(number, reason))

    def _past(self, number: int) -> StreamState:
        """Return the state of a number that has no channel."""
        return _GIVEN_UP if number in self._given_up else _OVER if number in self._over else _FREE

    def _knows_of(self, number: int) -> bool:
        return number in self._streams or number in self._given_up

    def _may_refuse(self, number: int) -> bool:
        """Whether a channel that does not exist may take a place until it is reset; what was ours is reset already."""
        return not self._was_ours(number) and len(self._streams) < self._max_channels

    def _was_ours(self, number: int) -> bool:
        return number % 2 == self._parity and number < self._next_number

    def _add(self, number: int, stream: _Stream) -> None:
        self._streams[number] = stream
        if len(self._streams) > 2 * self._max_channels:
            self._association.abort("the other side opens channels faster than refusals can be told", "violation")

    def _offer(self, number: int, opened: OpenMessage) -> None:
        if len(self._streams) > self._max_channels or number >= self._association.outbound_streams:
            self.close(number)
            return
        self._association.reply(number, _DCEP, dcep.ACK)
        self._events.append(ChannelOffered(number, opened))

    def _receive(self, event: MessageReceived) -> ChannelMessage | None:
        number, ppid, data = event
        stream = self._streams.get(number)
        if ppid == _DCEP:
            self._receive_dcep(event, stream)
            return None
        if stream is None or stream.state is not _OPEN:
            actions: tuple[StreamAction, ...] = (_DROP,)
            if self._knows_of(number) or self._may_refuse(number):
                actions = self._step(number, _MESSAGE, reason=_NEGOTIATED)
            if _KEEP in actions:
                self._keep(event)
                return None
            if stream is None or stream.opened is _UNREADABLE or _DROP in actions:
                self._association.consumed(len(data))
                return None
        size = len(data)
        message: str | bytes
        if ppid == _BINARY:
            message = data
        elif ppid == _TEXT:
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self._association.consumed(size)
                self._step(number, _ODD, reason="text that is not UTF-8")
                return None
        else:
            self._association.consumed(size)
            if ppid not in (_EMPTY_BINARY, _EMPTY_TEXT):
                return None  # a kind that RFC 8831 took back
            message, size = (b"" if ppid == _EMPTY_BINARY else ""), 0
        stream.unread += size
        return ChannelMessage(number, message, size)

    def _receive_dcep(self, event: MessageReceived, stream: _Stream | None) -> None:
        number = event.stream
        opened, reason = None, "a channel is opened on a stream that is not free"
        try:
            opened = dcep.read(event.data)
        except MalformedError as error:
            happens, reason = _ODD, str(error)
        else:
            happens = _ACK if opened is None else _OPEN_RECEIVED
        actions: tuple[StreamAction, ...] = ()
        if stream is not None or number % 2 != self._parity:
            actions = self._step(number, happens, opened or _UNREADABLE, reason)
        elif happens is not _ACK and number >= self._next_number:
            self._step(number, _ODD, reason=reason)  # only we may open it; what was ours is reset already
        if _KEEP in actions:
            self._keep(event)
            return
        self._association.consumed(len(event.data))
        if happens is _ACK and stream is not None and stream.awaits_ack:
            stream.awaits_ack = False
            self._events.append(ChannelOpened(number))

    def _our_reset(self, number: int) -> None:
        self._step(number, _RESET_DONE)
        if self._association.peer_resets:
            return
        stream = self._streams.get(number)
        if stream is not None and stream.state is _ENDED_HERE:
            self._step(number, _THEIR_RESET)  # it cannot: there is nothing to wait for

    def _keep(self, event: MessageReceived | StreamReset) -> None:
        """Keep what is of the next channel, in the window, until our direction of this one has ended.

        A reset behind a reset ends a channel that never was: the window does not bound how many of them come.
        """
        number, stream = event.stream, self._streams[event.stream]
        if stream.early is None:
            stream.early = deque()
        early = stream.early
        if not (early and isinstance(event, StreamReset) and isinstance(early[-1], StreamReset)):
            early.append(event)
            self._association.set_aside(1)
        if self._association.is_carried_out(number):
            self._our_reset(number)

    def _forget(self, number: int) -> None:
        """A channel is gone, and it is the turn of what came early, one at a time."""
        stream = self._streams.pop(number)
        self._association.consumed(stream.unread)
        self._events.append(ChannelClosed(number))
        if stream.early:
            self._waited.append(stream.early)

    def _close_beyond(self, streams: int) -> None:
        """Give up channels for which the other side has no streams."""
        for number in [number for number in self._streams if number >= streams]:
            del self._streams[number]
            self._events.append(ChannelClosed(number))

    def _end(self, event: Ended) -> None:
        self._events.extend([ChannelClosed(number) for number in self._streams])
        self._streams.clear()
        self._events.append(event)


def _remember(number: int, numbers: dict[int, None], limit: int) -> None:
    """Add a number; the one that was added first is forgotten if there are too many."""
    numbers[number] = None
    if len(numbers) > limit:
        del numbers[next(iter(numbers))]
