"""Bytes that the operating system has not taken yet.

Small pieces are joined: a peer may send its payload in messages of one byte, and a Python object for each would turn a
credit of 256 KiB into tens of megabytes.
"""

from __future__ import annotations

from collections import deque

from mxrtc_bridge.core.errors import StateError

JOIN_UP_TO = 64 * 1024
"""Size to which small pieces are joined into one."""
MAX_PIECES = 64
"""How many pieces go into one call to the system (the limit of Linux is 1024)."""


class WriteBuffer:
    """A queue of bytes with a limit.

    Args:
        limit: bytes; who appends beyond it did not hold back as agreed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytearray] = deque()
        self._offset = 0
        self.size = 0
        """Bytes held."""

    def append(self, data: bytes) -> None:
        """Add ``data`` at the end.

        Raises:
            StateError: the buffer would hold more than its limit.
        """
        if self.size + len(data) > self._limit:
            raise StateError(f"{self.size + len(data)} bytes are waiting to be written, the limit is {self._limit}")
        if self._pieces and len(self._pieces[-1]) + len(data) <= JOIN_UP_TO:
            self._pieces[-1] += data
        elif data:
            self._pieces.append(bytearray(data))
        self.size += len(data)

    def pieces(self) -> list[memoryview]:
        """Return views of the first pieces; let go of them before the next call of any method that changes this."""
        views = [memoryview(piece) for piece, _ in zip(self._pieces, range(MAX_PIECES), strict=False)]
        if views:
            views[0] = views[0][self._offset :]
        return views

    def first(self) -> bytes:
        """Return a copy of the first piece, for a thread to work on."""
        return bytes(self._pieces[0][self._offset :])

    def consume(self, size: int) -> None:
        """Forget the first ``size`` bytes."""
        self.size -= size
        size += self._offset
        while self._pieces and size >= len(self._pieces[0]):
            size -= len(self._pieces.popleft())
        self._offset = size

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._offset = 0
        self.size = 0
