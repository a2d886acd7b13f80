"""Halves for descriptors that the loop can wait for: sockets, pipes, terminals. They must be non-blocking.

What uvloop tells of a descriptor with an error (EPOLLERR, which a reset gives) it tells once, whether or not something
could be read, and forgets who was to be told; a reader that is added from within that call is forgotten as well. So one
call reads until nothing is left, the end, or the error, and where it stops before, it is armed anew after the call.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from functools import partial

from mxrtc_bridge.sinks.buffer import WriteBuffer
from mxrtc_bridge.sinks.reader_writer import MAX_SALVAGED_BYTES, MAX_UNSENT_BYTES, READ_SIZE, nothing
from mxrtc_bridge.sinks.stream_sink import StreamSink

READS_AT_ONCE = 2
"""Pieces in one call; then it is the turn of others. A short piece costs a second look, a long stream no more."""


class PollableReader:
    """Reads a non-blocking descriptor when the loop says that it can be read.

    Args:
        descriptor: of it.
        owner: told what comes.
        released: called when it is not used any more.
        sock: what it belongs to, where the descriptor of a socket is none of a file, as on Windows.
    """

    def __init__(
        self,
        descriptor: int,
        owner: StreamSink,
        released: Callable[[], None] = nothing,
        sock: socket.socket | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._read: Callable[[int], bytes] = partial(os.read, descriptor) if sock is None else sock.recv
        self._owner = owner
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._watching = False
        self._stopped = False

    def pause(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        if not self._watching and not self._stopped:
            self._watching = True
            self._loop.add_reader(self._descriptor, self._readable)

    def stop(self) -> None:
        if not self._stopped:
            self.pause()
            self._stopped = True
            self._released()

    def salvage(self) -> list[bytes]:
        pieces: list[bytes] = []
        while not self._stopped and len(pieces) < MAX_SALVAGED_BYTES // READ_SIZE:
            try:
                data = self._read(READ_SIZE)
            except OSError:
                break
            if not data:
                break
            pieces.append(data)
        return pieces

    def _readable(self) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                data = self._read(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.pause()
                self._owner.half_failed(error)
                return
            if not data:
                self.stop()
                self._owner.half_ended()
                return
            self._owner.half_read(data)
            if not self._watching:
                return
        self._loop.call_soon(self._arm_anew)

    def _arm_anew(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._descriptor)
            self._loop.add_reader(self._descriptor, self._readable)


class PollableWriter:
    """Writes to a non-blocking descriptor; keeps what it does not take, up to 8 MiB. Its arguments are the reader's."""

    def __init__(
        self,
        descriptor: int,
        owner: StreamSink,
        released: Callable[[], None] = nothing,
        sock: socket.socket | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._write: Callable[[bytes], int] = partial(os.write, descriptor) if sock is None else sock.send
        self._sock = sock
        self._owner = owner
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._buffer = WriteBuffer(MAX_UNSENT_BYTES)
        self._watching = False
        self._finishing = False
        self._stopped = False
        self._written = 0
        self.failure: OSError | None = None
        """What ended it; the owner is told soon."""
        self._report_due = False

    def write(self, data: bytes) -> None:
        if self._stopped or self.failure is not None or not data:
            return
        if self._watching:
            self._buffer.append(data)
            return
        self._attempt(data)
        self._report_soon()

    def finish(self) -> None:
        self._finishing = True
        self._report_soon()

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._unwatch()
            self._buffer.clear()
            self._released()

    def _attempt(self, data: bytes = b"") -> None:
        """Give the system what it takes now, what is held and then ``data``; never tells the owner."""
        try:
            while self._buffer.size:
                taken = self._write_pieces()
                self._buffer.consume(taken)
                self._written += taken
            while data:
                taken = self._write(data)
                data = data[taken:]
                self._written += taken
        except (BlockingIOError, InterruptedError):
            self._buffer.append(data)
            self._watch()
        except OSError as error:
            self.failure = error
            self._unwatch()
        else:
            self._unwatch()

    def _write_pieces(self) -> int:
        if sys.platform != "win32" and self._sock is None:
            return os.writev(self._descriptor, self._buffer.pieces())
        return self._write(self._buffer.first())

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.add_writer(self._descriptor, self._writable)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._descriptor)

    def _writable(self) -> None:
        self._attempt()
        self._report()

    def _report_soon(self) -> None:
        if not self._report_due:
            self._report_due = True
            self._loop.call_soon(self._report)

    def _report(self) -> None:
        self._report_due = False
        if self._written and not self._stopped:
            written, self._written = self._written, 0
            self._owner.half_wrote(written)
        if self._stopped:
            return
        if self.failure is not None:
            self._owner.half_failed(self.failure)
        elif self._finishing and not self._buffer.size:
            self._finishing = False
            self._owner.half_flushed()
