"""A file that is being sent: read in order, hashed from its first byte on, and watched for changes.

The version of a file is made of its size, inode and times of modification and change, as an opaque token. It is
compared after each read: bytes that were read before a change and bytes that were read after it never become one file.
What this cannot see is a program that writes into the file within the resolution of the file system's clock and leaves
the size as it was.

A file that has only grown, as logs do, is sent up to the length that was announced. Its attributes do not say what else
was done to it, so that part is read a second time at the end: if both times gave the same bytes, they are what the file
had at some moment between the two.

A size may lie. procfs says 0 and has content, sysfs says a page and has a word, a network file system remembers what
was: whoever reads less than the size, or one byte beyond it, knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from functools import partial

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.sinks.files.receive.partial_file import hash_range
from mxrtc_bridge.sinks.files.threads import FileThreads
from mxrtc_bridge.system import files

MAX_READ_BYTES = 1024 * 1024
_HASH_BYTES = 64 * MAX_READ_BYTES
"""That are hashed in one go, so that a change is noticed before gigabytes are hashed for nothing."""
_VERSION_CHARS = 24


def version_of(status: os.stat_result) -> str:
    """Return a token that is another one when the file has changed, the same in every session until then."""
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:_VERSION_CHARS]


def inode_of(status: os.stat_result) -> str:
    """Return what a file is known by whatever it has become."""
    return f"{status.st_dev}:{status.st_ino}"


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
        self.grown_to = 0
        """The size that the file was last seen with, if that is more than was announced; otherwise 0."""
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
            while self.offset < offset:
                await self._workers.run(lambda: self._skip(min(offset, self.offset + _HASH_BYTES)))
            await self._compare_again()

    async def read(self, size: int) -> bytes:
        """Return the next bytes: as many as asked for (1 MiB at most), fewer only at the end of the file.

        Raises:
            FileError: ``changed`` if the file is not the announced version any more, ``io``.
        """
        async with self._turn:
            data = await self._workers.run(lambda: self._read(min(size, MAX_READ_BYTES)))
            await self._compare_again()
            return data

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

    def check(self) -> None:
        """Find out whether the file is still what was announced, or has only grown. Blocks.

        Raises:
            FileError: ``changed``.
        """
        if self._descriptor < 0:
            raise FileError(FileCode.INTERRUPTED, "the file was closed")
        # Before the attributes are asked: what grows between the two questions has grown, and does not lie.
        beyond = files.pread(self._descriptor, 1, self.size) if self.at_end else b""
        status = os.fstat(self._descriptor)
        if beyond and status.st_size <= self.size:
            raise FileError(
                FileCode.IO,
                f"it has more than the {self.size} bytes that its size says, as files in /proc do; send what a "
                "program reads from it: cat FILE | mxrtc send - PEER --name NAME",
            )
        if version_of(status) == self.version:
            return
        if status.st_size <= self.size:
            raise FileError(FileCode.CHANGED, "the file was changed since it was listed; try again")
        self.grown_to = status.st_size

    def _skip(self, offset: int) -> None:
        self.check()
        read = 0

        def take(piece: bytes) -> None:
            nonlocal read
            self._hash.update(piece)
            read += len(piece)

        hash_range(self._descriptor, self.offset, offset - self.offset, take)
        self._move(read, offset - self.offset)

    def _move(self, read: int, wanted: int) -> None:
        """Go on by what was read, if it is what was wanted and the file has stayed as it was."""
        self.offset += read
        # Afterwards, so that it vouches for what was just read.
        self.check()
        if read < wanted:
            raise FileError(
                FileCode.IO,
                f"it ends after {self.offset} bytes, and its size says {self.size}, as files in /sys do; send what a "
                "program reads from it: cat FILE | mxrtc send - PEER --name NAME",
            )

    async def _compare_again(self) -> None:
        """At the end of a file that has grown: read what was announced once more."""
        if not self.at_end or not self.grown_to:
            return
        again = hashlib.sha256()
        for at in range(0, self.size, _HASH_BYTES):
            size = min(_HASH_BYTES, self.size - at)
            await self._workers.run(partial(hash_range, self._descriptor, at, size, again.update))
        await self._workers.run(self.check)
        if again.digest() != self._hash.digest():
            raise FileError(FileCode.CHANGED, "the file was rewritten while it was being sent; try again")

    def _read(self, size: int) -> bytes:
        if self._descriptor < 0:
            raise FileError(FileCode.INTERRUPTED, "the file was closed")
        wanted = min(size, self.size - self.offset)
        pieces: list[bytes] = []
        self._chunk_digest = ""
        got = 0
        while got < wanted:
            piece = files.pread(self._descriptor, wanted - got, self.offset + got)
            if not piece:
                break
            self._hash.update(piece)
            # A file of one chunk has no digest but its own.
            if self.size > CHUNK_BYTES:
                self._chunk.update(piece)
            got += len(piece)
            pieces.append(piece)
        self._move(got, wanted)
        if self.offset % CHUNK_BYTES == 0 and pieces:
            self._chunk_digest = self._chunk.hexdigest()
            self._chunk = hashlib.sha256()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def opened(source: OutgoingFile, offset: int) -> OutgoingFile:
    """Return ``source`` at ``offset``; closes it if that fails."""
    try:
        await source.skip(offset)
    except BaseException:
        with contextlib.suppress(asyncio.CancelledError):
            await source.close()
        raise
    return source
