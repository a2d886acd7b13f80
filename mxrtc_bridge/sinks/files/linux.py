"""Three calls of Linux that Python's ``os`` does not have, each with what is done where the kernel lacks it.

    openat2(RESOLVE_BENEATH)      a whole path in one step, no link followed   else: component by component, O_NOFOLLOW
    renameat2(RENAME_NOREPLACE)   a name appears, or there was one already     else: link and unlink
    syncfs                        one wait for everything that was written     else: sync of all file systems

All take directory descriptors. What is missing is learnt from the first attempt, and remembered.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from mxrtc_bridge.sinks.files.disk_names import on_disk
from mxrtc_bridge.system import O_PATH, PORTABLE, WINDOWS, files

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RENAME_NOREPLACE = 1
_ATTEMPTS = 8

_MISSING = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG, errno.ENOTSUP})
"""What a kernel, a container's filter or a file system answers to a call that it does not know."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Library:
    """The C library, and what was learnt about the kernel."""

    def __init__(self) -> None:
        self.calls: Any = None if WINDOWS else ctypes.CDLL(None, use_errno=True)
        # Elsewhere there may be a call of that name, or number, that does something else.
        self.has_openat2 = not PORTABLE and hasattr(self.calls, "syscall")
        self.has_renameat2 = not PORTABLE and hasattr(self.calls, "renameat2")
        self.has_syncfs = not PORTABLE and hasattr(self.calls, "syncfs")


_LIBRARY = _Library()


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def open_beneath(directory: int, parts: Sequence[str], flags: int, mode: int = 0) -> int:
    """Open ``parts`` below ``directory`` without following a link anywhere; O_CLOEXEC is added.

    Args:
        directory: the descriptor of a directory.
        parts: components that were checked; none at all opens the directory anew.
        flags: as of :func:`os.open`.
        mode: of a file that is created.

    Raises:
        OSError: as the kernel says; ELOOP, ENOTDIR or EXDEV where a link was in the way.
    """
    flags |= files.O_CLOEXEC | files.O_NOFOLLOW
    if _LIBRARY.has_openat2 and len(parts) > 1:
        how = _OpenHow(flags, mode, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
        name = ctypes.c_char_p(on_disk("/".join(parts)))
        for _ in range(_ATTEMPTS):
            result = _LIBRARY.calls.syscall(
                ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(directory), name, ctypes.byref(how), ctypes.sizeof(how)
            )
            if result >= 0:
                return int(result)
            # EAGAIN: something was renamed meanwhile, and the kernel does not want to guess.
            if ctypes.get_errno() != errno.EAGAIN:
                break
        if ctypes.get_errno() not in _MISSING | {errno.EAGAIN}:
            raise _failed()
        # EPERM and EINVAL may be true answers as well; then the slow way gives them again.
        _LIBRARY.has_openat2 = ctypes.get_errno() not in {errno.ENOSYS, errno.E2BIG}
    return _open_stepwise(directory, parts, flags, mode)


def _open_stepwise(directory: int, parts: Sequence[str], flags: int, mode: int) -> int:
    if not parts:
        return files.open_at(".", flags, mode, dir_fd=directory)
    at, on_the_way = directory, O_PATH | files.O_DIRECTORY | files.O_NOFOLLOW | files.O_CLOEXEC
    try:
        for part in parts[:-1]:
            below = files.open_at(on_disk(part), on_the_way, dir_fd=at)
            if at != directory:
                os.close(at)
            at = below
        return files.open_at(on_disk(parts[-1]), flags, mode, dir_fd=at)
    finally:
        if at != directory:
            os.close(at)


def rename_new(source_directory: int, source: str, directory: int, name: str) -> None:
    """Give ``source`` a name that nobody has.

    Raises:
        FileExistsError: somebody has it.
        OSError: as the kernel says.
    """
    if _LIBRARY.has_renameat2:
        old, new = on_disk(source), on_disk(name)
        if _LIBRARY.calls.renameat2(source_directory, old, directory, new, ctypes.c_uint(_RENAME_NOREPLACE)) == 0:
            return
        if ctypes.get_errno() not in _MISSING:
            raise _failed()
    files.rename_new_at(source, on_disk(name), src_dir_fd=source_directory, dst_dir_fd=directory)


def sync_file_system(descriptor: int) -> None:
    """Wait until everything written so far to the file system of ``descriptor`` is on the disk.

    Raises:
        OSError: some of it could not be written (Linux 5.8 and later tell).
    """
    if not _LIBRARY.has_syncfs:
        if sys.platform != "win32":
            os.sync()
    elif _LIBRARY.calls.syncfs(descriptor) != 0:
        raise _failed()
