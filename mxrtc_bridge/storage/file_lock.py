"""One bridge for one database file: two would hang up each other's calls and handle each other's events.

The lock is on a file beside the database, because SQLite locks the database itself by its own rules. The kernel gives
it back when the process ends, however it ends; the empty file stays. For PostgreSQL there is
:mod:`mxrtc_bridge.storage.advisory_lock`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yarl import URL

from mxrtc_bridge.config.private_files import take_lock
from mxrtc_bridge.core.errors import StorageError


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
    try:
        if not take_lock(descriptor):
            database = str(path).removesuffix(".lock")
            raise StorageError(f"another bridge uses the database {database!a}; stop it before this one")
        yield
    finally:
        os.close(descriptor)


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
    try:
        return not take_lock(descriptor)
    finally:
        os.close(descriptor)


def _path_of(url: str) -> Path | None:
    try:
        parsed = URL(url)
    except ValueError:
        return None  # opening the database says what is wrong with it
    if parsed.scheme not in ("sqlite", "sqlite3") or parsed.path in ("", "/", ":memory:"):
        return None
    # Beside the file itself, as SQLite puts its journal there: a link to it is the same database.
    return Path(f"{os.path.realpath(parsed.path)}.lock")
