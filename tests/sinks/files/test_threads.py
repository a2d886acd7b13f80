"""Threads for disks: what a disk that hangs may cost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mxrtc_bridge.core.files.messages import FileError
from mxrtc_bridge.sinks.files.threads import FileThreads


async def test_disk_that_hangs_takes_no_more_jobs() -> None:
    answers, workers = threading.Event(), FileThreads(2, hangs_s=0.05)
    jobs = [asyncio.create_task(workers.run(lambda: answers.wait(20)))]
    await asyncio.sleep(0.1)
    assert await workers.run(lambda: 7) == 7, "one thread is free"
    jobs.append(asyncio.create_task(workers.run(lambda: answers.wait(20))))
    await asyncio.sleep(0.1)
    with pytest.raises(FileError, match="does not answer"):
        await workers.run(lambda: 7)
    answers.set()
    await asyncio.gather(*jobs)
    assert await workers.run(lambda: 7) == 7, "it answers again"
    await workers.drain()


async def test_waiting_for_the_last_jobs_takes_no_thread_of_the_loop() -> None:
    answers = threading.Event()
    pools = [FileThreads(1) for _ in range(64)]
    jobs = [asyncio.create_task(pool.run(lambda: answers.wait(20))) for pool in pools]
    await asyncio.sleep(0)
    drains = [asyncio.create_task(pool.drain()) for pool in pools]
    await asyncio.sleep(0)
    try:
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 2) == 7
    finally:
        answers.set()
    await asyncio.gather(*jobs, *drains)
