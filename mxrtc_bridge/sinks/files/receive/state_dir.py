"""A directory that files are received into, with what it needs beside the files.

    .mxrtc/lock             held by the process that receives
    .mxrtc/ledger.jsonl     who put what (:mod:`mxrtc_bridge.sinks.files.receive.receipts`)
    .mxrtc/partial/         what has not fully arrived (:mod:`mxrtc_bridge.sinks.files.receive.partial_file`)

A drop box has one receiving process, and says so to a second one. A person's own directory may have several: there only
the partial files are locked, and what a dead process left is cleaned up by the next that is alone.

All methods block; call them in one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.config.private_files import closing, exposure, open_private_directory, open_private_file, take_lock
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.core.files.names import MAX_COMPONENTS, STATE_DIRECTORY
from mxrtc_bridge.sinks.files.disk_names import from_disk
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey, is_map_name, read_header
from mxrtc_bridge.sinks.files.receive.permissions import Permissions
from mxrtc_bridge.sinks.files.receive.publisher import Naming, Publisher
from mxrtc_bridge.sinks.files.receive.quota import Usage
from mxrtc_bridge.sinks.files.receive.receipts import Receipt, Receipts, is_ours, read_receipts
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
from mxrtc_bridge.system import files

_PARTIALS = "partial"
_LEDGER = "ledger.jsonl"
_LOCK = "lock"
COMPACT_FROM = 10_000
"""Lines of files that are gone, below which a ledger is long enough to be left alone."""
_ATTEMPTS = 10
_LINKS = frozenset({errno.ELOOP, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class KeptPartial:
    """A partial file that nobody works on."""

    identity: PartialFileKey
    size: int
    """On the disk."""
    changed_s: float
    """When it last grew, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a box, without the partial files."""

    total: Usage
    users: dict[str, Usage]


class StateDirectory:
    """The directory ``path``, open for receiving.

    Args:
        path: made if it does not exist.
        naming: how names are given.
        permissions: of what is published.
        exclusive: whether this must be the only process that receives into it.
        compact_from: see :data:`COMPACT_FROM`.

    Raises:
        LocalError: it cannot be used, or another process uses it.
    """

    def __init__(
        self,
        path: Path,
        naming: Naming,
        permissions: Permissions,
        *,
        exclusive: bool,
        compact_from: int = COMPACT_FROM,
    ) -> None:
        self._compact_from = compact_from
        self.root = RootedDirectory(path, make=permissions.make_directory)
        self._path = path
        self._exclusive = exclusive
        self._state = self.partials = self._lock = -1
        self._ledger: Receipts | None = None
        self._stopped = False
        self._seen_lines = self._seen_present = 0
        """Of the ledger when its files were looked at: lines, and those of them whose files were there."""
        try:
            self._open_state()
            permissions.check(self.partials)
            self._ledger = Receipts(self._state, _LEDGER, self._where(_LEDGER))
        except OSError as error:
            self.close()
            if error.errno in _LINKS:
                where = self._where()
                raise LocalError(f"{where} cannot be trusted: it is a link, or has one in it. Remove it") from error
            raise LocalError(f"cannot receive into {_shown(path)}: {os.strerror(error.errno or 0)}") from error
        except LocalError:
            self.close()
            raise
        self.publisher = Publisher(
            self.root, self.partials, self._ledger, naming, permissions, lambda: int(time.time() * 1000)
        )

    @property
    def ledger(self) -> Receipts:
        assert self._ledger is not None
        return self._ledger

    def free_bytes(self) -> int:
        """Return what the file system has left for us."""
        return files.free_bytes(self.root.descriptor) or 0

    def received_before(self, identity: PartialFileKey) -> Receipt | None:
        """Return the receipt of this very version, if its file is still there."""
        receipt = self.ledger.find(identity)
        if receipt is None or receipt.is_directory:
            return None
        status = self.root.status(receipt.name.split("/"))
        # What belongs to somebody else is not what we have published, however much it looks like it. That others may
        # write to it is no reason to send it again: it got the permissions that its directory wants.
        return receipt if status is not None and receipt.matches(status) and is_ours(status) else None

    def kept(self) -> list[KeptPartial]:
        """Return the partial files with their owners, oldest first; those that belong to nothing are left out."""
        found = (self._kept(name) for name in _names(self.partials) if is_map_name(name))
        return sorted((kept for kept in found if kept is not None), key=lambda kept: kept.changed_s)

    def remove_partial(self, identity: PartialFileKey) -> None:
        """Remove a partial file that nobody works on."""
        for name in (identity.part_name, identity.map_name):
            with contextlib.suppress(FileNotFoundError):
                files.unlink_at(name, dir_fd=self.partials)

    def read_ledger(self) -> dict[str, Usage]:
        """Learn what was received before; returns what each sender has here at most: all that ever came.

        Raises:
            FileError: :meth:`stop_counting` was called.
        """
        return self._sums(self.ledger.receipts())  # which indexes them

    def contents(self, at_most: dict[str, Usage] | None = None) -> Contents:
        """Count what is in the box, and whose it is.

        Takes some 7 microseconds for each file, and three times as long again to find out whose are still there.

        Args:
            at_most: what :meth:`read_ledger` has returned, to be taken for what is whose.

        Raises:
            FileError: :meth:`stop_counting` was called.
        """
        total = Usage()
        self._count((), total)
        return Contents(total, self._sums(self._looked_at()) if at_most is None else at_most)

    def _sums(self, receipts: Iterator[Receipt]) -> dict[str, Usage]:
        users: dict[str, Usage] = {}
        for receipt in receipts:
            self._go_on()
            usage = users.setdefault(receipt.sender, Usage())
            usage.size += receipt.size
            usage.files += 1
        return users

    def stop_counting(self) -> None:
        """Have :meth:`read_ledger` and :meth:`contents` end soon, in whatever thread; nothing is counted any more."""
        self._stopped = True

    def compact(self) -> None:
        """Drop the lines of files that are gone from the ledger, where they are many and the greater part.

        Files are looked at only where so many lines have come since the last time that it may be so; until then the
        ledger is as long as it may be three times over, and nothing is read.
        """
        enough = max(self._compact_from, self._seen_present)
        gone, new = self._seen_lines - self._seen_present, self.ledger.lines - self._seen_lines
        if gone <= enough and new <= enough:
            return
        for _ in self._looked_at():
            pass
        if self._seen_lines - self._seen_present > max(self._compact_from, self._seen_present):
            self.ledger.rewrite(self._present())
            self._seen_lines = self.ledger.lines

    def _looked_at(self) -> Iterator[Receipt]:
        """The receipts of all files that are there; at the end they are counted."""
        present = 0
        for receipt in self._present():
            self._go_on()
            present += 1
            yield receipt
        self._seen_lines, self._seen_present = self.ledger.lines, present

    def _go_on(self) -> None:
        if self._stopped:
            raise FileError(FileCode.UNAVAILABLE, "nothing is received at the moment")

    def close(self, *, tidy: bool = False) -> None:
        """Let go.

        Args:
            tidy: remove all that was kept beside the files, unless there are partial files or other processes.
        """
        tidy = tidy and self._lock >= 0 and take_lock(self._lock) and not _names(self.partials)
        if self._ledger is not None:
            self._ledger.close()
        # In this order: not every system removes a directory that is open.
        self.partials = _closed(self.partials)
        if tidy:
            for name in (_LEDGER, _LOCK):
                with contextlib.suppress(OSError):
                    files.unlink_at(name, dir_fd=self._state)
            with contextlib.suppress(OSError):
                files.rmdir_at(_PARTIALS, dir_fd=self._state)
        self._state = _closed(self._state)
        if tidy:
            with contextlib.suppress(OSError):
                files.rmdir_at(STATE_DIRECTORY, dir_fd=self.root.descriptor)
        self._lock = _closed(self._lock)
        self.root.close()

    def _open_state(self) -> None:
        for _ in range(_ATTEMPTS):
            self._state = open_private_directory(self.root.descriptor, STATE_DIRECTORY, self._where())
            self._take_lock()
            # Another process may have tidied up while we waited; then we hold the lock of a directory that is gone.
            if self._lock_is_in_place():
                break
            os.close(self._lock)
            os.close(self._state)
            self._lock = self._state = -1
        else:
            raise LocalError(f"{self._where()} is moved away again and again; use a directory that is yours alone")
        self.partials = open_private_directory(self._state, _PARTIALS, self._where(_PARTIALS))
        if os.fstat(self.partials).st_dev != os.fstat(self.root.descriptor).st_dev:
            raise LocalError(f"{self._where()} must be on the same file system as the directory; it is on another one")
        if take_lock(self._lock):
            self._remove_leftovers()
        if not self._exclusive:
            files.lock(self._lock, shared=True, wait=True)

    def _take_lock(self) -> None:
        self._lock = open_private_file(self._state, _LOCK, os.O_RDWR | os.O_CREAT, self._where(_LOCK))
        if not self._exclusive:
            files.lock(self._lock, shared=True, wait=True)
        elif not take_lock(self._lock):
            raise LocalError(f"another process receives into {_shown(self._path)}; a drop box belongs to one bridge")

    def _lock_is_in_place(self) -> bool:
        status = self.root.status((STATE_DIRECTORY, _LOCK))
        ours = os.fstat(self._lock)
        return status is not None and (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino)

    def _where(self, *below: str) -> str:
        """A part of the state, for messages."""
        return _shown(self._path.joinpath(STATE_DIRECTORY, *below))

    def _remove_leftovers(self) -> None:
        """Remove what a process that died cannot go on with: files without a map, maps without a file."""
        wanted: set[str] = set()
        for kept in self.kept():
            wanted |= {kept.identity.part_name, kept.identity.map_name}
        for name in _names(self.partials) - wanted:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                files.unlink_at(name, dir_fd=self.partials)

    def _kept(self, map_name: str) -> KeptPartial | None:
        flags = os.O_RDONLY | files.O_NOFOLLOW | files.O_CLOEXEC
        try:
            with closing(files.open_at(map_name, flags, dir_fd=self.partials)) as descriptor:
                known = read_header(descriptor)
            if known is None or known[0].map_name != map_name:
                return None
            status = files.stat_at(known[0].part_name, dir_fd=self.partials)
        except OSError:
            return None
        # Two names: it was published by a link, and the crash came before its first name was removed.
        if not stat.S_ISREG(status.st_mode) or exposure(status) is not None:
            return None
        return KeptPartial(known[0], status.st_size, status.st_mtime)

    def _count(self, parts: tuple[str, ...], total: Usage) -> None:
        try:
            descriptor = self.root.open_directory(parts)
        except OSError:
            return
        below: list[str] = []
        with closing(descriptor), files.scan(descriptor) as entries:
            for entry in entries:
                self._go_on()
                if not parts and entry.name == STATE_DIRECTORY:
                    continue
                total.files += 1
                if entry.is_dir(follow_symlinks=False):
                    below.append(from_disk(entry.name))
                else:
                    with contextlib.suppress(FileNotFoundError):
                        total.size += entry.stat(follow_symlinks=False).st_size
        if len(parts) < 2 * MAX_COMPONENTS:
            for name in below:
                self._count((*parts, name), total)

    def _present(self) -> Iterator[Receipt]:
        """The receipts whose files are still there, each once."""
        for offset, receipt in read_receipts(self.ledger.descriptor):
            # A file that was to be published, and was after a restart, has two lines.
            if self.ledger.is_last(receipt, offset) and receipt.matches(self.root.status(receipt.name.split("/"))):
                yield receipt


def _names(directory: int) -> set[str]:
    return set(files.names_in(directory))


def _closed(descriptor: int) -> int:
    if descriptor >= 0:
        os.close(descriptor)
    return -1


def _shown(path: Path) -> str:
    return f"{str(path)[:200]!a}"
