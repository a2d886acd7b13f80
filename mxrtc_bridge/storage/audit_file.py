"""The audit as a file: lines that are only ever appended, and are on the disk before anybody goes on.

When the file has reached its size it is given the number of its last line and a new one is begun; the chain goes on.
Whatever cannot be written completely is taken back, so that the file always ends with a whole line.

Three files stand together: ``audit.jsonl`` and the full ones are the chain; ``audit-acts.jsonl`` has the lines about
what admins have done of full files that were removed; ``audit-refused.jsonl`` has lines that were found in the file and
that the bridge had not written.

One file: what is appended, taken back, begun anew and read again must agree to the byte.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mxrtc_bridge.config.private_files import closing
from mxrtc_bridge.core.audit.chain import (
    MAX_LINE_BYTES,
    AuditEntry,
    ChainError,
    ChainLink,
    Head,
    Retention,
    digest_of,
    link_of,
    number_of,
    read_line,
    retention,
)
from mxrtc_bridge.core.errors import StorageError

TAIL_LINES = 1000
"""As many lines are looked at behind what the database knows; more than are written together."""
RESERVE_BYTES = MAX_LINE_BYTES
"""A disk with less room than this is full, so that it is known before a line is written."""
MAX_REFUSED_BYTES = 1024 * 1024
_CHUNK_LINES = 5000


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands in the open file behind the last line that the database knows."""

    offset: int
    """Where that begins."""
    lines: list[bytes] = field(repr=False)
    """The first of it, without their ends."""
    size: int
    """Bytes of all of it."""


