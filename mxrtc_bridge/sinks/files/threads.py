"""Threads for calls that wait for a disk.

A thread cannot be cancelled. A job whose task is cancelled is therefore waited for: whoever holds a lock around it
keeps the lock until the disk has answered, and nobody closes a descriptor that a thread is using.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files.os_errors import translated

ResultT = TypeVar("ResultT")

DEFAULT_THREADS = 4
HANGS_S = 30.0
"""A disk that has answered nothing for this time is taken for one that hangs."""


class FileThreads:
    """A bounded pool of threads.

    Jobs beyond the number of threads wait in order; each object that uses the pool has one job at a time, so that
    the queue is as long as the number of open files at most. A disk that hangs takes no more jobs: where all threads
    are busy and none has come back for :data:`HANGS_S`, the next job is refused.

    Args:
        threads: how many jobs run at a time.
    """

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mxrtc-files")
        self._closed = False
        self._threads = threads
        self._jobs: set[asyncio.Future[Any]] = set()
        self._moved_at = 0.0

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
        loop = asyncio.get_running_loop()
        if not self._jobs:
            self._moved_at = loop.time()
        elif not always and len(self._jobs) >= self._threads and loop.time() - self._moved_at > HANGS_S:
            raise FileError(FileCode.UNAVAILABLE, "the disk does not answer at the moment")
        future = loop.run_in_executor(self._pool, job)
        self._jobs.add(future)
        future.add_done_callback(self._job_ended)
        cancelled = False
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            future.exception()  # looked at, so that nobody complains that it was not
            raise asyncio.CancelledError
        try:
            return future.result()
        except OSError as error:
            raise translated(error) from error

    def _job_ended(self, future: asyncio.Future[Any]) -> None:
        self._jobs.discard(future)
        self._moved_at = asyncio.get_running_loop().time()

    async def drain(self) -> None:
        """Take no more jobs, and wait for those that were taken."""
        self._closed = True
        # Not by a thread of the loop's: it would be lost to everybody else as long as the disk does not answer.
        while self._jobs:
            await asyncio.wait(self._jobs)
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Let the threads end when their jobs have; jobs that have not begun are dropped."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
