"""What a transfer needs from the file system, as small protocols.

Each has two real users: the bridge (drop boxes and shares) and the ``mxrtc`` client (what the command line names). All
methods raise :class:`~mxrtc_bridge.core.files.messages.FileError` and nothing else; its text may be told to the other
side. A coroutine that is cancelled returns only when the disk has answered, so that nothing is closed under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.files.events import Failure, Held
from mxrtc_bridge.core.files.messages import FileEntry, Get, Ls


class FileWalk(Protocol):
    """Finds what there is, parents before their children."""

    @property
    def hidden(self) -> int:
        """Names that begin with a dot and are not offered for that, so far."""
        ...

    async def next(self, limit: int) -> Sequence[FileEntry | Failure]:
        """About ``limit`` more; nothing is the end. Not called again before it has returned."""
        ...


class FileReader(Protocol):
    """A file that is being sent."""

    @property
    def at_end(self) -> bool:
        """Whether the announced size is reached."""
        ...

    @property
    def grown_to(self) -> int:
        """The size that the file has by now, if that is more than was announced; otherwise 0."""
        ...

    async def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``; fewer only at the end."""
        ...

    def digest(self) -> str:
        """SHA-256 of everything up to here, from the first byte on, in hexadecimal."""
        ...

    def chunk_digest(self) -> str:
        """SHA-256 of the chunk that ends here, in hexadecimal; empty if none does."""
        ...

    def close_now(self) -> None:
        """Close; no call is running."""
        ...


@runtime_checkable
class FileSource(Protocol):
    """What is given in one job."""

    def walk(self) -> FileWalk: ...

    async def open_file(self, entry: FileEntry, offset: int = 0) -> FileReader:
        """Open what the walk has found; the bytes before ``offset`` are only hashed."""
        ...


class PublishedFile(Protocol):
    """A file that has its name."""

    @property
    def name(self) -> str: ...


class FileWriter(Protocol):
    """A file that is being received."""

    @property
    def offset(self) -> int:
        """Where the source is to go on."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def verify_chunk(self, number: int, digest: str) -> None: ...

    async def publish(self, digest: str) -> PublishedFile: ...

    def abandon(self) -> None:
        """Stop, and keep what is verified, without waiting for that; harmless after the end. No call is running."""
        ...


@runtime_checkable
class FileReceiver(Protocol):
    """Where the files of one job go."""

    async def begin(self, entry: FileEntry) -> FileWriter | Held:
        """Judge an entry, and be ready for its bytes; Held if none are needed."""
        ...


Lister = Callable[[FileEntry], None]
"""Shows one entry of a listing; must not block and not raise."""


class UserFileServices(Protocol):
    """The bridge's files, for one user."""

    async def source(self, target: FilesTarget, job: Get | Ls) -> FileSource:
        """What there is for ``job``."""
        ...

    def receiver(self, target: FilesTarget) -> FileReceiver:
        """Where files of the user go."""
        ...
