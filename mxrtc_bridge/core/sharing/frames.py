"""Frames on the socket between two commands of one account: bytes to values within their limits, and back.

A frame is a kind (one byte), the number of a data channel (four bytes, the first one first), the length of what follows
(four bytes), and that. Channel 0 carries what the commands say to each other about the call
(:mod:`mxrtc_bridge.core.sharing.messages`); every other number is a data channel of the session, which its opener
has numbered.

Nothing of it is kept: both ends are the same user on the same machine, and of the same version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.stream.windows import MAX_MESSAGE

HEADER = struct.Struct("!BII")
MAX_CHANNEL = 2**32 - 1


class FrameKind(IntEnum):
    """What a frame carries."""

    TEXT = 0
    """A text message of a data channel, in UTF-8."""
    BINARY = 1
    """A binary message of a data channel."""
    OPENED = 2
    """The data channel is open; nothing follows."""
    CLOSE = 3
    """The data channel is to be closed, after what was sent on it, or has been closed; nothing follows."""


_EMPTY = frozenset({FrameKind.OPENED, FrameKind.CLOSE})


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    kind: FrameKind
    channel: int
    payload: bytes = b""

    def encode(self) -> bytes:
        return HEADER.pack(self.kind, self.channel, len(self.payload)) + self.payload


class FrameReader:
    """Cuts what comes from a socket into frames; holds at most one frame that is not whole."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole now.

        Raises:
            WireError: this is no frame, with the code ``bad_frame``; nothing that follows can be read.
        """
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= HEADER.size:
            number, channel, size = HEADER.unpack_from(rest, at)
            kind = _kind(number)
            if size > (0 if kind in _EMPTY else MAX_MESSAGE):
                raise WireError("bad_frame", f"a frame of kind {kind.name} may not have {size} bytes")
            if len(rest) - at - HEADER.size < size:
                break
            at += HEADER.size
            payload = bytes(memoryview(rest)[at : at + size])
            at += size
            yield Frame(kind, channel, payload)
        del rest[:at]


def _kind(number: int) -> FrameKind:
    try:
        return FrameKind(number)
    except ValueError:
        raise WireError("bad_frame", f"there is no kind of frame {number}") from None
