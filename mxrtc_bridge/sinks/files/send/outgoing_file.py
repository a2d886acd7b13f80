"""A file that is being sent: read in order, hashed from its first byte on, and watched for changes.

The version of a file is made of its size, inode and times of modification and change, as an opaque token. It is
compared after each read: bytes that were read before a change and bytes that were read after it never become one file.
What this cannot see is a program that writes into the file within the resolution of the file system's clock and leaves
the size as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.sinks.files.receive.partial_file import hash_range
from mxrtc_bridge.sinks.files.threads import FileThreads

MAX_READ_BYTES = 1024 * 1024
_VERSION_CHARS = 24


def version_of(status: os.stat_result) -> str:
    """Return a token that is another one when the file has changed, the same in every session until then."""
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:_VERSION_CHARS]


class OutgoingFile:
    """An open file. Its methods run one after the other; :meth:`close` must be called in the end.

    Args:
        descriptor: open for reading; owned from now on.
        version: that was announced.
        size: that was announced.
        workers: threads.
    """

    def __init__(self, descriptor: int, version: str, size: int, workers: FileThreads) -> None:
        self.version = version
        self.size = size
        self.offset = 0
        """Of the next byte to be read."""
        self._descriptor = descriptor
        self._workers = workers
        self._hash = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._chunk_digest = ""
        self._turn = asyncio.Lock()

    async def skip(self, offset: int) -> None:
        """Go forward to ``offset``; what lies before it is only hashed.

        Raises:
            FileError: ``changed``, ``io``; or ``violation`` if that is behind the end or before the present place.
        """
        async with self._turn:
            if not self.offset <= offset <= self.size:
                raise FileError(FileCode.VIOLATION, f"offset {offset} is not in the file")
            if offset == self.offset:
                return  # Nothing to be hashed; the next read looks whether the file is the same.
            await self._workers.run(lambda: self._skip(offset))

    async def read(self, size: int) -> bytes:
        """Return the next bytes: as many as asked for (1 MiB at most), fewer only at the end of the file.

        Raises:
            FileError: ``changed`` if the file is not the announced version any more, ``io``.
        """
        async with self._turn:
            return await self._workers.run(lambda: self._read(min(size, MAX_READ_BYTES)))

    def digest(self) -> str:
        """Return the SHA-256 of all that was read or skipped so far, in hexadecimal."""
        return self._hash.hexdigest()

    def chunk_digest(self) -> str:
        """Return the SHA-256 of the chunk that ends at :attr:`offset`, in hexadecimal; empty if none does.

        Known where reading began at the beginning of the chunk, and no read went beyond its end.
        """
        return self._chunk_digest

    @property
    def at_end(self) -> bool:
        return self.offset == self.size

    async def close(self) -> None:
        """Close, after the call that may be running."""
        async with self._turn:
            self.close_now()

    def close_now(self) -> None:
        """Close; only for who knows that no other call is running."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _skip(self, offset: int) -> None:
        # In pieces, so that a change is noticed before gigabytes are hashed for nothing.
        while self.offset < offset:
            self._check()
            size = min(64 * MAX_READ_BYTES, offset - self.offset)
            hash_range(self._descriptor, self.offset, size, self._hash.update)
            self.offset += size
        self._check()

    def _read(self, size: int) -> bytes:
        if self._descriptor < 0:
            raise FileError(FileCode.INTERRUPTED, "the file was closed")
        wanted = min(size, self.size - self.offset)
        pieces: list[bytes] = []
        self._chunk_digest = ""
        while wanted:
            piece = os.pread(self._descriptor, wanted, self.offset)
            if not piece:
                break
            self._hash.update(piece)
            # A file of one chunk has no digest but its own.
            if self.size > CHUNK_BYTES:
                self._chunk.update(piece)
            self.offset += len(piece)
            wanted -= len(piece)
            pieces.append(piece)
        # Afterwards, so that it vouches for what was just read; a file that has shrunk is caught here as well.
        self._check()
        if self.offset % CHUNK_BYTES == 0 and pieces:
            self._chunk_digest = self._chunk.hexdigest()
            self._chunk = hashlib.sha256()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check(self) -> None:
        if self._descriptor < 0:
            raise FileError(FileCode.INTERRUPTED, "the file was closed")
        if version_of(os.fstat(self._descriptor)) != self.version:
            raise FileError(FileCode.CHANGED, "the file was changed while it was being sent; send it again")


async def opened(source: OutgoingFile, offset: int) -> OutgoingFile:
    """Return ``source`` at ``offset``; closes it if that fails."""
    try:
        await source.skip(offset)
    except BaseException:
        with contextlib.suppress(asyncio.CancelledError):
            await source.close()
        raise
    return source
