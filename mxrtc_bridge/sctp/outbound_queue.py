"""What waits for sending: streams, their messages, and which of them the next chunk is cut from.

Fair queueing over streams: each has a virtual time that grows by what it sent, and the one that is furthest behind is
next. A stream that wakes up starts at the present, so it is next at once, but saves up nothing.

With I-DATA the choice is made again for every chunk, so a small message waits behind one packet of a bulk stream at
most. Without it the fragments of a message must have consecutive TSNs (RFC 9260 section 6.9): then the choice is made
for every message, and a layer above that wants short waits keeps its messages short.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from mxrtc_bridge.sctp.chunks import BEGINS, DATA, DATA_HEADER, ENDS, I_DATA, I_DATA_HEADER, IMMEDIATE, UNORDERED
from mxrtc_bridge.sctp.congestion import SentPacket
from mxrtc_bridge.sctp.numbers import MASK16, MASK32

IN_FLIGHT = 0
LOST = 1
ACKED = 2
ABANDONED = 3

_SMALL_MESSAGE = 1024
_MIN_FRAGMENT = 256
"""A packet that is already in use takes the beginning of a message only if this much of it fits."""
_NEVER = SentPacket(-1, 0, 0.0, 0, 0.0, 0.0, False, 0, 0, [])
_PADS = (b"", bytes(3), bytes(2), bytes(1))


class OutMessage:
    """A message on its way out."""

    __slots__ = (
        "chunks",
        "data",
        "expires_at",
        "flags",
        "fragments",
        "max_retransmissions",
        "number",
        "offset",
        "ppid",
        "size",
        "stream",
    )

    def __init__(self, stream: OutStream, ppid: int, data: bytes, ordered: bool) -> None:
        self.stream = stream
        self.ppid = ppid
        self.data = data
        self.size = len(data)
        self.flags = 0 if ordered else UNORDERED
        self.offset = 0
        self.number = -1
        self.fragments = 0
        self.expires_at = 0.0
        self.max_retransmissions = -1
        self.chunks: list[OutChunk] | None = None  # kept for messages that may be given up only


class OutChunk:
    """A DATA or I-DATA chunk that has a TSN, until it is acknowledged cumulatively."""

    __slots__ = (
        "ends",
        "header",
        "message",
        "packet",
        "payload",
        "payload_size",
        "size",
        "state",
        "transmissions",
        "tsn",
        "waits",
    )

    def __init__(self, tsn: int, message: OutMessage, header: bytes, payload: bytes, size: int, ends: bool) -> None:
        self.tsn = tsn
        self.message = message
        self.header = header
        self.payload = payload
        self.payload_size = len(payload)
        self.size = size
        self.ends = ends
        self.state = IN_FLIGHT
        self.transmissions = 0
        self.waits = False
        """Stands among those that are lost, whatever its state is."""
        self.packet = _NEVER
        """The packet that carried it last."""


@dataclass(slots=True, eq=False)
class OutStream:
    """The sending half of a stream.

    Attributes:
        resetting: its end is announced: no more messages.
    """

    id: int
    messages: deque[OutMessage] = field(default_factory=deque)
    next_number: int = 0
    next_unordered: int = 0
    virtual: float = 0.0
    active: bool = False
    resetting: bool = False


class OutboundScheduler:
    """Cuts the next chunk from the stream whose turn it is."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, OutStream]] = []
        self._pushes = 0
        self._clock = 0.0
        self._current: OutMessage | None = None
        self.interleaving = False
        self.woken = False
        """A small message has begun to wait beside those of other streams; the caller takes it back."""
        self.queued = 0
        """Bytes that were never sent, all streams."""
        self.message_count = 0
        self.drained: list[OutStream] = []
        """Streams that are to be reset and have nothing left to send; the caller takes them."""

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._current is None and not self._heap

    def push(self, message: OutMessage) -> None:
        """Queue a message behind the others of its stream."""
        stream = message.stream
        stream.messages.append(message)
        self.queued += message.size
        self.message_count += 1
        if not stream.active:
            if message.size <= _SMALL_MESSAGE and not self.empty:
                self.woken = True
            stream.active = True
            stream.virtual = max(stream.virtual, self._clock)
            self._wait(stream)

    def _wait(self, stream: OutStream) -> None:
        self._pushes += 1
        heappush(self._heap, (stream.virtual, self._pushes, stream))

    def _select(self, now: float) -> OutMessage | None:
        while self._heap:
            stream = heappop(self._heap)[2]
            self._clock = stream.virtual
            messages = stream.messages
            while messages:
                message = messages[0]
                if message.offset or not message.expires_at or message.expires_at > now:
                    return message
                self.drop(message)
            self._sleep(stream)
        return None

    def drop(self, message: OutMessage) -> None:
        """Remove what was not sent of a message at the head of its stream."""
        stream = message.stream
        stream.messages.popleft()
        left = message.size - message.offset
        self.queued -= left
        self.message_count -= 1
        if message is self._current:
            self._current = None
            self._rotate(stream)

    def _rotate(self, stream: OutStream) -> None:
        if stream.messages:
            self._wait(stream)
        else:
            self._sleep(stream)

    def _sleep(self, stream: OutStream) -> None:
        stream.active = False
        if stream.resetting:
            self.drained.append(stream)

    def cut(self, now: float, tsn: int, room: int, fresh: bool) -> OutChunk | None:
        """Return the next chunk, or None if nothing waits or ``room`` is too small to begin anything.

        Args:
            now: seconds; messages that ran out of time are dropped.
            tsn: number of the chunk.
            room: bytes for it, header and padding included.
            fresh: the packet is empty: the room will not get any larger.
        """
        message = self._current
        interleaving = self.interleaving
        if message is None or (interleaving and self._heap):
            message = self._turn(now)
            if message is None:
                return None
        offset, size = message.offset, message.size
        left = size - offset
        space = room - (20 if interleaving else 16)
        if left > space:
            if space < (4 if fresh else _MIN_FRAGMENT):
                return None
            left = space & ~3
        end = offset + left
        ends = end == size
        stream = message.stream
        payload = message.data if left == size else message.data[offset:end]
        if not offset:
            self._number(message, stream)
        length = left + (20 if interleaving else 16)
        header = self._header(message, tsn, length, ends)
        chunk = OutChunk(tsn, message, header, payload, length + (-length & 3), ends)
        if message.chunks is not None:
            message.chunks.append(chunk)
        message.offset = end
        self.queued -= left
        stream.virtual += length
        if ends:
            stream.messages.popleft()
            self.message_count -= 1
            self._current = None
            self._rotate(stream)
        return chunk

    def _turn(self, now: float) -> OutMessage | None:
        """Put the present message back, and return the one whose turn it is."""
        message = self._current
        if message is not None:
            self._current = None
            self._wait(message.stream)
        message = self._current = self._select(now)
        return message

    def _header(self, message: OutMessage, tsn: int, length: int, ends: bool) -> bytes:
        offset, stream, flags = message.offset, message.stream, message.flags
        if not offset:
            flags |= BEGINS
        if ends:
            flags |= ENDS
            if not self._heap and len(stream.messages) == 1:
                flags |= IMMEDIATE  # RFC 7053: nothing follows that would bring the acknowledgement out
        if not self.interleaving:
            number = 0 if message.flags else message.number & MASK16
            return DATA_HEADER.pack(DATA, flags, length, tsn & MASK32, stream.id, number, message.ppid)
        last = message.fragments if offset else message.ppid
        message.fragments += 1
        return I_DATA_HEADER.pack(I_DATA, flags, length, tsn & MASK32, stream.id, 0, message.number & MASK32, last)

    @staticmethod
    def _number(message: OutMessage, stream: OutStream) -> None:
        if message.flags & UNORDERED:
            message.number = stream.next_unordered
            stream.next_unordered += 1
        else:
            message.number = stream.next_number
            stream.next_number += 1

    def placeholder(self, message: OutMessage, tsn: int) -> OutChunk:
        """Return a chunk without payload that stands for the rest of a message given up (RFC 3758 section 3.5)."""
        chunk = OutChunk(tsn, message, b"", b"", 0, True)
        chunk.state = ABANDONED
        return chunk


def write(chunk: OutChunk, parts: list[bytes]) -> None:
    """Append a chunk to the parts of a packet."""
    parts.append(chunk.header)
    parts.append(chunk.payload)
    pad = chunk.payload_size & 3
    if pad:
        parts.append(_PADS[pad])
