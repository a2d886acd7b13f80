"""How much of a drop box is used, by whom, and what may still come. Plain arithmetic in memory; touches no disk.

A file is charged with its announced size when it begins, so that many small promises cannot add up to more than the
quota. What was charged is given back, kept for what stays on the disk as a partial file, or becomes the charge of the
published file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.files.messages import FileCode, FileError

UNLIMITED = FileLimits(
    file_bytes=None, user_bytes=None, user_files=None, total_files=None, free_floor_bytes=0, partial_age_s=30 * 86400.0
)
"""For a person's own directory."""


@dataclass(slots=True)
class Usage:
    """What somebody has in the box."""

    size: int = 0
    files: int = 0


class Quota:
    """The usage of one box.

    Args:
        limits: of the box.
    """

    def __init__(self, limits: FileLimits) -> None:
        self._limits = limits
        self.total = Usage()
        self._users: dict[str, Usage] = {}

    def usage(self, user: str | None = None) -> Usage:
        """Return what ``user`` has, or everybody; a copy."""
        return replace(self.total if user is None else self._users.get(user, Usage()))

    def check(self, user: str, size: int, *, held: int = 0, room: int | None = None) -> None:
        """Whether a file may begin.

        Args:
            user: who sends it.
            size: announced.
            held: bytes of it that are here already, and charged.
            room: bytes that the file system has left beyond what files under way will take; None if none is taken.

        Raises:
            FileError: ``limit``, ``quota`` or ``space``, with the numbers.
        """
        limits, mine, more = self._limits, self._users.get(user, Usage()), size - held
        if limits.file_bytes is not None and size > limits.file_bytes:
            words = f"the file has {size} bytes; the largest accepted has {limits.file_bytes}"
            raise FileError(FileCode.LIMIT, words)
        _within(mine.size + more, limits.user_bytes, "your files here would have {} bytes; your quota is {}")
        _within(mine.files + 1, limits.user_files, "you would have {} files here; your quota is {}")
        _within(self.total.size + more, limits.total_bytes, "the box would hold {} bytes; it takes {}")
        _within(self.total.files + 1, limits.total_files, "the box would hold {} files; it takes {}")
        if room is not None and room - more < limits.free_floor_bytes:
            raise FileError(FileCode.SPACE, "the disk has not enough room at the moment; it can go on when it has")

    def add(self, user: str | None, size: int, files: int = 1) -> None:
        """Add to a user's usage, or with negative values take from it.

        ``user`` is None for what nobody is known to have sent.
        """
        self.total.size += size
        self.total.files += files
        if user is None:
            return
        mine = self._users.setdefault(user, Usage())
        mine.size += size
        mine.files += files
        if not mine.files and not mine.size:
            del self._users[user]


def _within(value: int, limit: int | None, sentence: str) -> None:
    if limit is not None and value > limit:
        raise FileError(FileCode.QUOTA, sentence.format(value, limit) + "; remove some, or ask the admin")
