"""A TCP or unix stream socket as a sink: one that we connected, or one that was accepted."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from mxrtc_bridge.sinks.pollable import PollableReader, PollableWriter
from mxrtc_bridge.sinks.reader_writer import nothing
from mxrtc_bridge.sinks.stream_sink import StreamSink

_NO_LINGER = struct.pack("ii", 1, 0)


def make_reset_on_close(sock: socket.socket) -> None:
    """Let closing a TCP socket send RST and drop what is unsent; a unix socket has no such thing."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


class SocketSink(StreamSink):
    """A connected stream socket. Implements :class:`mxrtc_bridge.engine.ports.Sink`.

    A unix socket that is reset while it holds unread bytes gives its other side ECONNRESET, as TCP does; without
    unread bytes the other side sees an end, for the system has nothing else to offer.

    Args:
        sock: belongs to the sink from now on.
        released: called once, when the socket has been closed.
    """

    def __init__(self, sock: socket.socket, *, released: Callable[[], None] = nothing) -> None:
        super().__init__()
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Keystrokes must not wait for acknowledgements; bulk data comes in large writes anyway. A socket whose
            # other side is gone already may refuse the option; reading will tell.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._released = released
        self._set_halves(PollableReader(sock.fileno(), self), PollableWriter(sock.fileno(), self))

    def _finish_writing(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def _prepare_reset(self) -> None:
        make_reset_on_close(self._sock)

    def _release(self) -> None:
        self._sock.close()
        self._released()
