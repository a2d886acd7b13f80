"""Files by the descriptor of their directory, and what else of files Windows does not have.

Each call is the one of :mod:`os` that it is named after (openat(2) and its like), and nothing else happens where that
is there. On Windows, or with ``MXRTC_PORTABLE=windows``, the path of the open directory is asked for, and what is in it
is reached by that path. On Windows an open directory cannot be renamed (:mod:`mxrtc_bridge.system.win32`), so nothing
takes the place of one that was opened and checked on the way; on Linux, where tests have it so, something could.

Owners and modes are not asked and not set there: an account's profile has an access list that keeps others out, and
what is made in a folder gets the list of that.

All functions block, and raise OSError as the system does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from mxrtc_bridge.system import WINDOWS

Name = str | bytes | os.PathLike[str]

if sys.platform != "win32":
    import fcntl
    import grp

    O_CLOEXEC = os.O_CLOEXEC
    O_DIRECTORY, O_NOFOLLOW = os.O_DIRECTORY, os.O_NOFOLLOW
    O_NONBLOCK, O_NOCTTY = os.O_NONBLOCK, os.O_NOCTTY
else:
    from mxrtc_bridge.system import win32

    O_CLOEXEC = os.O_NOINHERIT
    O_DIRECTORY, O_NOFOLLOW = win32.O_DIRECTORY, win32.O_NOFOLLOW
    O_NONBLOCK = O_NOCTTY = 0

HAS_MODES = not WINDOWS
"""Whether files have an owner, a group and a mode that say who may do what."""
SYNCS_ALL = not WINDOWS
"""Whether a whole file system can be synced in one call."""

_POSITIONS = tuple(threading.Lock() for _ in range(64))
"""Taken while the position of a descriptor is ours, by its number."""


def path_of(directory: int) -> str:
    """Return where an open directory is now."""
    if sys.platform == "win32":
        return win32.path_of(directory)
    return os.readlink(f"/proc/self/fd/{directory}")  # noqa: PTH115 - as the calls beside it


def _path(name: Name, directory: int | None) -> str:
    path = os.fsdecode(name)
    return path if directory is None else os.path.join(path_of(directory), path)  # noqa: PTH118


def open_at(name: Name, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """openat(2)."""
    if sys.platform == "win32":
        # The root of a path in the form of win32.path_of() has no entry ".".
        path = path_of(dir_fd) if name == "." and dir_fd is not None else _path(name, dir_fd)
        return win32.open_file(path, flags)
    if WINDOWS:
        return os.open(_path(name, dir_fd), flags, mode)
    return os.open(name, flags, mode, dir_fd=dir_fd)


def stat_at(name: Name, *, dir_fd: int) -> os.stat_result:
    """fstatat(2); a link is not followed."""
    if WINDOWS:
        return os.lstat(_path(name, dir_fd))
    return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)


def above(directory: int) -> os.stat_result:
    """Return the status of the directory above."""
    if WINDOWS:
        return os.stat(os.path.dirname(path_of(directory)))  # noqa: PTH116, PTH120
    return os.stat("..", dir_fd=directory)


def mkdir_at(name: Name, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """mkdirat(2)."""
    if WINDOWS:
        Path(_path(name, dir_fd)).mkdir(mode)
    else:
        os.mkdir(name, mode, dir_fd=dir_fd)


def unlink_at(name: Name, *, dir_fd: int) -> None:
    """unlinkat(2)."""
    if WINDOWS:
        Path(_path(name, dir_fd)).unlink()
    else:
        os.unlink(name, dir_fd=dir_fd)


def rmdir_at(name: Name, *, dir_fd: int) -> None:
    """unlinkat(2) with AT_REMOVEDIR."""
    if WINDOWS:
        Path(_path(name, dir_fd)).rmdir()
    else:
        os.rmdir(name, dir_fd=dir_fd)


def rename_at(source: Name, name: Name, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """renameat(2), which takes the place of what is there."""
    if WINDOWS:
        Path(_path(source, src_dir_fd)).replace(_path(name, dst_dir_fd))
    else:
        os.rename(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


def rename_new_at(source: Name, name: Name, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Give a name that nobody has.

    Raises:
        FileExistsError: somebody has it.
    """
    if sys.platform == "win32":
        os.rename(_path(source, src_dir_fd), _path(name, dst_dir_fd))  # noqa: PTH104 - replaces nothing there
        return
    link_at(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    unlink_at(source, dir_fd=src_dir_fd)


def link_at(source: Name, name: Name, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """linkat(2); a link is not followed."""
    if WINDOWS:
        os.link(_path(source, src_dir_fd), _path(name, dst_dir_fd))
    else:
        os.link(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)


@contextlib.contextmanager
def scan(directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    """The entries of an open directory, while the context lasts."""
    where: int | str = path_of(directory) if WINDOWS else directory
    with os.scandir(where) as entries:
        yield entries


def names_in(directory: int) -> list[str]:
    """The names in an open directory."""
    with scan(directory) as entries:
        return [entry.name for entry in entries]


def sync_directory(directory: int) -> None:
    """Wait until the names in a directory are on the disk; NTFS has a journal for them, and no such call."""
    if not WINDOWS:
        os.fsync(directory)


def set_modified(descriptor: int, modified_ns: int) -> None:
    """Set when an open file was modified last, in nanoseconds since 1970."""
    if sys.platform == "win32":
        win32.set_times(descriptor, modified_ns)
    else:
        os.utime(descriptor, ns=(modified_ns, modified_ns))


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """Read at an offset, as the call of that name does; on Windows the position moves, which nobody else uses."""
    if sys.platform != "win32" and not WINDOWS:
        return os.pread(descriptor, size, offset)
    with _POSITIONS[descriptor % len(_POSITIONS)]:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def pwrite(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Write at an offset, like :func:`pread`."""
    if sys.platform != "win32" and not WINDOWS:
        return os.pwrite(descriptor, data, offset)
    with _POSITIONS[descriptor % len(_POSITIONS)]:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def free_bytes(where: int | Path) -> int | None:
    """What a user other than root can write to the file system of an open directory, or of a path.

    None for file systems without a number, as some of a kernel or a network are.
    """
    if sys.platform == "win32":
        return shutil.disk_usage(path_of(where) if isinstance(where, int) else where).free
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock a file for this process until it is closed, in place of a lock that it may have.

    Returns:
        Whether we have it; always, if it is waited for.
    """
    try:
        if sys.platform == "win32":
            win32.lock(descriptor, shared=shared, wait=wait)
        else:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, how | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def is_trusted_owner(user: int) -> bool:
    """Whether what belongs to this user is ours, or root's."""
    if sys.platform == "win32" or WINDOWS:
        return True
    return user in (os.geteuid(), 0)


def effective_user() -> int:
    """The number of the user as whom we act; 0 where users have none."""
    if sys.platform == "win32":
        return 0
    return os.geteuid()


def effective_group() -> int:
    """The same of the group."""
    if sys.platform == "win32":
        return 0
    return os.getegid()


def fchown(descriptor: int, user: int, group: int) -> None:
    """Give an open file to a user and a group; nothing where files have no such owners."""
    if sys.platform != "win32":
        os.fchown(descriptor, user, group)


def fchmod(descriptor: int, mode: int) -> None:
    """Set the mode of an open file; nothing where files have no modes."""
    if sys.platform != "win32":
        os.fchmod(descriptor, mode)


def group_number(name: str) -> int:
    """The number of a group of this machine.

    Raises:
        KeyError: there is none of this name.
    """
    if sys.platform != "win32":
        return grp.getgrnam(name).gr_gid
    raise KeyError(name)


def group_name(number: int) -> str:
    """The name of a group of this machine, or its number."""
    if sys.platform != "win32":
        with contextlib.suppress(KeyError):
            return grp.getgrgid(number).gr_name
    return str(number)
