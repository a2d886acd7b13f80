"""Fragments become messages, and messages of an ordered stream wait for those before them (RFC 9260 sections 6.6, 6.9).

The usual case is a fragment that continues the message whose turn it is: it is appended to a list. All others are kept
by number, so that each is touched once when it comes and once when it goes, in whatever order they arrive.

Fragments are numbered by their TSN in DATA, by their FSN in I-DATA. Unordered DATA has no message number at all: there
runs of consecutive TSNs are joined, never across the beginning or the end of a message.

What it guards against: messages without end, sequences of fragments that contradict each other, messages in crumbs
(all abort), and more fragments or bytes than the window, which the receiver refuses before they come here.
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


class _InStream:
    """The receiving half of a stream.

    Attributes:
        next: number of the ordered message whose turn it is.
        parts: its fragments up to now, without a gap.
        expected: number of the fragment that follows them, -1 before the first.
        order: a heap of the numbers in ``pending``, and of some that were there.
    """

    __slots__ = ("expected", "next", "order", "parts", "pending", "ppid", "size", "unordered", "unordered_next")

    def __init__(self) -> None:
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
        emit: takes each whole message.
        max_message: bytes.

    Attributes:
        held: bytes of fragments, and of messages that wait for their turn.
        fragments: how many pieces that is.
        unconsumed: bytes handed out and not yet given back.
    """

    def __init__(self, emit: Callable[[MessageReceived], None], max_message: int) -> None:
        self._emit = emit
        self._max_message = max_message
        self._streams: dict[int, _InStream] = {}
        self.held = 0
        self.fragments = 0
        self.unconsumed = 0
        self._loose: dict[int, tuple[int, int, int, bytes]] = {}  # unordered DATA: TSN -> stream, flags, ppid, payload
        self._run_ends: dict[int, int] = {}
        self._run_starts: dict[int, int] = {}

    def _stream(self, number: int) -> _InStream:
        stream = self._streams.get(number)
        if stream is None:
            stream = self._streams[number] = _InStream()
        return stream

    def _deliver(self, stream: int, ppid: int, data: bytes) -> None:
        self.unconsumed += len(data)
        self._emit(MessageReceived(stream, ppid, data))

    def _release(self, pieces: int, size: int) -> None:
        self.fragments -= pieces
        self.held -= size

    def _too_large(self, size: int) -> MalformedError:
        return MalformedError(f"a message of {size} bytes or more; the limit is {self._max_message}")

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
        self._add_ordered(stream_id, stream, unwrap16(sequence, stream.next), tsn, flags, ppid, payload)

    def add_interleaved(self, flags: int, stream_id: int, message: int, last: int, payload: bytes) -> None:
        """Take the payload of an I-DATA chunk; ``last`` is its last field: PPID at the beginning, FSN elsewhere.

        Raises:
            MalformedError: as :meth:`add_data`.
        """
        stream = self._stream(stream_id)
        fragment, ppid = (0, last) if flags & BEGINS else (last, 0)
        if not flags & UNORDERED:
            number = unwrap(message, stream.next)
            self._add_ordered(stream_id, stream, number, fragment, flags, ppid, payload)
        elif flags & (BEGINS | ENDS) == BEGINS | ENDS:
            self._deliver(stream_id, ppid, payload)
        else:
            number = unwrap(message, stream.unordered_next)
            stream.unordered_next = max(stream.unordered_next, number)
            partial = self._hold(stream.unordered, number, fragment, flags, ppid, payload)
            if partial.complete:
                del stream.unordered[number]
                self._deliver_partial(stream_id, partial)

    def _add_ordered(
        self, stream_id: int, stream: _InStream, number: int, fragment: int, flags: int, ppid: int, payload: bytes
    ) -> None:
        if number != stream.next:
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
                self._deliver(stream_id, ppid, payload)
                return
            stream.ppid = ppid
        else:
            self._hold_ordered(stream, number, fragment, flags, ppid, payload)
            return
        self._append(stream, payload)
        stream.expected = fragment + 1
        if flags & ENDS:
            self._finish(stream_id, stream)
        if stream.pending:
            self._advance(stream_id, stream)

    def _append(self, stream: _InStream, payload: bytes) -> None:
        size = len(payload)
        stream.parts.append(payload)
        stream.size += size
        self.held += size
        self.fragments += 1
        if stream.size > self._max_message:
            raise self._too_large(stream.size)
        count = len(stream.parts)
        if count > _MANY_FRAGMENTS and stream.size < (count - 1) * _SMALL_FRAGMENT:
            raise MalformedError(f"a message in {count} fragments of {stream.size} bytes together")

    def _finish(self, stream_id: int, stream: _InStream) -> None:
        parts = stream.parts
        self.fragments -= len(parts)
        self.held -= stream.size
        stream.parts = []
        stream.size = 0
        stream.expected = -1
        stream.next += 1
        if stream.pending.get(stream.next - 1) is not None:
            raise MalformedError("fragments behind the end of a message")
        self._deliver(stream_id, stream.ppid, b"".join(parts))

    def _advance(self, stream_id: int, stream: _InStream) -> None:
        """Move what waited and may now be appended."""
        while True:
            partial = stream.pending.get(stream.next)
            if partial is None:
                return
            if stream.expected < 0:
                if partial.first < 0:
                    return
                stream.expected = partial.first
                stream.ppid = partial.ppid
            elif partial.first >= 0:
                raise MalformedError("a message that begins twice")
            fragments = partial.fragments
            while (payload := fragments.pop(stream.expected, None)) is not None:
                self._release(1, len(payload))
                partial.size -= len(payload)
                self._append(stream, payload)
                stream.expected += 1
            partial.first = -1
            ended = partial.last >= 0 and stream.expected > partial.last
            if not fragments:
                del stream.pending[stream.next]
            if not ended:
                return
            self._finish(stream_id, stream)

    def _hold_ordered(
        self, stream: _InStream, number: int, fragment: int, flags: int, ppid: int, payload: bytes
    ) -> None:
        if number not in stream.pending:
            order = stream.order
            while order and order[0] < stream.next:
                heappop(order)
            heappush(order, number)
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
        if partial.size > self._max_message:
            raise self._too_large(partial.size)
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
        if not flags & BEGINS and self._joins(tsn - 1, stream_id, ENDS):
            start = self._run_starts.pop(tsn - 1)
            del self._run_ends[start]
        if not flags & ENDS and self._joins(tsn + 1, stream_id, BEGINS):
            end = self._run_ends.pop(tsn + 1)
            del self._run_starts[end]
        if self._loose[start][1] & BEGINS and self._loose[end][1] & ENDS:
            pieces = [self._loose.pop(number) for number in range(start, end + 1)]
            data = b"".join([piece[3] for piece in pieces])
            self._release(len(pieces), len(data))
            if len(data) > self._max_message:
                raise self._too_large(len(data))
            self._deliver(stream_id, pieces[0][2], data)
            return
        # A fragment has at least one byte, so a run that is longer than the largest message is too large itself.
        if end - start >= self._max_message:
            raise self._too_large(end - start)
        self._run_ends[start] = end
        self._run_starts[end] = start

    def _joins(self, neighbour: int, stream_id: int, boundary: int) -> bool:
        piece = self._loose.get(neighbour)
        return piece is not None and piece[0] == stream_id and not piece[1] & boundary

    # Messages given up by the sender, and resets

    def skip_loose(self, first: int, last: int) -> None:
        """Forget fragments of unordered DATA with the TSNs from ``first`` to ``last``, and what belongs to them."""
        if not self._loose:
            return
        # A run that ends just before what is skipped will never be continued.
        reaching = self._run_starts.get(first - 1)
        if reaching is not None:
            self._drop_run(reaching)
        numbers = range(first, last + 1) if last - first < len(self._run_ends) else list(self._run_ends)
        for start in numbers:
            if first <= start <= last and start in self._run_ends:
                self._drop_run(start)

    def _drop_run(self, start: int) -> None:
        end = self._run_ends.pop(start)
        del self._run_starts[end]
        for number in range(start, end + 1):
            self._release(1, len(self._loose.pop(number)[3]))

    def skip_ordered(self, stream_id: int, sequence: int, *, interleaved: bool) -> None:
        """Forget the ordered messages of a stream up to ``sequence``, which comes from the wire."""
        stream = self._stream(stream_id)
        last = unwrap(sequence, stream.next) if interleaved else unwrap16(sequence, stream.next)
        if last < stream.next:
            return
        self._drop_parts(stream)
        self._drop_pending(stream, last)
        stream.next = last + 1
        if stream.pending:
            self._advance(stream_id, stream)

    def skip_unordered(self, stream_id: int, message: int) -> None:
        """Forget an unordered message sent as I-DATA."""
        stream = self._stream(stream_id)
        partial = stream.unordered.pop(unwrap(message, stream.unordered_next), None)
        if partial is not None:
            self._release(len(partial.fragments), partial.size)

    def _drop_parts(self, stream: _InStream) -> None:
        self._release(len(stream.parts), stream.size)
        stream.parts = []
        stream.size = 0
        stream.expected = -1

    def _drop_pending(self, stream: _InStream, last: int) -> None:
        # Only what is dropped is looked at: one packet may skip hundreds of times, and much more may wait.
        order = stream.order
        while order and order[0] <= last:
            partial = stream.pending.pop(heappop(order), None)
            if partial is not None:
                self._release(len(partial.fragments), partial.size)

    def stream_ids(self) -> tuple[int, ...]:
        """Return the numbers of all streams on which something came."""
        return tuple(self._streams)

    def reset(self, stream_id: int) -> None:
        """Begin again with message 0; whatever is incomplete is forgotten."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        self._drop_parts(stream)
        for pending in (stream.pending, stream.unordered):
            for partial in pending.values():
                self._release(len(partial.fragments), partial.size)
