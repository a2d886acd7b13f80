"""What is left of root's rights in a process that acts as somebody else, thread by thread (capabilities(7)).

A command that root has started may keep the right to read everything, to reach the files of the bridge in folders that
are closed to their owner (:mod:`mxrtc_bridge.cli.bridge.acting`). What the owner's configuration serves to others must
not be read by that right. Capabilities belong to threads, so those that serve files put it down.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from mxrtc_bridge.system import WINDOWS

DAC_READ_SEARCH = 1 << 2
"""To read every file and to enter every folder."""
_VERSION_3 = 0x20080522
"""``linux/capability.h``: 64 bits of each set, in two halves."""


def keep_effective(wanted: int) -> bool:
    """Have the calling thread use these capabilities and no others; returns False if it may not.

    Args:
        wanted: bits of the lower half.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    if libc.capget(header, sets) != 0:
        return False
    _, permitted, inheritable, _, permitted_high, inheritable_high = struct.unpack("6I", sets.raw)
    kept = struct.pack("6I", wanted, permitted, inheritable, 0, permitted_high, inheritable_high)
    return bool(permitted & wanted == wanted and libc.capset(header, kept) == 0)


def be_no_more_than_owner() -> None:
    """Have the calling thread do nothing by root's rights, where root has started us and we act as somebody else.

    Raises:
        PermissionError: the system does not let it.
    """
    if sys.platform != "win32" and not WINDOWS and os.getuid() == 0 != os.geteuid() and not keep_effective(0):
        raise PermissionError("root's rights cannot be put down")
