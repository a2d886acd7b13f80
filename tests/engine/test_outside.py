"""Threads for what hangs: a FIFO that nobody writes to blocks whoever opens it, as a dead disk does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.engine.outside import (
    MAX_QUESTIONS,
    DaemonThreads,
    TargetThreads,
    in_new_thread,
    in_one_thread,
    threads_of,
)
from tests.waiting import turns, until


class Disk:
    """Blocks everybody who reads from it, until it answers."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.answering = False
        self.asked = 0
        self.answered = 0
        os.mkfifo(path)

    def read(self) -> bytes:
        self.asked += 1
        try:
            with open(self.path, "rb", buffering=0) as fifo:
                return fifo.read()
        finally:
            self.answered += 1

    def answer(self) -> None:
        """Let go whoever is blocked, and whoever comes."""
        self.answering = True

        def open_again_and_again() -> None:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and self.answering:
                with contextlib.suppress(OSError):
                    os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
                time.sleep(0.001)

        threading.Thread(target=open_again_and_again, daemon=True).start()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    made.answer()
    deadline = time.monotonic() + 5
    while made.answered < made.asked and time.monotonic() < deadline:
        time.sleep(0.001)
    made.answering = False


async def test_target_whose_threads_all_hang_is_down_until_one_comes_back(disk: Disk) -> None:
    threads = TargetThreads("disk", 2, hangs_s=0.05)
    hanging = [threads.run(disk.read) for _ in range(3)]
    await until(lambda: threads.hang)
    async with asyncio.timeout(1):
        with pytest.raises(TimeoutError):
            await threads.run(lambda: 7)
    disk.answer()
    await asyncio.gather(*hanging)
    assert await threads.run(lambda: 7) == 7


async def test_targets_hang_each_for_itself(disk: Disk) -> None:
    hanging = [threads_of(disk.path).run(disk.read) for _ in range(100)]
    async with asyncio.timeout(1):
        assert await threads_of("/another").run(lambda: 7) == 7
        assert await in_one_thread(os.path.exists, "/") is True
        assert await asyncio.to_thread(lambda: 7) == 7
    assert threading.active_count() < 40, "a few of them have a thread, the others wait"
    disk.answer()
    await asyncio.gather(*hanging)


async def test_what_is_given_up_while_it_waits_is_never_begun(disk: Disk) -> None:
    threads, begun = TargetThreads("disk", 1), list[int]()
    hanging = threads.run(disk.read)
    waiting = threads.run(begun.append, 1)
    waiting.cancel()
    await asyncio.sleep(0)  # the loop passes it on in its next turn
    disk.answer()
    await hanging
    await threads.run(lambda: None)
    assert begun == []


async def test_questions_that_hang_have_a_bound(disk: Disk) -> None:
    def ask(_number: int) -> bytes:
        return disk.read()

    asking = [asyncio.create_task(in_one_thread(ask, number)) for number in range(MAX_QUESTIONS)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await in_one_thread(ask, MAX_QUESTIONS)
    disk.answer()
    await asyncio.gather(*asking)


async def test_a_question_that_fails_when_its_asker_has_gone_is_no_defect(disk: Disk) -> None:
    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: said.append(what))

    def ask() -> None:
        disk.read()
        raise OSError(errno.EIO, "no answer")

    asking = asyncio.create_task(in_one_thread(ask))
    await until(lambda: disk.asked)
    asking.cancel()
    await asyncio.wait([asking])
    question = weakref.ref(ask)
    del ask, asking
    disk.answer()
    await until(lambda: question() is None)
    gc.collect()
    assert said == []


def test_questions_of_a_loop_that_was_closed_take_no_place(disk: Disk) -> None:
    def ask(_number: int) -> bytes:
        return disk.read()

    async def give_up() -> None:
        asking = [asyncio.create_task(in_one_thread(ask, number)) for number in range(MAX_QUESTIONS)]
        await asyncio.sleep(0)
        for each in asking:
            each.cancel()

    async def ask_again() -> int:
        return await in_one_thread(lambda: 7)

    asyncio.run(give_up())
    threading.Timer(0.0, disk.answer).start()
    assert asyncio.run(ask_again()) == 7


async def test_question_goes_on_for_the_others_when_one_gives_up(disk: Disk) -> None:
    first, second = (asyncio.create_task(in_one_thread(disk.read)) for _ in range(2))
    await turns()
    first.cancel()
    await asyncio.wait([first])
    disk.answer()
    assert await second == b""


async def test_failures_reach_whoever_waits() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_new_thread(lambda: 1 / 0)
    assert await in_new_thread(lambda word: word * 2, "a") == "aa"


def test_threads_end_when_they_are_shut_down_and_take_nothing_more() -> None:
    threads = DaemonThreads(1, "short")
    assert threads.submit(lambda: 7).result() == 7
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 7)
    deadline = time.monotonic() + 5
    while any(thread.name == "short" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_thread_that_hangs_does_not_keep_the_process_from_ending(disk: Disk) -> None:
    program = (
        "import asyncio; from mxrtc_bridge.engine.outside import threads_of\n"
        f"async def main():\n    threads_of('disk').run(open, {disk.path!r}, 'rb')\n    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)
