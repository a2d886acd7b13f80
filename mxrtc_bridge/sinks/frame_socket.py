"""The socket between two commands of one account: frames in both directions, and how much of them waits.

The socket has a name in a folder that is the user's alone, has mode 0600, and the kernel is asked who is at the other
end, where it says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.sharing.frames import Frame, FrameReader
from mxrtc_bridge.system import WINDOWS, files

SOCKET_MODE = 0o600
BACKLOG = 128
HIGH_BYTES = 256 * 1024
"""When so much waits to be taken by the other command, no more payload is to follow."""
MAX_NAME_BYTES = 100
"""Of a path that every system takes as the name of a socket."""

SHARES = not WINDOWS
"""Whether this system has such sockets, as Python knows them."""


class FrameListener(Protocol):
    """Receives what happens on the socket; must not block and not raise."""

    def socket_open(self) -> None:
        """Both commands are there: frames may be sent."""
        ...

    def frame_received(self, frame: Frame) -> None:
        """Take a frame.

        Raises:
            WireError: the other side does not keep to the protocol; the socket is closed.
        """
        ...

    def send_space(self) -> None:
        """Little waits any more: payload may follow."""
        ...

    def socket_closed(self) -> None:
        """The other command has ended, or was cut off; no more calls follow."""
        ...


class FrameSocket(asyncio.Protocol):
    """One end.

    Args:
        listener: given the socket, returns who is told what happens on it.
    """

    def __init__(self, listener: Callable[[FrameSocket], FrameListener]) -> None:
        self._listener = listener(self)
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._full = False
        self._closed = False

    def send(self, frame: Frame) -> None:
        """Send a frame after all others; without effect at the end."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame.encode())

    @property
    def is_closing(self) -> bool:
        """Whether it is about to end: what comes is of no interest any more."""
        return self._closed or (self._transport is not None and self._transport.is_closing())

    def can_send(self) -> bool:
        """Whether payload may follow."""
        return not self._full and not self._closed

    @property
    def waiting_bytes(self) -> int:
        """What the other side has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are none by their class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_BYTES)
        if is_ours(transport.get_extra_info("socket")):
            self._listener.socket_open()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                if self._closed:
                    return
                self._listener.frame_received(frame)
        except WireError:
            self.abort()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._listener.send_space()

    def connection_lost(self, _error: Exception | None) -> None:
        self._closed = True
        self._listener.socket_closed()


def is_ours(sock: socket.socket | None) -> bool:
    """Whether our own user is at the other end; where the system does not say, the folder alone keeps others out."""
    if sock is None or not hasattr(socket, "SO_PEERCRED"):
        return True
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == files.effective_user())


def _unix_socket() -> socket.socket:
    if sys.platform == "win32" or not SHARES:
        raise OSError(errno.EAFNOSUPPORT, "this system has no unix sockets")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


@contextlib.contextmanager
def _named(folder: int, path: Path) -> Iterator[str]:
    """The name of a socket in a folder that is open; a path that is too long is named by the descriptor."""
    if len(os.fsencode(path)) <= MAX_NAME_BYTES:
        yield str(path)
    else:
        yield f"/proc/self/fd/{folder}/{path.name}"


@dataclass(frozen=True, slots=True)
class Bound:
    """A socket that has a name in the folder."""

    socket: socket.socket
    path: Path
    file: tuple[int, int]
    """Device and inode of the name."""

    def remove(self) -> None:
        """Remove the name, unless somebody else has it by now."""
        with contextlib.suppress(OSError):
            if _file_of(self.path) == self.file:
                self.path.unlink()


def _file_of(path: str | Path) -> tuple[int, int]:
    status = Path(path).stat(follow_symlinks=False)
    return status.st_dev, status.st_ino


def bind(folder: int, path: Path) -> Bound:
    """Make the socket; one that is there is taken for one of a command that has ended.

    Args:
        folder: the descriptor of the folder, which is the user's alone.
        path: of the socket.

    Raises:
        OSError: as the kernel says.
    """
    with contextlib.suppress(FileNotFoundError):
        files.unlink_at(path.name, dir_fd=folder)
    sock = _unix_socket()
    try:
        with _named(folder, path) as name:
            sock.bind(name)
            Path(name).chmod(SOCKET_MODE)
            made = Bound(sock, path, _file_of(name))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return made


async def connect(folder: int, path: Path, listener: Callable[[FrameSocket], FrameListener]) -> FrameSocket:
    """Connect to the socket.

    Raises:
        OSError: there is none, or nobody listens there.
    """
    sock = _unix_socket()
    try:
        sock.setblocking(False)
        with _named(folder, path) as name:
            await asyncio.get_running_loop().sock_connect(sock, name)
        _, protocol = await asyncio.get_running_loop().create_unix_connection(lambda: FrameSocket(listener), sock=sock)
    except BaseException:
        sock.close()
        raise
    return protocol


async def serve(sock: socket.socket, listener: Callable[[FrameSocket], FrameListener]) -> asyncio.Server:
    """Listen on a socket of :func:`bind`, which belongs to the server from now on."""
    return await asyncio.get_running_loop().create_unix_server(lambda: FrameSocket(listener), sock=sock)
