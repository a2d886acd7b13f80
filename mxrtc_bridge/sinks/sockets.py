"""A TCP or unix stream socket as a sink: one that we connected, or one that was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable

from mxrtc_bridge.sinks.hangups import watcher
from mxrtc_bridge.sinks.pollable import PollableReader, PollableWriter
from mxrtc_bridge.sinks.reader_writer import nothing
from mxrtc_bridge.sinks.stream_sink import CLOSE_TIMEOUT_S, StreamSink
from mxrtc_bridge.system import WINDOWS, linger

PAUSED_RESET_S = 10.0
KEEPALIVE_S = (60, 15, 4)
"""Idle time, pause between two probes, and their number."""
GONE_S = 120.0
"""How long what a program has said may be on its way to the other end after it is gone: as long as keep-alive lets it
be at TCP."""


def make_reset_on_close(sock: socket.socket, reset: bool = True) -> None:
    """Let closing a TCP socket send RST and drop what is unsent, or not; a unix socket has no such thing."""
    if not _is_unix(sock):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger(reset=reset))


def _is_unix(sock: socket.socket) -> bool:
    return sys.platform != "win32" and not WINDOWS and sock.family == socket.AF_UNIX


def _prepare_tcp(sock: socket.socket) -> None:
    # Keystrokes must not wait for acknowledgements; bulk data comes in large writes anyway.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Somebody who has half-closed and is gone says nothing any more.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), KEEPALIVE_S, strict=True):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class SocketSink(StreamSink):
    """A connected stream socket. Implements :class:`mxrtc_bridge.engine.ports.Sink`.

    Until all of it was written, with its end, closing it is a reset, so that its other side does not take half a stream
    for a whole one when this process dies (the kernel closes then what was open). A reset by the other side is noticed
    at any time, also while reading is paused or has ended.

    A unix socket that is reset while it holds unread bytes gives its other side ECONNRESET, as TCP does; without
    unread bytes the other side sees an end, for the system has nothing else to offer. A program at a unix socket that
    has said its end and is gone has ended in order, and only reads no more; its end must not become a reset that drops
    its last words on their way.

    Args:
        sock: belongs to the sink from now on.
        released: called once, when the socket has been closed.
        paused_reset_s: how long a socket that was reset may wait for its reading to go on; then what it still holds
            is lost.
        gone_s: how long a program that has said its end and is gone may still be written to.
        close_timeout_s: how long the other side may take for the rest when it is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        released: Callable[[], None] = nothing,
        paused_reset_s: float = PAUSED_RESET_S,
        gone_s: float = GONE_S,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        super().__init__(close_timeout_s=close_timeout_s)
        sock.setblocking(False)
        if not _is_unix(sock):
            # A socket whose other side is gone already may refuse an option; reading will tell.
            with contextlib.suppress(OSError):
                _prepare_tcp(sock)
        make_reset_on_close(sock)
        self._sock = sock
        self._released = released
        self._paused_reset_s = paused_reset_s
        self._gone_s = gone_s
        self._in_order = True
        self._was_reset = self._is_gone = False
        self._patience: asyncio.TimerHandle | None = None
        used = sock if WINDOWS else None
        self._written_by = PollableWriter(sock.fileno(), self, sock=used)
        self._set_halves(PollableReader(sock.fileno(), self, sock=used), self._written_by)
        self._watcher = watcher()
        self._watcher.add(sock.fileno(), self._hung_up)

    def pause_reading(self) -> None:
        """Deliver nothing until :meth:`resume_reading`."""
        super().pause_reading()
        self._be_patient()

    def resume_reading(self) -> None:
        """Deliver again."""
        if self.reads:
            self._end_patience()
        super().resume_reading()

    def half_ended(self) -> None:
        # The system tells a reset once. If a write has met it, reading finds what looks like an end in order.
        failure = self._written_by.failure
        if failure is not None or self._was_reset:
            self._fail(failure)
            return
        super().half_ended()
        self._end_patience()
        self._be_patient()

    def _hung_up(self, is_error: bool) -> None:
        if is_error and not self.reads:
            self._fail()
            return
        # Reading meets it behind the last bytes.
        self._was_reset, self._is_gone = is_error or self._was_reset, True
        self._be_patient()

    def _be_patient(self) -> None:
        if self.closed or self._patience is not None:
            return
        if self.reads and self._was_reset and self.paused:
            self._patience = asyncio.get_running_loop().call_later(self._paused_reset_s, self._fail)
        elif not self.reads and self._is_gone and self.writes:
            self._patience = asyncio.get_running_loop().call_later(self._gone_s, self._fail)

    def write_eof(self) -> None:
        """Half-close after all that was written. A second call does nothing."""
        super().write_eof()
        if not self.reads:
            self._end_patience()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _fail(self, error: OSError | None = None) -> None:
        if error is None:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
            error = OSError(number, os.strerror(number))
        self.half_failed(error)

    def _finish_writing(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)
        # The system has all of it, with its end: it arrives also if this process ends before it was read.
        make_reset_on_close(self._sock, False)

    def _prepare_reset(self) -> None:
        self._in_order = False

    def _release(self) -> None:
        self._end_patience()
        self._watcher.remove(self._sock.fileno())
        make_reset_on_close(self._sock, not self._in_order)
        self._sock.close()
        self._released()
