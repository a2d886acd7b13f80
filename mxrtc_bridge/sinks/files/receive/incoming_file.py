"""Files under way into a box: the asynchronous side of receiving.

A small file waits in memory until it is whole, and is written and published together with others; that is what makes
thousands of small files quick. A larger one is written as it comes, into a partial file that outlives the session. The
memory for small files has a limit for the whole box; beyond it they are written like large ones.

One publication runs at a time. Those that come meanwhile form the next batch, so that one sync serves them all.

What was verified of a large file is made durable beside the writes, as a disk takes its time for that. One such sync
runs at a time; the next one waits for it, and so does whatever ends the file. One that fails fails the file, as the
system says it once only.

An :class:`IncomingFile` ends by :meth:`~IncomingFile.publish`, :meth:`~IncomingFile.suspend` or
:meth:`~IncomingFile.discard`; whoever began it must call one of them. Its methods may be called at any
time; they run one after the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import Protocol

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.sinks.files.receive.batches import Batches
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFile, PartialFileKey
from mxrtc_bridge.sinks.files.receive.publisher import Publication, Published
from mxrtc_bridge.sinks.files.receive.state_dir import KeptPartial, StateDirectory
from mxrtc_bridge.sinks.files.threads import FileThreads, until_done

log = logging.getLogger(__name__)

SMALL_FILE_BYTES = 64 * 1024
MAX_MEMORY_BYTES = 8 * 1024 * 1024
SYNC_EVERY_BYTES = 32 * CHUNK_BYTES
"""How much is made durable at a time. A power failure may cost twice as much; a killed process loses one chunk."""


class Keeper(Protocol):
    """Keeps the books of a box; is told what a reception took and left."""

    def written(self, size: int) -> None:
        """``size`` bytes of what was announced have come."""
        ...

    def ended(self, reception: IncomingFile, *, kept: int, published: Published | None) -> None:
        """It is over; ``kept`` bytes stay as a partial file."""
        ...

    def suspend_soon(self, reception: IncomingFile) -> None:
        """Suspend it in a task of the keeper's own."""
        ...


class Committer:
    """Publishes in batches, one after the other.

    Args:
        box: to publish into.
        workers: threads.
    """

    def __init__(self, box: StateDirectory, workers: FileThreads) -> None:
        self._box = box
        self._workers = workers
        self.turn = asyncio.Lock()
        """Held by whoever uses the box's ledger or the names in its directories."""
        self.memory_bytes = 0
        """What small files hold at the moment."""
        self._batches = Batches(self._publish)
        self.seldom = RateLimitedLog(log)
        """Writes what each file of the box may make it say."""

    async def publish(self, wanted: Publication) -> Published:
        """Publish; returns when it is on the disk under its name. To be shielded from cancellation by the caller.

        Raises:
            FileError: it was not published.
        """
        return await self._batches.do(wanted)

    async def close(self) -> None:
        """Wait until what was asked for is published."""
        await self._batches.close()

    async def _publish(self, batch: Sequence[Publication]) -> Sequence[Published | FileError]:
        async with self.turn:
            try:
                return await self._workers.run(lambda: self._box.publisher.publish(batch))
            except FileError as error:
                return [error for _ in batch]
            except Exception as error:  # noqa: BLE001 - a mistake of ours must leave nobody waiting for ever
                self.seldom.exception("", "publishing a batch of files failed", error=error)
                return [FileError(FileCode.IO, "the file could not be published") for _ in batch]


