"""Fragments become messages, and messages of an ordered stream wait for those before them (RFC 9260 sections 6.6, 6.9).

The usual case is a fragment that continues the message whose turn it is: it is appended to a list. All others are kept
by number, so that each is touched once when it comes and once when it goes, in whatever order they arrive.

Fragments are numbered by their TSN in DATA, by their FSN in I-DATA. Unordered DATA has no message number at all: there
runs of consecutive TSNs are joined, never across the beginning or the end of a message.

One chunk may complete what tens of thousands before it have brought, or give it up. Neither is done at once: a stream
whose turn has come stands among the events, in the place of its first message, and hands out one message each time it
is asked (:meth:`Reassembly.take`); what was given up is forgotten a bounded number at a time, as time passes
(:meth:`Reassembly.sweep`), and counts as held until then.

What it guards against: messages without end, sequences of fragments that contradict each other, messages in crumbs
(all abort), and more fragments or bytes than the window, which the receiver refuses before they come here.

One file: arrival, handing out and giving up change the same few fields of a stream, and each must know what the others
leave behind.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from mxrtc_bridge.sctp.chunks import BEGINS, ENDS, UNORDERED, MalformedError
from mxrtc_bridge.sctp.events import MessageReceived
from mxrtc_bridge.sctp.numbers import unwrap, unwrap16

_MANY_FRAGMENTS = 1024
_SMALL_FRAGMENT = 16
"""Bytes, on average, below which a message of many fragments is a violation: each costs as much as a whole packet."""
_SWEPT_AT_ONCE = 256
"""Pieces that were given up and are forgotten in one step."""
_NEVER = 1 << 62
"""The number behind all messages of a stream that has ended."""


class _Partial:
    """Fragments of one message that cannot be appended yet."""

    __slots__ = ("first", "fragments", "last", "ppid", "size")

    def __init__(self) -> None:
        self.fragments: dict[int, bytes] = {}
        self.first = -1
        self.last = -1
        self.ppid = 0
        self.size = 0

    @property
    def complete(self) -> bool:
        return self.first >= 0 and self.last >= 0 and len(self.fragments) == self.last - self.first + 1


class InStream:
    """The receiving half of a stream.

    Attributes:
        id: its number.
        next: number of the ordered message whose turn it is.
        parts: its fragments up to now, without a gap.
        expected: number of the fragment that follows them, -1 before the first.
        order: a heap of the numbers in ``pending``, and of some that were there.
        newest: the highest number that was ever in ``pending``.
        in_line: it stands among the events; until it has left them, whatever comes waits in ``pending``.
        skip_to: number of the last message that was given up while it stood there.
        ended: it was reset, and another has its number.
    """

    __slots__ = (
        "ended",
        "expected",
        "id",
        "in_line",
        "newest",
        "next",
        "order",
        "parts",
        "pending",
        "ppid",
        "size",
        "skip_to",
        "unordered",
        "unordered_next",
    )

    def __init__(self, number: int) -> None:
        self.id = number
        self.in_line = False
        self.ended = False
        self.newest = -1
        self.skip_to = -1
        self.next = 0
        self.parts: list[bytes] = []
        self.expected = -1
        self.size = 0
        self.ppid = 0
        self.pending: dict[int, _Partial] = {}
        self.order: list[int] = []
        self.unordered: dict[int, _Partial] = {}
        self.unordered_next = 0


class Reassembly:
    """All streams of the receiving side.

    Args:
        emit: takes each whole message, and each stream that is to be asked for its messages by :meth:`take`.
        max_message: bytes.
        max_streams: on which something has come and that were not reset since; more are a violation.

    Attributes:
        held: bytes of fragments, and of messages that wait for their turn.
        fragments: how many pieces that is.
        unconsumed: bytes handed out and not yet given back.
        lines: how many streams stand among the events.
        leftover: there is something for :meth:`sweep`.
    """

    def __init__(
        self, emit: Callable[[MessageReceived | InStream], None], max_message: int, max_streams: int = 4096
    ) -> None:
        self._emit = emit
        self._max_message = max_message
        self._max_streams = max_streams
        self._streams: dict[int, InStream] = {}
        self._given_up: dict[InStream, None] = {}
        self.lines = 0
        self.leftover = False
        self.held = 0
        self.fragments = 0
        self.unconsumed = 0
        self._loose: dict[int, tuple[int, int, int, bytes]] = {}  # unordered DATA: TSN -> stream, flags, ppid, payload
        self._run_ends: dict[int, int] = {}
        self._run_starts: dict[int, int] = {}
        self._given_up_to = -1  # the last TSN that was given up: loose fragments up to there join nothing
        self._is_looked_through = True
        self._runs_to_look_at: list[int] = []

    def _stream(self, number: int) -> InStream:
        stream = self._streams.get(number)
        if stream is None:
            if len(self._streams) >= self._max_streams:
                raise MalformedError(f"messages on more than {self._max_streams} streams that were not reset")
            stream = self._streams[number] = InStream(number)
        return stream

    def _deliver(self, stream: int, ppid: int, data: bytes) -> None:
        self.unconsumed += len(data)
        self._emit(MessageReceived(stream, ppid, data))

    def _release(self, pieces: int, size: int) -> None:
        self.fragments -= pieces
        self.held -= size

    def _check_size(self, size: int, fragments: int) -> None:
        if size > self._max_message:
            raise MalformedError(f"a message of {size} bytes or more; the limit is {self._max_message}")
        if fragments > _MANY_FRAGMENTS and size < (fragments - 1) * _SMALL_FRAGMENT:
            raise MalformedError(f"a message in {fragments} fragments of {size} bytes together")

    # Arrival

    def add_data(self, tsn: int, flags: int, stream_id: int, sequence: int, ppid: int, payload: bytes) -> None:
        """Take the payload of a DATA chunk with a widened TSN.

        Raises:
            MalformedError: the fragments contradict each other, or make a message that is too large.
        """
        if flags & UNORDERED:
            if flags & (BEGINS | ENDS) == BEGINS | ENDS:
                self._deliver(stream_id, ppid, payload)
            else:
                self._add_loose(tsn, (stream_id, flags, ppid, payload))
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._stream(stream_id)
        # While a stream stands in line its next number stays behind, and half of the numbers may lie between.
        near = stream.newest if stream.in_line else stream.next
        self._add_ordered(stream, unwrap16(sequence, near), tsn, flags, ppid, payload)

    def add_interleaved(self, flags: int, stream_id: int, message: int, last: int, payload: bytes) -> None:
        """Take the payload of an I-DATA chunk; ``last`` is its last field: PPID at the beginning, FSN elsewhere.

        Raises:
            MalformedError: as :meth:`add_data`.
        """
        stream = self._stream(stream_id)
        fragment, ppid = (0, last) if flags & BEGINS else (last, 0)
        if not flags & UNORDERED:
            self._add_ordered(stream, unwrap(message, stream.next), fragment, flags, ppid, payload)
        elif flags & (BEGINS | ENDS) == BEGINS | ENDS:
            self._deliver(stream_id, ppid, payload)
        else:
            number = unwrap(message, stream.unordered_next)
            stream.unordered_next = max(stream.unordered_next, number)
            partial = self._hold(stream.unordered, number, fragment, flags, ppid, payload)
            if partial.complete:
                del stream.unordered[number]
                self._deliver_partial(stream_id, partial)

    def _add_ordered(self, stream: InStream, number: int, fragment: int, flags: int, ppid: int, payload: bytes) -> None:
        if number != stream.next or stream.in_line:
            if number < stream.next:
                return  # of a message that was skipped: its fragments may still be on their way
            self._hold_ordered(stream, number, fragment, flags, ppid, payload)
            return
        if fragment == stream.expected:
            if flags & BEGINS:
                raise MalformedError("a message that begins twice")
        elif flags & BEGINS:
            if stream.expected >= 0:
                raise MalformedError("a message that begins before the one before it ended")
            if flags & ENDS and not stream.pending:
                stream.next = number + 1
                self._deliver(stream.id, ppid, payload)
                return
            stream.ppid = ppid
        else:
            self._hold_ordered(stream, number, fragment, flags, ppid, payload)
            return
        self._append(stream, payload)
        stream.expected = fragment + 1
        if flags & ENDS:
            self._emit(self._finish(stream))
        if stream.pending:
            self._line_up(stream)

    def _append(self, stream: InStream, payload: bytes) -> None:
        size = len(payload)
        stream.parts.append(payload)
        stream.size += size
        self.held += size
        self.fragments += 1
        if stream.size > self._max_message or len(stream.parts) > _MANY_FRAGMENTS:
            self._check_size(stream.size, len(stream.parts))

    def _finish(self, stream: InStream) -> MessageReceived:
        parts = stream.parts
        self._release(len(parts), stream.size)
        stream.parts = []
        stream.size = 0
        stream.expected = -1
        stream.next += 1
        if stream.pending.get(stream.next - 1) is not None:
            raise MalformedError("fragments behind the end of a message")
        data = b"".join(parts)
        self.unconsumed += len(data)
        return MessageReceived(stream.id, stream.ppid, data)

    def _line_up(self, stream: InStream) -> None:
        """Have a stream asked for what has waited and may have its turn now."""
        if not stream.in_line and stream.next in stream.pending:
            stream.in_line = True
            self.lines += 1
            self._emit(stream)

    def take(self, stream: InStream) -> MessageReceived | None:
        """Return the next message of a stream that stands in line, None if there is none.

        Afterwards its ``in_line`` says whether it is to be asked once more, before all events that are behind it.

        Raises:
            MalformedError: as :meth:`add_data`.
        """
        message = self._put_together(stream)
        while message is None and stream.skip_to >= stream.next:
            self._skip(stream, stream.skip_to)
            message = self._put_together(stream)
        order = stream.order
        while order and order[0] < stream.next and order[0] not in stream.pending:
            heappop(order)
        stream.in_line = message is not None and (stream.next in stream.pending or stream.skip_to >= stream.next)
        if not stream.in_line:
            self.lines -= 1
            if stream.ended:
                self._give_up(stream)
        return message

    def _put_together(self, stream: InStream) -> MessageReceived | None:
        """Append what has waited to the message whose turn it is; return it if it is whole."""
        partial = stream.pending.get(stream.next)
        if partial is None:
            return None
        if stream.expected < 0:
            if partial.first < 0:
                return None
            stream.expected = partial.first
            stream.ppid = partial.ppid
        elif partial.first >= 0:
            raise MalformedError("a message that begins twice")
        fragments, parts = partial.fragments, stream.parts
        expected, size = stream.expected, 0
        while (payload := fragments.pop(expected, None)) is not None:
            parts.append(payload)
            size += len(payload)
            expected += 1
        stream.expected = expected
        stream.size += size
        partial.size -= size
        partial.first = -1
        self._check_size(stream.size, len(parts))
        if not fragments:
            del stream.pending[stream.next]
        return self._finish(stream) if 0 <= partial.last < expected else None

    def _hold_ordered(
        self, stream: InStream, number: int, fragment: int, flags: int, ppid: int, payload: bytes
    ) -> None:
        if number not in stream.pending:
            heappush(stream.order, number)
            stream.newest = max(stream.newest, number)
        self._hold(stream.pending, number, fragment, flags, ppid, payload)

    def _hold(
        self, pending: dict[int, _Partial], number: int, fragment: int, flags: int, ppid: int, payload: bytes
    ) -> _Partial:
        partial = pending.get(number)
        if partial is None:
            partial = pending[number] = _Partial()
        contradicts = fragment in partial.fragments or (0 <= partial.last < fragment) or fragment < partial.first
        if flags & BEGINS:
            contradicts |= partial.first >= 0
            partial.first = fragment
            partial.ppid = ppid
        if flags & ENDS:
            contradicts |= partial.last >= 0
            partial.last = fragment
        if contradicts:
            raise MalformedError("fragments of a message that contradict each other")
        size = len(payload)
        partial.fragments[fragment] = payload
        partial.size += size
        self.held += size
        self.fragments += 1
        self._check_size(partial.size, len(partial.fragments))
        return partial

    def _deliver_partial(self, stream_id: int, partial: _Partial) -> None:
        fragments = partial.fragments
        self._release(len(fragments), partial.size)
        data = b"".join([fragments[number] for number in range(partial.first, partial.last + 1)])
        self._deliver(stream_id, partial.ppid, data)

    # Unordered DATA

    def _add_loose(self, tsn: int, piece: tuple[int, int, int, bytes]) -> None:
        stream_id, flags, _, payload = piece
        self._loose[tsn] = piece
        self.held += len(payload)
        self.fragments += 1
        start = end = tsn
        if (
            not flags & BEGINS
            and self._joins(tsn - 1, stream_id, ENDS)
            and self._run_starts[tsn - 1] > self._given_up_to
        ):
            start = self._run_starts.pop(tsn - 1)
            del self._run_ends[start]
        if not flags & ENDS and self._joins(tsn + 1, stream_id, BEGINS):
            end = self._run_ends.pop(tsn + 1)
            del self._run_starts[end]
        if self._loose[start][1] & BEGINS and self._loose[end][1] & ENDS:
            pieces = [self._loose.pop(number) for number in range(start, end + 1)]
            data = b"".join([piece[3] for piece in pieces])
            self._release(len(pieces), len(data))
            self._check_size(len(data), len(pieces))
            self._deliver(stream_id, pieces[0][2], data)
            return
        # A fragment has at least one byte, so a run that is longer than the largest message is too large itself.
        self._check_size(end - start + 1, 1)
        self._run_ends[start] = end
        self._run_starts[end] = start

    def _joins(self, neighbour: int, stream_id: int, boundary: int) -> bool:
        piece = self._loose.get(neighbour)
        return piece is not None and piece[0] == stream_id and not piece[1] & boundary

    # Messages given up by the sender, and resets

    def skip_loose(self, last: int) -> None:
        """Forget fragments of unordered DATA with TSNs up to ``last``, and what belongs to them."""
        if self._loose:
            self._given_up_to = last
            self._is_looked_through = False
            self.leftover = True

    def skip_ordered(self, stream_id: int, sequence: int, *, interleaved: bool) -> None:
        """Forget the ordered messages of a stream up to ``sequence``, which comes from the wire."""
        stream = self._stream(stream_id)
        near = stream.newest if stream.in_line else stream.next
        last = unwrap(sequence, stream.next) if interleaved else unwrap16(sequence, near)
        if last < stream.next:
            return
        if stream.in_line:
            stream.skip_to = max(stream.skip_to, last)  # behind what is whole, and was to be handed out before
            return
        self._skip(stream, last)
        self._line_up(stream)

    def skip_unordered(self, stream_id: int, message: int) -> None:
        """Forget an unordered message sent as I-DATA."""
        stream = self._stream(stream_id)
        partial = stream.unordered.pop(unwrap(message, stream.unordered_next), None)
        if partial is not None:
            self._release(len(partial.fragments), partial.size)

    def _skip(self, stream: InStream, last: int) -> None:
        self._release(len(stream.parts), stream.size)
        stream.parts = []
        stream.size = 0
        stream.expected = -1
        stream.next = last + 1
        if stream.order and stream.order[0] <= last:
            self._given_up[stream] = None
            self.leftover = True

    def stream_ids(self) -> tuple[int, ...]:
        """Return the numbers of all streams on which something came."""
        return tuple(self._streams)

    def reset(self, stream_id: int) -> None:
        """Begin again with message 0; whatever is incomplete is forgotten."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        stream.ended = True
        if not stream.in_line and (stream.parts or stream.order or stream.unordered):
            self._give_up(stream)

    def _give_up(self, stream: InStream) -> None:
        self._skip(stream, _NEVER)
        if stream.unordered:
            self._given_up[stream] = None
            self.leftover = True

    def sweep(self) -> None:
        """Forget some of what was given up; to be called again and again while there is a ``leftover``."""
        left = _SWEPT_AT_ONCE
        while left > 0 and self._given_up:
            stream = next(iter(self._given_up))
            left = self._sweep_stream(stream, left)
            if left > 0:
                del self._given_up[stream]
        if left > 0:
            self._sweep_loose(left)
        self.leftover = bool(self._given_up or self._runs_to_look_at or not self._is_looked_through)

    def _sweep_stream(self, stream: InStream, left: int) -> int:
        """Forget messages of a stream; return how much more may be done, 0 or less if there are more of them."""
        order, pending, unordered = stream.order, stream.pending, stream.unordered
        while left > 0 and order and order[0] < stream.next:
            left -= self._drop_partial(pending.pop(heappop(order), None))
        while left > 0 and stream.ended and unordered:
            left -= self._drop_partial(unordered.popitem()[1])
        return left

    def _drop_partial(self, partial: _Partial | None) -> int:
        if partial is None:
            return 1
        count = len(partial.fragments)
        self._release(count, partial.size)
        return 1 + count // 64  # they go together, in one step of the interpreter

    def _sweep_loose(self, left: int) -> None:
        runs = self._runs_to_look_at
        if not runs and not self._is_looked_through:
            runs += self._run_ends
            self._is_looked_through = True
        while runs and left > 0:
            start = runs.pop()
            left -= 1
            end = self._run_ends.get(start)
            if end is None or start > self._given_up_to:
                continue
            del self._run_ends[start], self._run_starts[end]
            last = min(end, start + left)
            for number in range(start, last + 1):
                self._release(1, len(self._loose.pop(number)[3]))
            left -= last - start
            if last < end:
                self._run_ends[last + 1] = end
                self._run_starts[end] = last + 1
                self._given_up_to = max(self._given_up_to, end)
                runs.append(last + 1)
