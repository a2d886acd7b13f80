"""What Linux has and other systems of users do not, each with what does the same there.

The user's side runs where Python does; what is Linux alone is asked for here and nowhere else. With
``MXRTC_PORTABLE=1`` Linux counts as a system without all of it, so that tests see what others get, and with
``MXRTC_PORTABLE=windows`` as one that is no POSIX either.

| here                        | Linux                        | elsewhere                                         |
|-----------------------------|------------------------------|---------------------------------------------------|
| :data:`O_PATH`              | a folder without reading it  | reading it                                        |
| :data:`O_TMPFILE`           | a file without a name        | 0: one whose name is removed at once              |
| :func:`sync_data`           | fdatasync(2)                 | F_FULLFSYNC (macOS), or fsync(2)                  |
| :func:`get_attribute` ...   | extended attributes          | EOPNOTSUPP, as of a file system without them      |
| :func:`elapsed_ns`          | CLOCK_BOOTTIME               | CLOCK_MONOTONIC, which macOS has go on in sleep;  |
|                             |                              | on Windows the monotonic clock that it has        |
| :func:`wait_for_signal`     | sigtimedwait(2)              | a look every 20 ms at what is pending             |
| :func:`run_loop`            | uvloop                       | asyncio's own loop by select(), which waits for   |
|                             |                              | any socket also on Windows                        |

What Windows does not have is in the modules of this folder: files by the descriptor of their directory, owners, modes
and locks in :mod:`~mxrtc_bridge.system.files`, signals in :mod:`~mxrtc_bridge.system.signals`.

Datagrams that the kernel joins and divides, its reports of refused ones, openat2(2), epoll(7) and the sizes that
``netcheck`` measures are left out where :data:`PORTABLE` says so: each has a way without it beside it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Collection, Coroutine
from pathlib import Path
from typing import Any

_FORCED = os.environ.get("MXRTC_PORTABLE", "")
WINDOWS = sys.platform == "win32" or _FORCED == "windows"
"""Whether only what Windows has is used: no POSIX, no unix sockets, no modes of files."""
PORTABLE = sys.platform != "linux" or _FORCED == "1" or WINDOWS
"""Whether only what all systems have is used."""

_LOOK_S = 0.02

if sys.platform == "linux":
    O_PATH = os.O_RDONLY if PORTABLE else os.O_PATH
    O_TMPFILE = 0 if PORTABLE else os.O_TMPFILE
    _ELAPSED = time.CLOCK_MONOTONIC if PORTABLE else time.CLOCK_BOOTTIME
else:
    O_PATH = os.O_RDONLY
    O_TMPFILE = 0


def sync_data(descriptor: int) -> None:
    """Wait until what was written to a file is safe on the disk.

    Raises:
        OSError: as the system says.
    """
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - not there on every system

        # fsync(2) of macOS leaves it in the cache of the disk.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif sys.platform == "linux" and not PORTABLE:
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def get_attribute(descriptor: int, name: str) -> bytes:
    """Return an extended attribute of an open file.

    Raises:
        OSError: as the system says; EOPNOTSUPP where it has none.
    """
    if sys.platform == "linux" and not PORTABLE:
        return os.getxattr(descriptor, name)
    raise _without_attributes()


def set_attribute(descriptor: int, name: str, value: bytes) -> None:
    """Set an extended attribute of an open file; raises like :func:`get_attribute`."""
    if sys.platform == "linux" and not PORTABLE:
        os.setxattr(descriptor, name, value)
        return
    raise _without_attributes()


def remove_attribute(descriptor: int, name: str) -> None:
    """Remove an extended attribute of an open file; raises like :func:`get_attribute`."""
    if sys.platform == "linux" and not PORTABLE:
        os.removexattr(descriptor, name)
        return
    raise _without_attributes()


def _without_attributes() -> OSError:
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def elapsed_ns() -> int:
    """Nanoseconds by a clock that nobody sets, and that goes on while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(_ELAPSED)
    return time.monotonic_ns()


def make_epoll() -> Any:
    """Return a new ``select.epoll``, or None where there is none.

    Raises:
        OSError: there is no room for one more.
    """
    if sys.platform == "linux" and not PORTABLE:
        return select.epoll()
    return None


def wait_for_signal(signals: Collection[signal.Signals], seconds: float) -> bool:
    """Wait for one of these signals, which must be blocked in all threads; returns whether one came in time."""
    if sys.platform == "win32":
        raise NotImplementedError("it has no signals that can be blocked")
    if sys.platform == "linux" and not PORTABLE:
        return signal.sigtimedwait(signals, seconds) is not None
    until = time.monotonic() + seconds
    while not set(signal.sigpending()) & set(signals):
        left = until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(_LOOK_S, left))
    signal.sigwait(signals)
    return True


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run a program's coroutine to its end, on the fastest loop that there is."""
    if sys.platform == "win32" or PORTABLE:
        # The one that asyncio would take on Windows cannot wait for a socket that we read ourselves.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(work)
        return
    import uvloop  # noqa: PLC0415 - not there on every system, and loaded where it is used

    uvloop.run(work)


def state_home() -> Path:
    """Where programs keep what they remember of a user; may begin with ``~``."""
    if WINDOWS:
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")


def config_home() -> Path:
    """Where programs look for what a user has written for them; may begin with ``~``."""
    if WINDOWS:
        return Path(os.environ.get("APPDATA") or "~/AppData/Roaming")
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")


def linger(*, reset: bool) -> bytes:
    """SO_LINGER of a TCP socket that is reset when it is closed, or that is closed in order."""
    return struct.pack("HH" if sys.platform == "win32" else "ii", int(reset), 0)


def listen_alone(sock: socket.socket) -> None:
    """Let a port be taken again at once after its program has ended, and by no other program while one listens."""
    if sys.platform == "win32":
        # There SO_REUSEADDR lets another program take over a port that is in use.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
