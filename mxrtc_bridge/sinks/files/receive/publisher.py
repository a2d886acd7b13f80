"""Giving files their names: only when they are whole, hashed and on the disk; many at a time for one wait.

The steps for a batch, each for all of its files before the next:

    1  small files, which waited in memory, are written under names that nobody sees; hashes are compared
    2  directories are made, free names are chosen
    3  the ledger gets a line for each
    4  one sync: the bytes and the ledger are on the disk
    5  each file gets the permissions of its directory, and is renamed to its name, which the kernel gives only if
       nobody has it
    6  one sync: the names are on the disk
    7  what has the name is compared with what was hashed: others may be able to write to the directory

A crash before 5 leaves no name, after 5 a whole file with its line in the ledger. A file that fails in some step leaves
the batch; the others go on. With a few files the syncs are of the files and directories themselves, with more of the
whole file system: at 256 small files the latter was found to be about ten times faster on ext4.

All methods block; call them in one thread at a time.

One file: the steps of one publication, in which nothing may stand before or behind another place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.config.private_files import closing
from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.core.files.names import CAREFUL, NameRules, free_name, refusal
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.sinks.files.disk_names import on_disk
from mxrtc_bridge.sinks.files.linux import rename_new, sync_file_system
from mxrtc_bridge.sinks.files.os_errors import translated
from mxrtc_bridge.sinks.files.receive.batch_dirs import BatchDirectories, OpenDirectory
from mxrtc_bridge.sinks.files.receive.name_allocator import NameAllocator
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFile, PartialFileKey, hash_range
from mxrtc_bridge.sinks.files.receive.permissions import FilePermissions, Permissions
from mxrtc_bridge.sinks.files.receive.receipts import Receipt, Receipts, is_ours
from mxrtc_bridge.sinks.files.rooted_dir import FILE_MODE, RootedDirectory
from mxrtc_bridge.system import files

log = logging.getLogger(__name__)
_SELDOM = RateLimitedLog(log)

MAX_SINGLE_SYNCS = 4
TEMPORARY_SUFFIX = ".tmp"
_MAX_RENAMES = 100
_MAX_COMPARED = 8
"""Files of a name and size that are read to find one that is there already: the other side may send many such."""
_LOOK = os.O_RDONLY | files.O_NOFOLLOW | files.O_NONBLOCK | files.O_CLOEXEC
_MAX_MTIME_MS = 253_402_300_799_000
"""The end of the year 9999; what is beyond is a mistake, and some file systems wrap around."""


class Existing(Enum):
    """What happens where the name is taken."""

    KEEP_BOTH = "keep both"
    """The new file becomes ``name (2).ext``."""
    KEEP_DIFFERENT = "keep different"
    """The same, unless the old one, or one that has such a number already, has the very same content."""
    REPLACE = "replace"
    """The new file takes the place of the old one, in one step."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How names are given."""

    rules: NameRules = CAREFUL
    sanitise: bool = False
    """Make names safe that are not accepted, instead of refusing them."""
    existing: Existing = Existing.KEEP_BOTH
    remedy: Callable[[str], str] = lambda _path: ""
    """What can be done about a path that is not accepted."""


@dataclass(frozen=True, slots=True)
class Published:
    """A file, or directory, that is whole and on the disk."""

    name: str
    """Its path in the box; may differ from what was offered."""
    size: int
    digest: str
    """SHA-256 in hexadecimal; empty for a directory."""
    before: bool = False
    """It had been received in an earlier transfer; nothing was written now."""
    directories: int = 0
    """How many directories were made for it."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be published: bytes in memory, a partial file, or (neither) a directory."""

    identity: PartialFileKey
    parts: tuple[str, ...]
    digest: str
    data: bytes | None = None
    partial: PartialFile | None = None


@dataclass(slots=True)
class _Item:
    wanted: Publication
    temporary: str = ""
    descriptor: int = -1
    inode: int = 0
    marks: tuple[int, ...] = ()
    """By which the file is known again when it has its name."""
    directory: OpenDirectory | None = None
    made: list[tuple[str, ...]] = field(default_factory=list)
    name: str = ""
    failure: FileError | None = None
    opened_to_readers: bool = False
    """It is not ours alone any more."""
    renamed: bool = False
    there: bool = False
    """What has the name already is the same."""

    @property
    def path(self) -> str:
        assert self.directory is not None
        return "/".join((*self.directory.parts, self.name) if self.name else self.directory.parts)


