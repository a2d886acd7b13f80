"""What happens to a stream, and what a stream wants done: the values that all stream machines share.

Only values. Which event leads to which effect is decided in :mod:`mxrtc_bridge.core.stream.machine` and
:mod:`mxrtc_bridge.core.stream.raw_machine`.

A *sink* is the local byte stream: a socket, or standard input and output.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StreamRole(Enum):
    """Which side of the data channel we are."""

    OPENER = "opener"
    ACCEPTOR = "acceptor"


class StreamOutcome(Enum):
    """How a stream ended."""

    CLEAN = "clean"
    """Both directions ended in order."""
    RESET = "reset"
    """One side gave up; bytes may be missing."""
    REFUSED = "refused"
    """There never was a stream: the acceptor, or the local side, said no."""
    VIOLATION = "violation"
    """The other side broke the protocol."""
    LOST = "lost"
    """The channel ended without a word; bytes may be missing."""


# Events: what happened.


@dataclass(frozen=True, slots=True)
class DataChannelOpened:
    """The data channel is open on both sides."""


@dataclass(frozen=True, slots=True)
class TextReceived:
    """A text message came."""

    text: str


@dataclass(frozen=True, slots=True)
class BinaryReceived:
    """A binary message came."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DataChannelClosed:
    """The channel is gone; nothing more comes from it."""


@dataclass(frozen=True, slots=True)
class SinkConnected:
    """The local side is there."""


@dataclass(frozen=True, slots=True)
class SinkRefused:
    """The local side cannot be had; ``code`` is one of ``ErrCode``, any other counts as ``unavailable``.

    ``message`` is told to the other side: it must not name addresses or anything else that only the admin may know.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class SinkData:
    """The local side wrote ``data``."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SinkEof:
    """The local side will write no more; it may still read."""


@dataclass(frozen=True, slots=True)
class SinkWritten:
    """The local side took ``size`` more bytes of what it was given."""

    size: int


@dataclass(frozen=True, slots=True)
class SinkClosed:
    """The local side is gone; ``error`` is None after an orderly end."""

    error: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """It is this stream's turn: up to ``limit`` bytes of payload may be sent now."""

    limit: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Our own side ends the stream (a right was taken away, the session ends); ``code`` is told to the other."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline has come."""


ChannelEvent = DataChannelOpened | TextReceived | BinaryReceived | DataChannelClosed
"""What happens to a data channel, whatever it carries."""
SinkEvent = SinkConnected | SinkRefused | SinkData | SinkEof | SinkWritten | SinkClosed
Event = ChannelEvent | SinkEvent | Turn | Reset | Tick


# Effects: what is to be done, in this order.


@dataclass(frozen=True, slots=True)
class SendText:
    """Send a text message, now: control does not wait for a turn."""

    text: str


@dataclass(frozen=True, slots=True)
class SendBinary:
    """Send a binary message of at most 16 KiB."""

    data: bytes


@dataclass(frozen=True, slots=True)
class WriteSink:
    """Write to the local side."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FinishSink:
    """Shut down the write side of the sink, after what was written."""


@dataclass(frozen=True, slots=True)
class ResetSink:
    """End the sink at once, so that the local side sees a reset."""


@dataclass(frozen=True, slots=True)
class CloseSink:
    """End the sink in order, after what was written."""


@dataclass(frozen=True, slots=True)
class PauseSink:
    """Stop to read from the sink."""


@dataclass(frozen=True, slots=True)
class ResumeSink:
    """Read from the sink again."""


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """Close the data channel, after what was sent."""


@dataclass(frozen=True, slots=True)
class ReadyToSend:
    """``pending`` bytes of payload may be sent: give this stream a turn.

    Said again when the number grows while it is still below one message, so that the scheduler knows a bulk stream.
    """

    pending: int


@dataclass(frozen=True, slots=True)
class Consumed:
    """``size`` bytes of received messages, text included, no longer count against the SCTP receive window."""

    size: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The acceptor said yes (opener only)."""


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The stream has ended; said exactly once. Only Consumed, and ResetSink for a sink that comes late, may follow."""

    outcome: StreamOutcome
    code: str
    """A short word: the code of the wire or of the violation; empty after a clean end."""
    message: str
    """A sentence for a person. May quote the other side: make it displayable before showing it."""
    sent: int
    """Payload bytes sent."""
    received: int
    """Payload bytes received."""


ChannelEffect = SendText | SendBinary | CloseChannel | Consumed
"""What is done with a data channel, whatever it carries."""
SinkEffect = WriteSink | FinishSink | ResetSink | CloseSink | PauseSink | ResumeSink
OtherEffect = ReadyToSend | SinkEffect | Accepted | StreamFinished
"""What is not done with the channel itself."""
Effect = ChannelEffect | OtherEffect