class AuditFile:
    """The open file. Every method blocks: call it in a thread, one at a time."""

    def __init__(self, path: Path, max_bytes: int, keep: int, *, tail_lines: int = TAIL_LINES) -> None:
        """Open or make the file, and cut off a line that was not written to its end.

        Args:
            path: where.
            max_bytes: size at which a new file is begun.
            keep: full files that are kept.
            tail_lines: See :data:`TAIL_LINES`.

        Raises:
            StorageError: it cannot be used.
        """
        self._tail_lines = tail_lines
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1
        self._to_take_back: int | None = None
        self.rotated = False
        """Whether the last lines have begun a new file."""
        self.found: list[str] = []
        """What somebody else has done to the file since it was opened, in words; for whoever writes to take."""
        try:
            self._open()
            self._cut_half_line()
            self._size = os.fstat(self._descriptor).st_size
        except OSError as error:
            self.close()
            raise StorageError(f"the audit file {str(path)!a} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def tail(self) -> list[AuditEntry]:
        """The last lines, oldest first; ends before a line that cannot be read.

        Raises:
            StorageError: the file cannot be read.
        """
        with _translated("the audit file cannot be read"):
            size = os.fstat(self._descriptor).st_size
            start = max(0, size - self._tail_lines * MAX_LINE_BYTES)
            data = os.pread(self._descriptor, size - start, start)
        lines = data.split(b"\n")[1 if start else 0 : -1]
        entries: list[AuditEntry] = []
        for line in reversed(lines[-self._tail_lines :]):
            try:
                entries.append(read_line(line))
            except ChainError:
                break
        return entries[::-1]

    def behind(self, head: Head) -> Behind | None:
        """What stands behind a line; None where the line itself is not at the end of a file or in the open one.

        Raises:
            StorageError: a file cannot be read.
        """
        with _translated("the audit file cannot be read"):
            size = os.fstat(self._descriptor).st_size
            with _opened_regular(self._path) as file:
                for line in _lines_of(file):
                    if number_of(line) == head.number and digest_of(line) == head.digest:
                        return self._behind_at(file.tell(), size)
            full = full_files(self._path)
            if full and _number(full[-1]) == head.number and _last_digest(full[-1]) == head.digest:
                return self._behind_at(0, size)
        return None

    def _behind_at(self, offset: int, size: int) -> Behind:
        data = os.pread(self._descriptor, self._tail_lines * MAX_LINE_BYTES, offset)
        return Behind(offset, data.split(b"\n")[:-1][: self._tail_lines], size - offset)

    def set_aside(self, offset: int) -> None:
        """Take everything from ``offset`` on out of the file; the first of it is kept in another one, to be looked at.

        Raises:
            StorageError: the file cannot be written.
        """
        with _translated("the audit file cannot be written"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            # That it is kept is a help, and must not be a condition: whoever has written it might prevent it.
            with contextlib.suppress(OSError), _opened(refused_file(self._path), flags) as kept:
                room = max(0, MAX_REFUSED_BYTES - os.fstat(kept.fileno()).st_size)
                kept.write(os.pread(self._descriptor, room, offset))
            os.ftruncate(self._descriptor, offset)
            os.fsync(self._descriptor)
            self._size = offset

    def check_room(self) -> None:
        """Find out whether the disk has room for lines to come.

        Raises:
            StorageError: it has not.
        """
        with _translated("the audit file cannot be written"):
            self._check_room()

    def _check_room(self) -> None:
        disk = os.fstatvfs(self._descriptor)
        # Some file systems do not tell.
        free = disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)
        if disk.f_blocks and free < RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def surplus(self) -> int | None:
        """Number of the last line of the full files that are too many; None if there are none.

        Raises:
            StorageError: a file cannot be read.
        """
        with _translated("old audit files cannot be read"):
            too_many = self._too_many()
        return _number(too_many[-1]) if too_many else None

    def _too_many(self) -> list[Path]:
        """The full files before those that are kept, oldest first.

        What is in the chain counts, from the newest file back, and not what has the name of a full file: whoever can
        put files beside ours would otherwise have us remove ours for them.
        """
        files = {_number(each): each for each in full_files(self._path)}
        link = _first_link(self._path)
        # Directly after a file was full, there is no line behind it yet.
        number = max(files, default=0) if link is None else link.number - 1
        chain: list[Path] = []
        while (full := files.pop(number, None)) is not None and _continues(full, link):
            chain.append(full)
            link = _first_link(full)
            if link is None:
                break
            number = link.number - 1
        return chain[self._keep :][::-1]

    def remove_until(self, number: int) -> None:
        """Remove the full files that are too many, as far as a number; what admins have done is kept elsewhere.

        Raises:
            StorageError: the disk does not take it; what was not removed stays.
        """
        with _translated("old audit files cannot be removed"):
            for each in self._too_many():
                if _number(each) <= number:
                    self._keep_acts(each)
                    each.unlink(missing_ok=True)

    def _keep_acts(self, full: Path) -> None:
        place = acts_file(self._path)
        kept = b""
        if place.exists():
            with _opened_regular(place) as file:
                kept = file.read()
        # After a crash some may be there already.
        last = number_of(kept.rsplit(b"\n", 2)[-2]) if kept.endswith(b"\n") else None
        with _opened_regular(full) as file:
            acts = [line for line in _lines_of(file) if _is_act(line) and (number_of(line) or 0) > (last or 0)]
        data = kept + b"".join(line + b"\n" for line in acts)
        if len(data) > self._max_bytes:
            data = data[data.index(b"\n", len(data) - self._max_bytes // 2) + 1 :]
        if not acts:
            return
        aside = place.with_name(place.name + ".new")
        aside.unlink(missing_ok=True)
        with _opened(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(place)
        _sync_folder(place.parent)

    def append(self, lines: Sequence[str], last: Head) -> int:
        """Write lines and wait until the disk has them; returns the size before, for :meth:`take_back`.

        Args:
            lines: without ends of lines.
            last: the head of the chain behind them, after which a full file is named.

        Raises:
            StorageError: nothing was written.
        """
        data = "".join(f"{line}\n" for line in lines).encode()
        before = -1
        try:
            if self._to_take_back is not None:
                self._cut(self._to_take_back)
            self._check_room()
            self._mind_others()
            before = self._size
            self.rotated = False
            if before and before + len(data) > self._max_bytes:
                self._begin_new(last.number - len(lines))
                before = 0
                self.rotated = True
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
            self._size = before + len(data)
        except OSError as error:
            if before >= 0:
                self.take_back(before)
            raise StorageError(f"the audit file cannot be written: {error.strerror}") from error
        return before

    def _mind_others(self) -> None:
        """Write where lines belong, whatever somebody else has done to the file: another program that rotates it, say.

        Lines in a file that has its name no more would be lost to everybody, and nobody would notice.
        """
        ours, there = os.fstat(self._descriptor), None
        with contextlib.suppress(FileNotFoundError):
            there = self._path.stat(follow_symlinks=False)
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            if there is not None and there.st_size:
                raise OSError(errno.EEXIST, "another file stands in its place; put the bridge's own there, and restart")
            old = self._descriptor
            self._open()
            os.close(old)
            _sync_folder(self._path.parent)
            self._size = 0
            self.found.append("the file was moved away while the bridge ran, and a new one was begun")
        elif ours.st_size < self._size:
            self._cut_half_line()
            self._size = os.fstat(self._descriptor).st_size
            self.found.append("the end of the file was cut off while the bridge ran")
        elif ours.st_size > self._size:
            more = ours.st_size - self._size
            self.set_aside(self._size)
            name = refused_file(self._path).name
            self.found.append(
                f"{more} bytes that the bridge had not written were in the file, and were moved to {name}"
            )

    def take_back(self, size: int) -> None:
        """Make the file as long as it was before lines that do not count; where that fails, before the next ones."""
        self._to_take_back = size
        with contextlib.suppress(OSError):
            self._cut(size)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        os.fdatasync(self._descriptor)
        self._to_take_back = None
        self._size = size

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)

    def _cut_half_line(self) -> None:
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - MAX_LINE_BYTES)
        data = os.pread(self._descriptor, size - start, start)
        if data and not data.endswith(b"\n"):
            # It was never confirmed to anybody, so nothing has come of it.
            os.ftruncate(self._descriptor, start + data.rfind(b"\n") + 1)
            os.fsync(self._descriptor)

    def _begin_new(self, last_number: int) -> None:
        full = _named(self._path, last_number)
        self._path.rename(full)
        try:
            old = self._descriptor
            self._open()
        except OSError:
            full.rename(self._path)
            raise
        os.close(old)
        self._size = 0
        _sync_folder(self._path.parent)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise what the system says as a :class:`~mxrtc_bridge.core.errors.StorageError`.

    Args:
        what: what is not possible then.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror}") from error


def full_files(path: Path) -> list[Path]:
    """The files that were full, oldest first."""
    form = re.compile(rf"{re.escape(path.stem)}-(\d{{12,}}){re.escape(path.suffix)}")
    return sorted(each for each in path.parent.iterdir() if form.fullmatch(each.name))


def acts_file(path: Path) -> Path:
    """Where lines about what admins have done go when their file is removed."""
    return path.with_name(f"{path.stem}-acts{path.suffix}")


def refused_file(path: Path) -> Path:
    """Where lines are put that the bridge has not written."""
    return path.with_name(f"{path.stem}-refused{path.suffix}")


def read_acts(path: Path) -> Iterator[bytes]:
    """The lines of :func:`acts_file`, the oldest first; none where there is no such file.

    Raises:
        StorageError: it cannot be read.
    """
    place = acts_file(path)
    with _translated(f"the audit file {str(place)!a} cannot be read"):
        if place.exists():
            with _opened_regular(place) as file:
                yield from _lines_of(file)


def read_links(path: Path, since: int = 1) -> Iterator[list[ChainLink]]:
    """The places of all lines, in parts, without those of files that end before the line ``since``.

    Raises:
        StorageError: a file cannot be read.
    """
    part: list[ChainLink] = []
    with _translated(f"the audit file {str(path)!a} cannot be read"):
        for each in (*(full for full in full_files(path) if _number(full) >= since), path):
            with _opened_regular(each) as file:
                for line in _lines_of(file):
                    part.append(link_of(line))
                    if len(part) >= _CHUNK_LINES:
                        yield part
                        part = []
    if part:
        yield part


def _lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file without their ends; of one that is too long its parts, which nothing takes for a line."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) > MAX_LINE_BYTES:
            yield line


def read_lines(path: Path) -> Iterator[bytes]:
    """All lines of the audit, the oldest first, without their ends; a last line without one is left out.

    Raises:
        StorageError: a file cannot be read.
    """
    with _translated(f"the audit file {str(path)!a} cannot be read"):
        for each in (*full_files(path), path):
            with _opened_regular(each) as file:
                while line := file.readline(MAX_LINE_BYTES + 2):
                    if not line.endswith(b"\n"):
                        if len(line) <= MAX_LINE_BYTES:
                            break  # is being written just now
                        yield line
                        return
                    yield line[:-1]


def _opened(path: Path, flags: int) -> IO[bytes]:
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _is_act(line: bytes) -> bool:
    # Most lines are about calls, and need not be read to know that. No text in a line holds a quote without a \\.
    if any(kind in line for kind in (b'"kind":"call"', b'"kind":"service"', b'"kind":"end"')):
        return False
    try:
        return retention(read_line(line).record)[0] is Retention.ACT
    except ChainError:
        return False


def _number(full: Path) -> int:
    return int(full.stem.rpartition("-")[2])


def _first_link(path: Path) -> ChainLink | None:
    """The place of the first line of a file; None if it has none."""
    with _opened_regular(path) as file:
        line = next(_lines_of(file), None)
    return None if line is None else link_of(line)


def _continues(full: Path, link: ChainLink | None) -> bool:
    """Whether a line is the one that was written behind a full file."""
    return link is None or _last_digest(full) == link.previous


def _opened_regular(path: Path) -> IO[bytes]:
    """Open a file to read it; never waits for a pipe that somebody has put in its place.

    Raises:
        OSError: it is no regular file, or the kernel says so.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, f"{path.name} is no regular file")
    return file


def _last_digest(path: Path) -> str:
    with _opened_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_LINE_BYTES - 1))
        lines = file.read().split(b"\n")
    return digest_of(lines[-2]) if len(lines) > 1 else ""


def _sync_folder(folder: Path) -> None:
    with closing(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as descriptor:
        os.fsync(descriptor)


def _named(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number:012d}{path.suffix}")
