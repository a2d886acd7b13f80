"""The books of a directory that receives: what is under way, what is kept, and what both are charged with.

Plain arithmetic in memory: nothing here waits or touches a disk, so what a directory promises, holds and has counted
changes together. Each file is charged with its announced size from the beginning to the end, an unfinished one with
what it left.
"""

from __future__ import annotations

from collections import Counter

from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files.receive.incoming_file import IncomingFile
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey
from mxrtc_bridge.sinks.files.receive.publisher import Published
from mxrtc_bridge.sinks.files.receive.quota import Quota, Usage
from mxrtc_bridge.sinks.files.receive.state_dir import Contents, KeptPartial


class Books:
    """What one directory has promised and holds.

    Args:
        limits: of the directory.
    """

    def __init__(self, limits: FileLimits) -> None:
        self._limits = limits
        self._quota = Quota(limits)
        self._live_of: Counter[str] = Counter()
        self._promised = 0
        self.live: dict[str, IncomingFile] = {}
        """Files under way, by their keys."""
        self.kept: dict[str, KeptPartial] = {}
        """Partial files that nobody goes on with at the moment, by their keys."""

    def usage(self, user: str | None = None) -> Usage:
        """Return what ``user`` has here, or everybody; what is under way included."""
        return self._quota.usage(user)

    def recount(self, contents: Contents) -> None:
        """Begin anew with what was counted on the disk; what is unfinished comes to that."""
        self._quota = Quota(self._limits)
        for user, usage in contents.users.items():
            self._quota.add(user, usage.size, usage.files)
        self._quota.total = contents.total
        for identity, size in self._unfinished():
            self._quota.add(identity.sender, size)

    def _unfinished(self) -> list[tuple[PartialFileKey, int]]:
        live = [(reception.identity, reception.identity.size) for reception in self.live.values()]
        return [*live, *((kept.identity, kept.size) for kept in self.kept.values())]

    # Directories, which are there at once

    def check_directory(self, sender: str) -> None:
        """Raise the :class:`FileError` of a quota that has no room for one more."""
        self._quota.check(sender, 0)

    def add_directories(self, sender: str, count: int) -> None:
        """Charge for directories that were made."""
        self._quota.add(sender, 0, count)

    # Files

    def check_number(self, sender: str) -> None:
        """Raise a :class:`FileError` where too many files are under way."""
        if len(self.live) >= self._limits.receptions or self._live_of[sender] >= self._limits.user_receptions:
            raise FileError(FileCode.LIMIT, "too many files are under way at the moment; try again")

    def check(self, identity: PartialFileKey, free: int) -> None:
        """Whether a file may begin.

        Args:
            identity: which.
            free: bytes that the file system has left.

        Raises:
            FileError: ``limit``, ``quota`` or ``space``, with the numbers.
        """
        kept = self.kept.get(identity.key)
        held = kept.size if kept is not None else 0
        self._quota.check(identity.sender, identity.size, held=held, room=free - self._promised)

    def begin(self, identity: PartialFileKey) -> KeptPartial | None:
        """Charge for a file that may come; returns what was kept of it.

        Raises:
            FileError: it is under way already.
        """
        if identity.key in self.live:
            raise FileError(FileCode.UNAVAILABLE, "this file is being received at the moment")
        kept = self.take(identity)
        self._quota.add(identity.sender, identity.size)
        self._promised += identity.size
        self._live_of[identity.sender] += 1
        return kept

    def written(self, size: int) -> None:
        """Bytes that have come take room on the disk already."""
        self._promised -= size

    def ended(self, reception: IncomingFile, published: Published | None) -> None:
        """Settle the account of a file; what is kept of it is charged by :meth:`keep`."""
        identity = reception.identity
        if self.live.get(identity.key) is reception:
            del self.live[identity.key]
        self._live_of[identity.sender] -= 1
        if not self._live_of[identity.sender]:
            del self._live_of[identity.sender]
        self._promised -= identity.size - reception.arrived
        if published is not None:
            self.add_directories(identity.sender, published.directories)
        else:
            self._quota.add(identity.sender, -identity.size, -1)

    # Partial files

    def keep(self, kept: KeptPartial) -> KeptPartial | None:
        """Charge for a partial file; returns the oldest of its sender if there are too many by it."""
        self.kept[kept.identity.key] = kept
        self._quota.add(kept.identity.sender, kept.size)
        mine = [other for other in self.kept.values() if other.identity.sender == kept.identity.sender]
        return mine[0] if len(mine) > self._limits.user_partials else None

    def take(self, identity: PartialFileKey) -> KeptPartial | None:
        """Take a partial file out of the books, if it is in them."""
        kept = self.kept.pop(identity.key, None)
        if kept is not None:
            self._quota.add(identity.sender, -kept.size, -1)
        return kept
