"""The disk's part of a transfer: effects of the machine become calls of the file side, and their outcomes events.

Each file has a queue of its own, and a task while there is something in it: the operations of one file are done in
order, those of different files at the same time. The queues hold what the machine has asked for and no more, and the
machine asks for no more than the credit and the limits of the protocol allow.

:class:`SourceExecutor` and :class:`ReceiverExecutor` know the file side; :class:`FileWork` knows the order. What is
open is let go at once when nobody works on it, else by whoever does, so that the end of a session leaves nothing behind
even if it cancels every task.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import FileCode, FileEntry, FileError, Get, Job, Ls, Put
from mxrtc_bridge.engine.file_ports import FileReader, FileReceiver, FileSource, FileWalk, FileWriter, Lister
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)
_SELDOM = RateLimitedLog(log)
"""Of all transfers, as each of them is an object of its own."""

LISTING = -1
"""The index of what concerns no file."""
MAX_WRITE_BYTES = 1024 * 1024
"""Up to here, writes that stand together become one."""

Spawn = Callable[[Coroutine[None, None, None]], None]


class FileExecutor(ABC):
    """Carries out operations; one at a time for each file."""

    @abstractmethod
    async def do(self, operations: Sequence[tx.Operation]) -> Sequence[tx.Outcome]:
        """Carry out an operation, or writes that stand together.

        Raises:
            FileError: the file cannot go on.
        """

    @abstractmethod
    def let_go(self, index: int) -> None:
        """Close a file that nobody works on, if it is open."""

    @abstractmethod
    def open_files(self) -> tuple[int, ...]:
        """What is open at the moment."""


class FileWork:
    """The operations that wait, and who carries them out.

    Args:
        executor: carries them out.
        spawn: starts a task that somebody owns.
        report: told each outcome.
    """

    def __init__(self, executor: FileExecutor, *, spawn: Spawn, report: Callable[[tx.Outcome], None]) -> None:
        self._executor = executor
        self._spawn = spawn
        self._report = report
        self._queues: dict[int, deque[tx.Operation]] = {}
        self._active: set[int] = set()
        self._dropped: set[int] = set()
        """Of the active ones: to be let go as soon as they are not."""
        self._closed = False

    def add(self, operation: tx.Operation) -> None:
        """Carry out ``operation`` after the others for the same file."""
        if self._closed:
            return
        index = LISTING if isinstance(operation, tx.ListNext) else operation.index
        queue = self._queues.get(index)
        if queue is not None:
            queue.append(operation)
            return
        self._queues[index] = deque([operation])
        self._spawn(self._work(index))

    def drop(self, index: int) -> None:
        """Forget what waits for a file, and close it."""
        if index in self._queues:
            self._queues[index].clear()
        if index in self._active:
            self._dropped.add(index)
        else:
            self._executor.let_go(index)

    def close(self) -> None:
        """Drop everything; no outcome is reported any more."""
        self._closed = True
        for index in {*self._queues, *self._executor.open_files()}:
            self.drop(index)

    async def _work(self, index: int) -> None:
        queue = self._queues[index]
        try:
            while queue:
                for outcome in await self._outcomes(index, _next_batch(queue)):
                    if isinstance(outcome, tx.FileFailed):
                        queue.clear()
                    if not self._closed:
                        self._report(outcome)
        finally:
            del self._queues[index]

    async def _outcomes(self, index: int, batch: Sequence[tx.Operation]) -> Sequence[tx.Outcome]:
        self._active.add(index)
        done = False
        try:
            outcomes = await self._executor.do(batch)
            done = True
        except FileError as error:
            return [_failed(index, error.code, str(error))]
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this file, and neither the transfer nor the session
            what = type(batch[0]).__name__
            _SELDOM.exception(what, "! %s failed", what, error=error)
            return [_failed(index, FileCode.IO, "the file could not be read or written")]
        finally:
            self._active.discard(index)
            if not done or index in self._dropped:
                self._dropped.discard(index)
                self._executor.let_go(index)
        return outcomes


def _failed(index: int, code: FileCode, message: str) -> tx.Outcome:
    return tx.ListFailed(code, message) if index == LISTING else tx.FileFailed(index, code, message)


def _next_batch(queue: deque[tx.Operation]) -> list[tx.Operation]:
    """Take the next operation; with it the writes that follow a write."""
    batch = [queue.popleft()]
    first = batch[0]
    if isinstance(first, tx.WriteData):
        size = len(first.data)
        while (
            queue and isinstance(following := queue[0], tx.WriteData) and size + len(following.data) <= MAX_WRITE_BYTES
        ):
            size += len(following.data)
            batch.append(queue.popleft())
    return batch


class SourceExecutor(FileExecutor):
    """Lists and reads.

    Args:
        files: what there is.
    """

    def __init__(self, files: FileSource) -> None:
        self._files = files
        self._walk: FileWalk | None = None
        self._found: deque[FileEntry | tx.Failure] = deque()
        """Found beyond what was asked for: a step of a walk may find two things."""
        self._readers: dict[int, FileReader] = {}

    async def do(self, operations: Sequence[tx.Operation]) -> Sequence[tx.Outcome]:
        match operations[0]:
            case tx.ListNext(limit=limit):
                return [await self._list(limit)]
            case tx.OpenFile(index=index, entry=entry, offset=offset, size=size):
                self._readers[index] = await self._files.open_file(entry, offset)
                return [await self._read(index, size)]
            case tx.ReadFile(index=index, size=size):
                return [await self._read(index, size)]
        raise AssertionError(operations)

    def let_go(self, index: int) -> None:
        reader = self._readers.pop(index, None)
        if reader is not None:
            reader.close_now()

    def open_files(self) -> tuple[int, ...]:
        return tuple(self._readers)

    async def _list(self, limit: int) -> tx.EntriesListed:
        if self._walk is None:
            self._walk = self._files.walk()
        if not self._found:
            self._found.extend(await self._walk.next(limit))
        end = not self._found
        taken = [self._found.popleft() for _ in range(min(limit, len(self._found)))]
        return tx.EntriesListed(
            tuple(found for found in taken if isinstance(found, FileEntry)),
            end,
            self._walk.hidden if end else 0,
            tuple(found for found in taken if not isinstance(found, FileEntry)),
        )

    async def _read(self, index: int, size: int) -> tx.FileRead:
        reader = self._readers[index]
        data = await reader.read(size) if size else b""
        if not reader.at_end:
            return tx.FileRead(index, data, chunk_sha256=reader.chunk_digest())
        digest, grown_to = reader.digest(), reader.grown_to
        self.let_go(index)
        return tx.FileRead(index, data, digest, grown_to=grown_to)


class ReceiverExecutor(FileExecutor):
    """Judges, writes, verifies and publishes.

    Args:
        files: where they go.
    """

    def __init__(self, files: FileReceiver) -> None:
        self._files = files
        self._writers: dict[int, FileWriter] = {}

    async def do(self, operations: Sequence[tx.Operation]) -> Sequence[tx.Outcome]:
        match operations[0]:
            case tx.CheckEntry(index=index, entry=entry):
                return [tx.EntryChecked(index, await self._check(index, entry))]
            case tx.WriteData(index=index):
                return await self._write(index, [step for step in operations if isinstance(step, tx.WriteData)])
            case tx.VerifyChunk(index=index, number=number, sha256=digest):
                await self._writers[index].verify_chunk(number, digest)
                return []
            case tx.PublishFile(index=index, sha256=digest):
                published = await self._writers[index].publish(digest)
                del self._writers[index]
                return [tx.FilePublished(index, published.name)]
        raise AssertionError(operations)

    def let_go(self, index: int) -> None:
        writer = self._writers.pop(index, None)
        if writer is not None:
            writer.abandon()

    def open_files(self) -> tuple[int, ...]:
        return tuple(self._writers)

    async def _check(self, index: int, entry: FileEntry) -> tx.Verdict:
        try:
            begun = await self._files.begin(entry)
        except FileError as error:
            return tx.ReceiveRefused(error.code, str(error))
        if isinstance(begun, tx.Held):
            return begun
        self._writers[index] = begun
        return tx.FileWanted(begun.offset)

    async def _write(self, index: int, steps: Sequence[tx.WriteData]) -> Sequence[tx.Outcome]:
        data = steps[0].data if len(steps) == 1 else b"".join(step.data for step in steps)
        await self._writers[index].write(data)
        return [tx.DataWritten(index, len(step.data)) for step in steps]


def executor_for(job: Job, files: FileSource | FileReceiver | Lister) -> FileExecutor | Lister:
    """Return what the opener of a channel for ``job`` needs, made of what it was given.

    Raises:
        StateError: the job cannot be done with that.
    """
    match job:
        case Put() if isinstance(files, FileSource):
            return SourceExecutor(files)
        case Get() if isinstance(files, FileReceiver):
            return ReceiverExecutor(files)
        case Ls() if callable(files):
            return files
    raise StateError(f"{type(files).__name__} is of no use for {type(job).__name__.lower()}")
