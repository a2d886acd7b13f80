"""Chunks in pieces: how what was cut for a wide path gets through one that loses even the fragments of large packets.

A chunk with user data keeps its size for ever (RFC 9260 section 6.9), so one that does not fit any more can only be
carried in several packets. IP does so where fragments arrive; where they do not, a chunk of our own has a part of it:
type 183, length, TSN, size of the whole, offset, and the bytes. It goes to sides only that name the type among their
extensions; its highest bits tell others to skip it (RFC 9260 section 3.2).

Guards against a side that never completes anything: a bounded number of chunks is kept, of bounded size and in a
bounded number of pieces, and the oldest goes first. What is lost so is sent again, as if the chunk had been lost.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from struct import Struct

from mxrtc_bridge.sctp.chunks import CHUNK, PIECE, MalformedError, padding

MAX_WHOLE = 2048
"""Bytes of a chunk that comes in pieces: more than fits into any packet."""
MAX_PIECES = 16
"""Of one chunk: the smallest packets carry a sixth of the largest."""
MAX_INCOMPLETE = 32

_HEAD = Struct("!LHH")
_OVERHEAD = CHUNK.size + _HEAD.size


def cut(tsn: int, whole: bytes, room: int) -> list[bytes]:
    """Return the pieces of a chunk.

    Args:
        tsn: its own, 32 bits.
        whole: the chunk, without the padding behind it.
        room: bytes that each piece may take in a packet.
    """
    step = room - _OVERHEAD & ~3
    return [_piece(tsn, whole, start, whole[start : start + step]) for start in range(0, len(whole), step)]


def _piece(tsn: int, whole: bytes, start: int, part: bytes) -> bytes:
    head = CHUNK.pack(PIECE, 0, _OVERHEAD + len(part)) + _HEAD.pack(tsn, len(whole), start)
    return b"".join((head, part, padding(len(part))))


@dataclass(slots=True)
class _Incomplete:
    whole: bytearray
    pieces: dict[int, int] = field(default_factory=dict)
    """Where each begins and ends."""

    def is_complete(self) -> bool:
        reached = 0
        for start, end in sorted(self.pieces.items()):
            if start > reached:
                return False
            reached = max(reached, end)
        return reached == len(self.whole)


class Pieces:
    """Puts the chunks of the other side together."""

    def __init__(self) -> None:
        self._incomplete: OrderedDict[int, _Incomplete] = OrderedDict()

    def put(self, body: bytes) -> bytes | None:
        """Take a piece without its chunk header; return the chunk that it completes, if it does.

        Raises:
            MalformedError: it lies outside of its chunk, or that is too small, too large or in too many pieces.
        """
        if len(body) <= _HEAD.size:
            raise MalformedError(f"a piece of {len(body)} bytes")
        tsn, size, start = _HEAD.unpack_from(body)
        part = body[_HEAD.size :]
        # What is put together is read as a chunk, so it has at least the header of one.
        if not CHUNK.size < size <= MAX_WHOLE or start + len(part) > size:
            raise MalformedError(f"bytes {start} to {start + len(part)} of a chunk of {size}")
        known = self._incomplete.get(tsn)
        if known is None or len(known.whole) != size:
            known = self._incomplete[tsn] = _Incomplete(bytearray(size))
            if len(self._incomplete) > MAX_INCOMPLETE:
                self._incomplete.popitem(last=False)
        known.whole[start : start + len(part)] = part
        known.pieces[start] = max(start + len(part), known.pieces.get(start, 0))
        if known.is_complete():
            del self._incomplete[tsn]
            return bytes(known.whole)
        if len(known.pieces) >= MAX_PIECES:
            raise MalformedError(f"a chunk in more than {MAX_PIECES} pieces")
        return None
