"""Threads for calls that wait for a disk.

A thread cannot be cancelled. A job whose task is cancelled is therefore waited for: whoever holds a lock around it
keeps the lock until the disk has answered, and nobody closes a descriptor that a thread is using.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mxrtc_bridge.core.file_wire import FileCode
from mxrtc_bridge.sinks.files.failures import FileError, translated

ResultT = TypeVar("ResultT")

DEFAULT_THREADS = 4


class Workers:
    """A bounded pool of threads.

    Jobs beyond the number of threads wait in order; each object that uses the pool has one job at a time, so that
    the queue is as long as the number of open files at most.

    Args:
        threads: how many jobs run at a time.
    """

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mxrtc-files")
        self._closed = False

    async def run(self, job: Callable[[], ResultT]) -> ResultT:
        """Run ``job`` in a thread; returns, or is cancelled, only when it has ended.

        Raises:
            FileError: the job raised it, or an OSError; or this is closed.
        """
        if self._closed:
            raise FileError(FileCode.UNAVAILABLE, "these files are not served any more")
        future = asyncio.get_running_loop().run_in_executor(self._pool, job)
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

    async def drain(self) -> None:
        """Take no more jobs, and wait for those that were taken."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)

    def close(self) -> None:
        """Let the threads end when their jobs have; jobs that have not begun are dropped."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