class Publisher:
    """Publishes into one directory.

    Args:
        root: the directory.
        partials: the descriptor of the directory of partial files, on the same file system.
        ledger: of the box.
        naming: how names are given.
        permissions: of what is published.
        now_ms: tells the time for the ledger.
    """

    def __init__(
        self,
        root: RootedDirectory,
        partials: int,
        ledger: Receipts,
        naming: Naming,
        permissions: Permissions,
        now_ms: Callable[[], int],
    ) -> None:
        self._root = root
        self._partials = partials
        self._ledger = ledger
        self._naming = naming
        self._now_ms = now_ms
        self._single = True
        self._alike = naming.sanitise and naming.rules.portable
        self._taken = NameAllocator(exact=not naming.rules.portable)
        self._directories = BatchDirectories(root, self._taken, permissions, partials, alike=self._alike)

    def check_place(self, parts: tuple[str, ...]) -> None:
        """Find out early that a name will not be given.

        Raises:
            FileError: the file system cannot hold it, there is one that differs only in case, or something else than a
                directory is in the way.
        """
        for part in parts:
            # What is portable needs no trial.
            if refusal(part) is not None:
                self._try_name(part)
        if self._naming.sanitise or self._naming.existing is Existing.REPLACE:
            return
        try:
            self._directories.check(parts)
        except OSError as error:
            raise translated(error) from error

    def _try_name(self, name: str) -> None:
        """Find out whether the file system takes a name, where nobody sees it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_NOFOLLOW | files.O_CLOEXEC
        try:
            os.close(files.open_at(on_disk(name), flags, FILE_MODE, dir_fd=self._partials))
            files.unlink_at(on_disk(name), dir_fd=self._partials)
        except FileExistsError:
            return  # It is the name of a partial file, and so the system does.
        except OSError as error:
            raise translated(error) from error

    def publish(self, batch: Sequence[Publication]) -> list[Published | FileError]:
        """Publish a batch; returns what became of each, in order."""
        items = [_Item(wanted) for wanted in batch]
        self._single = len(items) <= MAX_SINGLE_SYNCS or not files.SYNCS_ALL
        try:
            for step in (self._write, self._place):
                for item in _alive(items):
                    with _noting(item):
                        step(item)
            self._record(items)
            self._sync(items)
            for item in _alive(items):
                with _noting(item):
                    self._rename(item)
            self._sync_directories(items)
            for item in _alive(items):
                with _noting(item):
                    self._compare(item)
            return [self._finish(item) for item in items]
        finally:
            self._clean_up(items)

    # The steps

    def _write(self, item: _Item) -> None:
        wanted = item.wanted
        if wanted.partial is not None:
            if wanted.partial.offset != wanted.identity.size or wanted.partial.digest() != wanted.digest:
                raise _not_whole(wanted.partial.offset, wanted.identity.size)
            item.descriptor, item.temporary = wanted.partial.descriptor, wanted.partial.name
            self._mark(item)
        elif wanted.data is not None:
            if len(wanted.data) != wanted.identity.size or hashlib.sha256(wanted.data).hexdigest() != wanted.digest:
                raise _not_whole(len(wanted.data), wanted.identity.size)
            self._write_small(item, wanted.data)

    def _write_small(self, item: _Item, data: bytes) -> None:
        name = secrets.token_hex(16) + TEMPORARY_SUFFIX
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_NOFOLLOW | files.O_CLOEXEC
        descriptor = files.open_at(name, flags, FILE_MODE, dir_fd=self._partials)
        item.temporary, item.descriptor = name, descriptor
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._mark(item)
        if not self._single:  # hundreds of open files are of no use to a sync of the whole file system
            item.descriptor = -1
            os.close(descriptor)

    def _mark(self, item: _Item) -> None:
        """Set the modification time, and keep what the file is known by."""
        mtime_ns = min(max(item.wanted.identity.mtime_ms, 0), _MAX_MTIME_MS) * 1_000_000
        files.set_modified(item.descriptor, mtime_ns)
        status = os.fstat(item.descriptor)
        item.inode, item.marks = status.st_ino, _marks_of(status)

    def _place(self, item: _Item) -> None:
        wanted = item.wanted
        above = wanted.parts[:-1] if item.temporary else wanted.parts
        item.directory = self._directories.get(above)
        # The first of a batch that needs it answers for what was made.
        item.made, item.directory.made = item.directory.made, []
        if not item.temporary:
            return
        if self._naming.existing is Existing.KEEP_DIFFERENT:
            self._find_same(item, item.directory.descriptor, wanted.parts[-1])
        if not item.there:
            item.name = self._choose(item, wanted.parts[-1])

    def _find_same(self, item: _Item, directory: int, name: str) -> None:
        """Find what an earlier transfer has published, of which nothing is written down any more."""
        size, compared = item.wanted.identity.size, 0
        for number in range(1, _MAX_RENAMES):
            candidate = name if number == 1 else free_name(name, number, self._naming.rules.max_bytes)
            place = on_disk(candidate)
            try:
                status = files.stat_at(place, dir_fd=directory)
                # A pipe is not even opened: whoever waits at its other end would go on.
                if not is_ours(status) or status.st_size != size:
                    continue
                descriptor = files.open_at(place, _LOOK, dir_fd=directory)
            except FileNotFoundError:
                return
            except OSError:
                continue  # what we may not read
            compared += 1
            with closing(descriptor):
                status = os.fstat(descriptor)
                if is_ours(status) and status.st_size == size:
                    digest = hash_range(descriptor, 0, status.st_size, lambda _data: None)
                    if digest.hex() == item.wanted.digest:
                        item.there, item.name, item.inode = True, candidate, status.st_ino
                        return
            if compared == _MAX_COMPARED:
                return

    def _choose(self, item: _Item, name: str) -> str:
        assert item.directory is not None
        if self._naming.existing is Existing.REPLACE:
            return name
        return self._taken.choose(item.directory.descriptor, name, alike=self._alike, rules=self._naming.rules)

    def _record(self, items: list[_Item]) -> None:
        receipts: list[Receipt] = []
        for item in _alive(items):
            with _noting(item):
                receipts += self._receipts(item)
        try:
            self._ledger.append(receipts)
        except OSError as error:
            _fail_all(items, error)

    def _sync(self, items: list[_Item]) -> None:
        files = [item for item in _alive(items) if item.temporary and not item.there]
        if not files:
            return
        try:
            if not self._single:
                sync_file_system(self._root.descriptor)
            else:
                for item in files:
                    os.fsync(item.descriptor)
                self._ledger.sync()
        except OSError as error:
            _fail_all(items, error)

    def _rename(self, item: _Item) -> None:
        if not item.temporary or item.there:
            return
        assert item.directory is not None
        directory = item.directory.descriptor
        self._open_to_readers(item, item.directory)
        tried: set[str] = set()
        for _ in range(_MAX_RENAMES):
            try:
                if self._naming.existing is Existing.REPLACE:
                    files.rename_at(item.temporary, on_disk(item.name), src_dir_fd=self._partials, dst_dir_fd=directory)
                else:
                    rename_new(self._partials, item.temporary, directory, item.name)
            except FileExistsError:
                # Somebody else took it between our look and now, or it is another name's twin here: look again.
                tried.add(item.name)
                self._taken.forget(directory)
                self._taken.take(directory, tried)
                item.name = self._choose(item, item.wanted.parts[-1])
                item.made = []
                self._ledger.append(list(self._receipts(item)))
                self._ledger.sync()
            else:
                item.renamed = True
                return
        raise FileError(FileCode.EXISTS, "somebody takes every name at the moment")

    def _open_to_readers(self, item: _Item, directory: OpenDirectory) -> None:
        """Let those read the file who may in its directory; nobody can reach it yet."""
        permissions = self._directories.permissions(directory)
        if permissions.as_made:
            return
        if item.descriptor >= 0:
            permissions.apply(item.descriptor)
        else:
            flags = os.O_RDONLY | files.O_NOFOLLOW | files.O_CLOEXEC
            with closing(files.open_at(item.temporary, flags, dir_fd=self._partials)) as descriptor:
                permissions.apply(descriptor)
        item.opened_to_readers = True

    def _compare(self, item: _Item) -> None:
        """Find out whether what has the name now is what was hashed; no digest is told for anything else."""
        if not item.temporary or item.there:
            return
        assert item.directory is not None
        try:
            found = files.stat_at(on_disk(item.name), dir_fd=item.directory.descriptor)
        except FileNotFoundError:
            raise FileError(FileCode.INTEGRITY, "somebody took the file away as soon as it had its name") from None
        # Not the inode alone: once a file is removed, the next one may be given its number.
        if _marks_of(found) != item.marks:
            raise FileError(
                FileCode.INTEGRITY,
                "somebody put another file in its place as soon as it had its name; what is there now is not what came",
            )

    def _sync_directories(self, items: list[_Item]) -> None:
        changed = {item.directory.descriptor for item in items if item.renamed and item.directory is not None}
        above = {made[:-1] for item in items for made in item.made}
        try:
            if len(changed) + len(above) > MAX_SINGLE_SYNCS and files.SYNCS_ALL:
                sync_file_system(self._root.descriptor)
                return
            for descriptor in changed:
                files.sync_directory(descriptor)
        except OSError as error:
            _fail_all(items, error)
        for parts in above:
            # What cannot be opened any more was taken away, with all that was in it.
            with contextlib.suppress(OSError), closing(self._root.open_directory(parts)) as descriptor:
                files.sync_directory(descriptor)

    def _finish(self, item: _Item) -> Published | FileError:
        if item.failure is not None:
            return item.failure
        wanted = item.wanted
        if not item.temporary:
            return Published(item.path, 0, "", directories=len(item.made))
        if wanted.partial is not None:
            with contextlib.suppress(FileError):  # a map without its part is removed at the next start
                (wanted.partial.discard if item.there else wanted.partial.forget_map)()
        return Published(item.path, wanted.identity.size, wanted.digest, item.there, directories=len(item.made))

    def _clean_up(self, items: list[_Item]) -> None:
        for item in items:
            if item.wanted.partial is None and item.descriptor >= 0:
                os.close(item.descriptor)
            if item.wanted.partial is None and item.temporary and not item.renamed:
                with contextlib.suppress(OSError):
                    files.unlink_at(item.temporary, dir_fd=self._partials)
            if item.wanted.partial is not None and item.opened_to_readers and not item.renamed:
                # It goes on waiting in the state directory, where a file that others may write to is not trusted.
                with contextlib.suppress(OSError):
                    FilePermissions(FILE_MODE, files.effective_group()).apply(item.descriptor)
            if item.directory is not None and item.renamed:
                self._taken.published(item.directory.descriptor)
        for item in items:
            if item.directory is not None and not item.renamed:
                self._taken.forget(item.directory.descriptor)
        self._directories.close()

    def _receipts(self, item: _Item) -> Iterator[Receipt]:
        identity, now_ms = item.wanted.identity, self._now_ms()
        for made in item.made:
            status = self._root.status(made)
            inode = status.st_ino if status is not None else 0
            name = "/".join(made)
            yield Receipt(now_ms, identity.sender, name, name, 0, "", "", inode)
        if item.temporary:
            yield Receipt(
                now_ms,
                identity.sender,
                identity.path,
                item.path,
                identity.size,
                item.wanted.digest,
                identity.version,
                item.inode,
            )


@contextlib.contextmanager
def _noting(item: _Item) -> Iterator[None]:
    """Make an error the failure of ``item``."""
    try:
        yield
    except FileError as error:
        item.failure = error
    except OSError as error:
        item.failure = translated(error)
    except Exception as error:  # noqa: BLE001 - a defect, or a name that no encoding holds, costs this file, not its batch
        _SELDOM.exception(type(error).__name__, "publishing a file failed", error=error)
        item.failure = FileError(FileCode.IO, "the file could not be published")


def _alive(items: list[_Item]) -> list[_Item]:
    return [item for item in items if item.failure is None]


def _fail_all(items: list[_Item], error: OSError) -> None:
    for item in _alive(items):
        item.failure = translated(error)


def _not_whole(size: int, announced: int) -> FileError:
    words = f"{size} of {announced} bytes came" if size != announced else "its SHA-256 is not the one of the source"
    return FileError(FileCode.INTEGRITY, f"the file did not arrive as it was: {words}")


def _marks_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_uid, status.st_size, status.st_mtime_ns
