"""What Linux has and other systems of users do not, each with what does the same there.

The user's side runs where Python does; what is Linux alone is asked for here and nowhere else. With
``MXRTC_PORTABLE=1`` Linux counts as a system without all of it, so that tests see what others get.

| here                        | Linux                        | elsewhere                                         |
|-----------------------------|------------------------------|---------------------------------------------------|
| :data:`O_PATH`              | a folder without reading it  | reading it                                        |
| :data:`O_TMPFILE`           | a file without a name        | 0: one whose name is removed at once              |
| :func:`sync_data`           | fdatasync(2)                 | F_FULLFSYNC (macOS), or fsync(2)                  |
| :func:`get_attribute` ...   | extended attributes          | EOPNOTSUPP, as of a file system without them      |
| :func:`elapsed_ns`          | CLOCK_BOOTTIME               | CLOCK_MONOTONIC, which macOS has go on in sleep   |
| :func:`wait_for_signal`     | sigtimedwait(2)              | a look every 20 ms at what is pending             |
| :func:`run_loop`            | uvloop                       | asyncio's own loop                                |

Datagrams that the kernel joins and divides, its reports of refused ones, openat2(2), epoll(7) and the sizes that
``netcheck`` measures are left out where :data:`PORTABLE` says so: each has a way without it beside it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Coroutine
from typing import Any

PORTABLE = sys.platform != "linux" or os.environ.get("MXRTC_PORTABLE") == "1"
"""Whether only what all systems have is used."""

_LOOK_S = 0.02

if sys.platform == "linux":
    O_PATH = os.O_RDONLY if PORTABLE else os.O_PATH
    O_TMPFILE = 0 if PORTABLE else os.O_TMPFILE
    _ELAPSED = time.CLOCK_MONOTONIC if PORTABLE else time.CLOCK_BOOTTIME
else:
    O_PATH = os.O_RDONLY
    O_TMPFILE = 0
    _ELAPSED = time.CLOCK_MONOTONIC


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
    return time.clock_gettime_ns(_ELAPSED)


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
    if PORTABLE:
        asyncio.run(work)
        return
    import uvloop  # noqa: PLC0415 - not there on every system, and loaded where it is used

    uvloop.run(work)
