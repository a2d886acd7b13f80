"""Which names a directory has, in the sense in which two names collide there.

Publishing thousands of files into one directory must not list it thousands of times. What was seen is kept for a few
directories, as a hash for each name, and seen anew when the directory was changed by somebody else. The last word is
always the kernel's: a name is given with "only if nobody has it".

All methods block; call them in one thread at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.core.files.names import NameRules, collision_key, free_name, refusal
from mxrtc_bridge.core.text.display import quoted
from mxrtc_bridge.sinks.files.disk_names import from_disk, on_disk
from mxrtc_bridge.system import files

MAX_NAMES = 200_000
"""In one directory, and in all that are remembered; about 20 MB."""
MAX_DIRECTORIES = 64
_MAX_NUMBERED = 1000
MAX_NUMBER = 10_000
"""Of ``name (2)``: beyond it the name is refused."""


@dataclass(slots=True)
class _Seen:
    changed_ns: int
    keys: set[int] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)
    """Chosen, and not there yet."""
    next_number: dict[int, int] = field(default_factory=dict)


class NameAllocator:
    """What is known of the directories published into.

    Args:
        exact: whether names collide only where the file system says so: each is what it is, byte by byte.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self._seen: OrderedDict[tuple[int, int], _Seen] = OrderedDict()

    def choose(self, directory: int, name: str, *, alike: bool, rules: NameRules) -> str:
        """Return ``name``, or the first ``name (N)`` that is free, and take it.

        Args:
            directory: the descriptor of the directory.
            name: as checked.
            alike: whether another name that differs only in case counts as the same; otherwise it is a refusal.
            rules: that the result must keep, too.

        Raises:
            FileError: there is a name that differs only in case, no free number, or the directory is too large.
            OSError: the directory cannot be read.
        """
        seen = self._look(directory)
        key = self._key(name)
        if len(seen.keys) >= MAX_NAMES:
            raise FileError(FileCode.LIMIT, f"the directory has {MAX_NAMES} names already")
        if key not in seen.keys:
            return _take(seen, key, name)
        if not self._exact and not alike and name not in seen.pending and not _exists(directory, name):
            # Somebody may have removed it in the very moment; then this is a refusal too many, and no harm.
            raise FileError(FileCode.NAME, f"there is a name that differs from {quoted(name)} only in case")
        for number in range(seen.next_number.get(key, 2), MAX_NUMBER + 1):
            candidate = free_name(name, number, rules.max_bytes)
            candidate_key = self._key(candidate)
            if candidate_key not in seen.keys and refusal(candidate, rules) is None:
                if len(seen.next_number) < _MAX_NUMBERED:
                    seen.next_number[key] = number + 1
                return _take(seen, candidate_key, candidate)
        raise FileError(FileCode.EXISTS, f"{quoted(name)} and {MAX_NUMBER - 1} names derived from it are taken")

    def has_alike(self, directory: int, name: str) -> bool:
        """Whether there is a name that differs only in case, and not this one."""
        if self._exact:
            return False
        seen = self._look(directory)
        return self._key(name) in seen.keys and name not in seen.pending and not _exists(directory, name)

    def made(self, directory: int, name: str) -> None:
        """Note that ``name`` was just made in the directory, by us."""
        status = os.fstat(directory)
        seen = self._seen.get((status.st_dev, status.st_ino))
        if seen is not None:
            seen.keys.add(self._key(name))
            seen.changed_ns = status.st_mtime_ns

    def published(self, directory: int) -> None:
        """Note that the last change of the directory was ours."""
        status = os.fstat(directory)
        seen = self._seen.get((status.st_dev, status.st_ino))
        if seen is not None:
            seen.changed_ns = status.st_mtime_ns
            seen.pending.clear()

    def forget(self, directory: int) -> None:
        """See the directory anew at the next question: what was taken was not published after all."""
        status = os.fstat(directory)
        self._seen.pop((status.st_dev, status.st_ino), None)

    def take(self, directory: int, names: Collection[str]) -> None:
        """Note that names are not to be had, whatever the directory shows: its file system says so."""
        self._look(directory).keys.update(map(self._key, names))

    def _key(self, name: str) -> int:
        # Names that are there already may be anything, bytes that are no text included.
        data = (name if self._exact else collision_key(name)).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)

    def _look(self, directory: int) -> _Seen:
        status = os.fstat(directory)
        identity = (status.st_dev, status.st_ino)
        seen = self._seen.get(identity)
        if seen is None or seen.changed_ns != status.st_mtime_ns:
            self._seen.pop(identity, None)
            seen = _Seen(status.st_mtime_ns)
            with files.scan(directory) as entries:
                for entry in entries:
                    seen.keys.add(self._key(from_disk(entry.name)))
                    if len(seen.keys) > MAX_NAMES:
                        raise FileError(FileCode.LIMIT, f"the directory has more than {MAX_NAMES} names")
            self._seen[identity] = seen
            self._trim()
        self._seen.move_to_end(identity)
        return seen

    def _trim(self) -> None:
        held = sum(len(seen.keys) for seen in self._seen.values())
        while len(self._seen) > 1 and (len(self._seen) > MAX_DIRECTORIES or held > MAX_NAMES):
            _, dropped = self._seen.popitem(last=False)
            held -= len(dropped.keys)


def _take(seen: _Seen, key: int, name: str) -> str:
    seen.keys.add(key)
    seen.pending.add(name)
    return name


def _exists(directory: int, name: str) -> bool:
    try:
        files.stat_at(on_disk(name), dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
