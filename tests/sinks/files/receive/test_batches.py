"""What several want at the same time is done in one go, and each is told what came of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files.receive.batches import MAX_BATCH, Batches
from tests.waiting import turns


class Work:
    """Doubles numbers when it may; a negative one cannot be doubled."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.batches: list[list[int]] = []

    async def __call__(self, numbers: Sequence[int]) -> list[int | FileError]:
        self.batches.append(list(numbers))
        await self.may_end.wait()
        return [2 * number if number >= 0 else FileError(FileCode.IO, "negative") for number in numbers]


async def test_what_is_asked_for_in_one_turn_is_one_batch_and_is_told_in_one_turn() -> None:
    """What is said of it goes in a few packets then, instead of one for each."""
    work, told = Work(), list[int]()
    batches: Batches[int, int] = Batches(work)

    async def ask(number: int) -> None:
        told.append(await batches.do(number))

    async with asyncio.TaskGroup() as tasks:
        for number in range(MAX_BATCH):
            tasks.create_task(ask(number))
        await turns()
        assert (work.batches, told) == ([list(range(MAX_BATCH))], [])
        work.may_end.set()
        while not told:
            await asyncio.sleep(0)
        assert len(told) == MAX_BATCH


async def test_what_comes_meanwhile_is_the_next_batch_up_to_the_limit() -> None:
    work = Work()
    batches: Batches[int, int] = Batches(work)
    first = asyncio.create_task(batches.do(0))
    await turns()
    others = [asyncio.create_task(batches.do(number)) for number in range(1, MAX_BATCH + 2)]
    await turns()
    work.may_end.set()
    assert [await task for task in (first, *others)] == [2 * number for number in range(MAX_BATCH + 2)]
    assert [len(batch) for batch in work.batches] == [1, MAX_BATCH, 1]


async def test_failure_of_one_is_raised_to_the_one_who_asked() -> None:
    work = Work()
    batches: Batches[int, int] = Batches(work)
    work.may_end.set()
    one, other = await asyncio.gather(batches.do(-1), batches.do(4), return_exceptions=True)
    assert (str(one), other, work.batches) == ("negative", 8, [[-1, 4]])


async def test_end_waits_for_what_was_asked_for_also_by_whoever_has_gone() -> None:
    work = Work()
    batches: Batches[int, int] = Batches(work)
    asking = asyncio.create_task(batches.do(1))
    await turns()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    closing = asyncio.create_task(batches.close())
    await turns()
    assert not closing.done()
    work.may_end.set()
    await closing
    assert work.batches == [[1]]
