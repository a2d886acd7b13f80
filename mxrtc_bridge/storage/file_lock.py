"""One bridge for one database file: two would hang up each other's calls and handle each other's events.

The lock is on a file beside the database, because SQLite locks the database itself by its own rules. The kernel gives
it back when the process ends, however it ends; the empty file stays. For PostgreSQL there is
:mod:`mxrtc_bridge.storage.advisory_lock`.

A file can have several names (hard links), each with another file beside it. So one byte of the database is locked as
well, far behind all that SQLite locks, by a lock of the open file (``F_OFD_SETLK``): one of the process would be lost
with any descriptor of the file that SQLite closes. It never meets SQLite's, also where the system makes ``flock`` of
such locks (NFS).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yarl import URL

from mxrtc_bridge.config.private_files import closing, take_lock
from mxrtc_bridge.core.errors import StorageError

log = logging.getLogger(__name__)

OUR_BYTE = 1 << 62
"""Of the database; SQLite locks the 512 bytes from 1 GiB on, and no file is so long."""


@contextmanager
def sole_use(url: str) -> Iterator[None]:
    """Hold the database at ``url`` for ourselves; does nothing for one that is not a file.

    Raises:
        StorageError: another process holds it, or the file beside it cannot be written.
    """
    path = _path_of(url)
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"the file {str(path)!a} cannot be used: {error.strerror}") from error
    with closing(descriptor):
        database = str(path).removesuffix(".lock")
        if not take_lock(descriptor):
            raise StorageError(f"another bridge uses the database {database!a}; stop it before this one")
        with _sole_use_of_file(database):
            yield


@contextmanager
def _sole_use_of_file(database: str) -> Iterator[None]:
    """Hold the file itself, whatever it is called; made where there is none, as it may get another name any time.

    To be left after SQLite has closed it, whose own locks go with any descriptor of the file that is closed.
    """
    try:
        descriptor = os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError:
        yield  # opening the database says what is wrong with it
        return
    with closing(descriptor):
        if not _take_byte(descriptor):
            raise StorageError(
                f"another bridge uses the database {database!a} by another name of the file (a hard link); stop it "
                "before this one, or give this one a copy"
            )
        yield


def _take_byte(descriptor: int) -> bool:
    # struct flock: type, whence, start, length, process.
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, OUR_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        log.info("the database file cannot be locked (%s); the file beside it is", error.strerror)
    return True


def is_in_use(url: str) -> bool:
    """Whether a process holds the database at ``url``; makes nothing, and is False for one that is not a file.

    For the length of a system call nobody else could take the lock.
    """
    path = _path_of(url)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path is not None else -1
    except OSError:
        return False
    if descriptor < 0:
        return False
    with closing(descriptor):
        return not take_lock(descriptor)


def database_file(url: str) -> Path | None:
    """The file that a URL of a database leads to, whatever links are on the way; None where it is no file."""
    try:
        parsed = URL(url)
    except ValueError:
        return None  # opening the database says what is wrong with it
    if parsed.scheme not in ("sqlite", "sqlite3") or parsed.path in ("", "/", ":memory:"):
        return None
    return Path(os.path.realpath(parsed.path))


def _path_of(url: str) -> Path | None:
    # Beside the file itself, as SQLite puts its journal there: a link to it is the same database.
    file = database_file(url)
    return None if file is None else file.with_name(f"{file.name}.lock")
