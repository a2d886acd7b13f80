"""The audit as a file: lines that are only ever appended, and are on the disk before anybody goes on.

When the file has reached its size it is given the number of its last line and a new one is begun; the chain goes on.
Whatever cannot be written completely is taken back, so that the file always ends with a whole line.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mxrtc_bridge.core.audit import MAX_LINE_BYTES, ChainError, Entry, Head, read_line
from mxrtc_bridge.core.errors import StorageError

TAIL_LINES = 1000
"""As many lines can be missing in the database after a crash; more than are written together."""


class AuditFile:
    """The open file. Every method blocks: call it in a thread, one at a time."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        """Open or make the file, and cut off a line that was not written to its end.

        Args:
            path: where.
            max_bytes: size at which a new file is begun.
            keep: full files that are kept.

        Raises:
            StorageError: it cannot be used.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1
        try:
            self._open()
            self._cut_half_line()
        except OSError as error:
            self.close()
            raise StorageError(f"the audit file {str(path)!a} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def tail(self) -> list[Entry]:
        """The last lines, oldest first; ends before a line that cannot be read.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            size = os.fstat(self._descriptor).st_size
            start = max(0, size - TAIL_LINES * MAX_LINE_BYTES)
            data = os.pread(self._descriptor, size - start, start)
        except OSError as error:
            raise StorageError(f"the audit file cannot be read: {error.strerror}") from error
        lines = data.split(b"\n")[1 if start else 0 : -1]
        entries: list[Entry] = []
        for line in reversed(lines[-TAIL_LINES:]):
            try:
                entries.append(read_line(line))
            except ChainError:
                break
        return entries[::-1]

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
            before = os.fstat(self._descriptor).st_size
            if before and before + len(data) > self._max_bytes:
                self._begin_new(last.number - len(lines))
                before = 0
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            if before >= 0:
                self.take_back(before)
            raise StorageError(f"the audit file cannot be written: {error.strerror}") from error
        return before

    def take_back(self, size: int) -> None:
        """Make the file as long as it was before lines that do not count."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, size)
            os.fdatasync(self._descriptor)

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
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        for gone in full_files(self._path)[: -self._keep or None]:
            gone.unlink(missing_ok=True)


def full_files(path: Path) -> list[Path]:
    """The files that were full, oldest first."""
    form = re.compile(rf"{re.escape(path.stem)}-(\d{{12,}}){re.escape(path.suffix)}")
    return sorted(each for each in path.parent.iterdir() if form.fullmatch(each.name))


def read_lines(path: Path) -> Iterator[bytes]:
    """All lines of the audit, the oldest first, without their ends; a last line without one is left out.

    Raises:
        StorageError: a file cannot be read.
    """
    try:
        for each in (*full_files(path), path):
            with each.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 2):
                    if not line.endswith(b"\n"):
                        if len(line) <= MAX_LINE_BYTES:
                            break  # is being written just now
                        yield line
                        return
                    yield line[:-1]
    except OSError as error:
        raise StorageError(f"the audit file {str(path)!a} cannot be read: {error.strerror}") from error


def _named(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number:012d}{path.suffix}")
