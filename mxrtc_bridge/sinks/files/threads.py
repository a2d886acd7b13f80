"""Threads for calls that wait for a disk.

A thread cannot be cancelled. A job whose task is cancelled is therefore waited for: whoever holds a lock around it
keeps the lock until the disk has answered, and nobody closes a descriptor that a thread is using.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.engine.outside import HANGS_S, TargetThreads
from mxrtc_bridge.sinks.files.os_errors import translated

ResultT = TypeVar("ResultT")

DEFAULT_THREADS = 4


async def until_done(future: asyncio.Future[Any]) -> bool:
    """Wait for the end of what must not be left alone, even if we are cancelled; returns whether we were."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


class FileThreads:
    """A bounded pool of threads.

    Jobs beyond the number of threads wait in order; each object that uses the pool has one job at a time, and perhaps a
    sync beside it, so that the queue is twice as long as the number of open files at most. A disk that hangs takes no
    more jobs: where all threads are busy and none has come back for ``hangs_s``, the next job is refused.

    Args:
        threads: how many jobs run at a time.
        hangs_s: see :data:`mxrtc_bridge.engine.outside.HANGS_S`.
    """

    def __init__(self, threads: int = DEFAULT_THREADS, hangs_s: float = HANGS_S) -> None:
        self._threads = TargetThreads("files", threads, hangs_s)
        self._closed = False

    async def run(self, job: Callable[[], ResultT], *, always: bool = False) -> ResultT:
        """Run ``job`` in a thread; returns, or is cancelled, only when it has ended.

        Args:
            job: blocks.
            always: wait also for a disk that hangs: this lets go of something, and is done once.

        Raises:
            FileError: the job raised it, or an OSError; this is closed, or the disk hangs.
        """
        if self._closed:
            raise FileError(FileCode.UNAVAILABLE, "these files are not served any more")
        if not always and self._threads.hang:
            raise FileError(FileCode.UNAVAILABLE, "the disk does not answer at the moment")
        future = self._threads.run(job, always=True)
        if await until_done(future):
            future.exception()  # looked at, so that nobody complains that it was not
            raise asyncio.CancelledError
        try:
            return future.result()
        except OSError as error:
            raise translated(error) from error

    async def drain(self) -> None:
        """Take no more jobs, and wait for those that were taken."""
        self._closed = True
        while jobs := self._threads.jobs:
            await asyncio.wait(jobs)
        self._threads.close()

    def close(self) -> None:
        """Let the threads end when their jobs have; jobs that have not begun are dropped."""
        self._closed = True
        self._threads.close(drop=True)