class IncomingFile:
    """One file under way. Made by :meth:`mxrtc_bridge.sinks.files.receive.receiver.DirectoryReceiver.begin`.

    Args:
        identity: what is received.
        parts: the checked components of its path.
        box: where it goes.
        workers: threads.
        committer: of the box.
        keeper: of the box.
        before: what an earlier session has left of it.
    """

    def __init__(
        self,
        identity: PartialFileKey,
        parts: tuple[str, ...],
        *,
        box: StateDirectory,
        workers: FileThreads,
        committer: Committer,
        keeper: Keeper,
        before: KeptPartial | None = None,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        self._max_memory_bytes = max_memory_bytes
        self.identity = identity
        self.before = before
        self.offset = 0
        """Where the source is to go on: the end of the last verified chunk."""
        self.restarted = False
        """Something was there, but of another version of the source; it was dropped."""
        self.arrived = 0
        """Bytes that have come, those of earlier sessions included."""
        self._parts = parts
        self._box = box
        self._workers = workers
        self._committer = committer
        self._keeper = keeper
        self._small: bytearray | None = bytearray() if identity.size <= SMALL_FILE_BYTES else None
        self._partial: PartialFile | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._sync_at = SYNC_EVERY_BYTES
        """How much is verified when the next sync is due."""
        self._failure: FileError | None = None
        self.ended = False
        self._turn = asyncio.Lock()

    @property
    def touched(self) -> bool:
        """Whether anything on the disk is another than it was before."""
        return self._partial is not None

    async def take_up(self) -> None:
        """Find what is there already; sets :attr:`offset`.

        Raises:
            FileError: the partial file cannot be used.
        """
        async with self._turn:
            partial = await self._open_partial(resume=True)
            self.offset = partial.offset
            self._sync_at = partial.offset + SYNC_EVERY_BYTES
            self._arrived(partial.offset)

    async def write(self, data: bytes) -> None:
        """Take the next bytes; returns when they take no memory any more, or little.

        Raises:
            FileError: more came than was announced, or the disk does not take them.
        """
        async with self._turn:
            self._check()
            try:
                if self._small is None or not await self._keep_small(self._small, data):
                    partial = await self._open_partial()
                    await self._workers.run(lambda: partial.write(data))
                self._arrived(len(data))
            except FileError as error:
                self._failure = error
                raise

    async def verify_chunk(self, number: int, digest: str) -> None:
        """Compare a full chunk with its SHA-256; from now on it is kept whatever happens.

        Args:
            number: from 0.
            digest: in hexadecimal.

        Raises:
            FileError: it differs, or the disk does not take it.
        """
        async with self._turn:
            self._check()
            partial = self._partial
            try:
                if partial is None:
                    self._verify_small(number, digest)
                else:
                    expected = _digest_bytes(digest)
                    await self._workers.run(lambda: partial.verify_chunk(number, expected))
                    if partial.verified >= self._sync_at:
                        await self._synced()
                        self._sync_at = partial.verified + SYNC_EVERY_BYTES
                        self._syncing = asyncio.create_task(self._sync(partial), name="sync of a file")
            except FileError as error:
                self._failure = error
                raise

    async def publish(self, digest: str) -> Published:
        """Give the file its name; returns when that is on the disk.

        Args:
            digest: SHA-256 of the whole file, in hexadecimal.

        Raises:
            FileError: it was not published. What was verified is kept if that is of use.
        """
        async with self._turn:
            await self._synced()
            self._check()
            if self._small is None:
                await self._open_partial()  # a file that is empty and large: announced large, then nothing
            data = bytes(self._small) if self._small is not None else None
            wanted = Publication(self.identity, self._parts, digest, data=data, partial=self._partial)
            task = asyncio.ensure_future(self._committer.publish(wanted))
            cancelled = await until_done(task)
            error = task.exception()
            if error is None:
                self._end(kept=0, published=task.result())
            elif isinstance(error, FileError):
                await self._end_early(worthless=error.code is FileCode.INTEGRITY)
            if cancelled:
                raise asyncio.CancelledError
            return task.result()

    async def suspend(self) -> None:
        """Stop for now: what is verified is kept. Does nothing once it has ended."""
        async with self._turn:
            if not self.ended:
                await self._end_early()

    def abandon(self) -> None:
        """Suspend, without waiting for it: whoever received has no time left, or is being cancelled itself."""
        if not self.ended:
            self._keeper.suspend_soon(self)

    async def discard(self) -> None:
        """Stop for good: nothing is kept. Does nothing once it has ended."""
        async with self._turn:
            if not self.ended:
                await self._synced()
                await self._drop()

    async def take_over(self) -> None:
        """Stop because the same file is now received by somebody else; its owner learns it at the next step."""
        await self.suspend()
        self._failure = FileError(FileCode.INTERRUPTED, "a newer transfer of the same file goes on with it")

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.ended:
            raise FileError(FileCode.INTERRUPTED, "the file is not being received any more")

    async def _open_partial(self, *, resume: bool = False) -> PartialFile:
        if self._partial is None:
            await self._workers.run(lambda: self._open_partial_now(resume=resume))
        assert self._partial is not None
        return self._partial

    def _open_partial_now(self, *, resume: bool) -> None:
        # Kept by the thread itself: the task that waits for it may be cancelled, and then nobody takes a result.
        self._partial = PartialFile(self._box.partials, self.identity, resume=resume)

    async def _sync(self, partial: PartialFile) -> None:
        try:
            await self._workers.run(partial.sync)
        except FileError as error:
            self._failure = error

    async def _synced(self) -> None:
        """Wait for the end of the last sync; no thread uses the partial file then."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None and await until_done(syncing):
            raise asyncio.CancelledError

    def _arrived(self, size: int) -> None:
        self.arrived += size
        self._keeper.written(size)

    async def _keep_small(self, held: bytearray, data: bytes) -> bool:
        """Keep ``data`` in memory; if there is no room, put what was kept on the disk and return False."""
        if len(held) + len(data) > self.identity.size:
            raise FileError(FileCode.VIOLATION, f"more than the announced {self.identity.size} bytes came")
        if self._committer.memory_bytes + len(data) <= self._max_memory_bytes:
            held += data
            self._committer.memory_bytes += len(data)
            return True
        partial = await self._open_partial()
        await self._workers.run(lambda: partial.write(bytes(held)))
        self._forget_small()
        return False

    def _verify_small(self, number: int, digest: str) -> None:
        if number or self._small is None or len(self._small) != self.identity.size:
            raise FileError(FileCode.VIOLATION, f"chunk {number} was named out of its turn")
        if hashlib.sha256(self._small).hexdigest() != digest:
            raise FileError(FileCode.INTEGRITY, "chunk 0 is not what the source sent (SHA-256 differs)")

    async def _end_early(self, *, worthless: bool = False) -> None:
        """End without having been published."""
        await self._synced()
        partial = self._partial
        if partial is None or not partial.verified or worthless:
            await self._drop()
            return
        try:
            await self._workers.run(partial.sync)
        except FileError as error:
            self._committer.seldom.warning(str(error), "a partial file could not be synced: %s", error)
        partial.close()
        self._end(kept=partial.verified, published=None)

    async def _drop(self) -> None:
        if self._partial is not None:
            partial = self._partial
            try:
                await self._workers.run(partial.discard)
            except FileError as error:
                self._committer.seldom.warning(str(error), "a partial file could not be removed: %s", error)
            partial.close()
        self._end(kept=0, published=None)

    def _end(self, *, kept: int, published: Published | None) -> None:
        self.ended = True
        self._forget_small()
        self._keeper.ended(self, kept=kept, published=published)

    def _forget_small(self) -> None:
        if self._small is not None:
            self._committer.memory_bytes -= len(self._small)
            self._small = None


def _digest_bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return b""
