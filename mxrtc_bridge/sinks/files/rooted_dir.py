"""A directory that is held open, and what lies beneath it.

Every path of a drop box or a share is resolved here, from one descriptor, and no symbolic link on the way is ever
followed: somebody who swaps a directory for a link between two steps gets an error, not a file elsewhere. The
configured directory itself may be reached by links; the admin named it.

All methods block; call them in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from mxrtc_bridge.config.private_files import closing
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.sinks.files.disk_names import on_disk
from mxrtc_bridge.sinks.files.linux import open_beneath
from mxrtc_bridge.system import O_PATH, files

FILE_MODE = 0o600

_DIRECTORY = os.O_RDONLY | files.O_DIRECTORY


class RootedDirectory:
    """What lies beneath ``path``.

    Args:
        path: a directory.
        make: makes it, given the descriptor of the directory above and its name, if it does not exist.

    Raises:
        LocalError: it cannot be opened, or is not a directory.
    """

    def __init__(self, path: Path, *, make: Callable[[int, str], None] | None = None) -> None:
        try:
            if make is not None and not path.exists():
                _make(path, make)
            self.descriptor = files.open_at(path, _DIRECTORY | files.O_CLOEXEC)
        except OSError as error:
            words = os.strerror(error.errno or errno.EIO)
            raise LocalError(f"the directory {str(path)[:200]!a} cannot be used: {words}") from error

    def close(self) -> None:
        """Let go; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def open(self, parts: Sequence[str], flags: int, mode: int = FILE_MODE) -> int:
        """Open a file; never waits for the other end of a FIFO.

        Raises:
            OSError: as the kernel says.
        """
        return open_beneath(self.descriptor, parts, flags | files.O_NONBLOCK | files.O_NOCTTY, mode)

    def open_directory(self, parts: Sequence[str]) -> int:
        """Open a directory.

        Raises:
            OSError: as the kernel says; ENOTDIR or ELOOP where it is none.
        """
        return open_beneath(self.descriptor, parts, _DIRECTORY)

    def status(self, parts: Sequence[str]) -> os.stat_result | None:
        """Return what is at ``parts``, a link unfollowed, or None if nothing is or it is out of reach."""
        try:
            if not parts:
                return os.fstat(self.descriptor)
            if len(parts) == 1:
                return files.stat_at(on_disk(parts[0]), dir_fd=self.descriptor)
            with closing(open_beneath(self.descriptor, parts[:-1], O_PATH | files.O_DIRECTORY)) as above:
                return files.stat_at(on_disk(parts[-1]), dir_fd=above)
        except OSError:
            return None


def _make(path: Path, make: Callable[[int, str], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    above = files.open_at(path.parent, _DIRECTORY | files.O_CLOEXEC)
    with closing(above), contextlib.suppress(FileExistsError):
        make(above, path.name)


def is_plain(status: os.stat_result, *, hard_links: bool = False) -> bool:
    """Whether this is a regular file that has but this one name.

    A second name may be a file that somebody linked into a share to have it read by us.
    """
    return stat.S_ISREG(status.st_mode) and (hard_links or status.st_nlink == 1)
