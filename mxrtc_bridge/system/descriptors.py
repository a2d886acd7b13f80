"""Flags of open descriptors. Windows has none: there a descriptor blocks, and nobody can ask what it is open for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from mxrtc_bridge.system import WINDOWS

if sys.platform != "win32":
    import fcntl


def is_open_for(descriptor: int, access: int) -> bool:
    """Whether a descriptor is open for reading or for writing, as far as the system says.

    Args:
        descriptor: which.
        access: O_RDONLY or O_WRONLY.

    Raises:
        OSError: it is not open.
    """
    if sys.platform != "win32" and not WINDOWS:
        return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE in (access, os.O_RDWR)
    os.fstat(descriptor)
    return True


def make_non_blocking(descriptor: int) -> Callable[[], None]:
    """Make what a descriptor points to non-blocking; returns what puts it back.

    Raises:
        OSError: as the system says.
    """
    if sys.platform != "win32":
        before = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, before | os.O_NONBLOCK)
        return lambda: _set_flags(descriptor, before)
    raise NotImplementedError("a loop waits for sockets only there")


if sys.platform != "win32":

    def _set_flags(descriptor: int, flags: int) -> None:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
