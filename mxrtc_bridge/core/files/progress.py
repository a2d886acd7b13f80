"""The books of a transfer: what was announced, what is done, what failed and why.

Counts only; bounded whatever the other side announces.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry

MAX_FAILURES = 100
"""Failures that are kept with their reasons; of the others only the number is known."""


@dataclass(slots=True)
class Tally:
    """The mutable twin of :class:`~mxrtc_bridge.core.files.events.Progress`."""

    files: int = 0
    directories: int = 0
    size: int = 0
    listed: bool = False
    files_done: int = 0
    directories_done: int = 0
    bytes_done: int = 0
    bytes_kept: int = 0
    failed: int = 0
    failures: list[tx.Failure] = field(default_factory=list)
    current: str = ""

    @property
    def entries(self) -> int:
        return self.files + self.directories

    def announce(self, entry: FileEntry) -> None:
        if entry.kind is EntryKind.FILE:
            self.files += 1
            self.size += entry.size
        else:
            self.directories += 1

    def resume(self, offset: int) -> None:
        """The receiver has the first ``offset`` bytes of a file."""
        self.bytes_done += offset
        self.bytes_kept += offset

    def done(self, entry: FileEntry, *, kept: bool) -> None:
        """An entry is where it should be; its bytes were counted as they moved, unless it was there before."""
        if entry.kind is EntryKind.DIRECTORY:
            self.directories_done += 1
            return
        self.files_done += 1
        if kept:
            self.resume(entry.size)

    def fail(self, path: str, code: FileCode, message: str, *, moved: int = 0, kept: int = 0) -> None:
        """An entry was not transferred; ``moved`` bytes of it were counted as done, ``kept`` of them as kept."""
        self.bytes_done -= moved
        self.bytes_kept -= kept
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(tx.Failure(path, code, message))

    def value(self) -> tx.Progress:
        return tx.Progress(
            files=self.files,
            directories=self.directories,
            size=self.size,
            listed=self.listed,
            files_done=self.files_done,
            directories_done=self.directories_done,
            bytes_done=self.bytes_done,
            bytes_kept=self.bytes_kept,
            failed=self.failed,
            failures=tuple(self.failures),
            current=self.current,
        )
