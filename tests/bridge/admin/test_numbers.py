"""Numbers that people type: taken ahead, never repeated, whatever fails and whenever it ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.bridge.admin.numbers import BLOCK, RETRY_S, Numbers, NumbersOfBridge
from mxrtc_bridge.core.errors import StorageError


class Counter:
    """A database that may fail, before or after it has taken a block down."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.fails: list[str] = []
        self.blocks = 0

    async def reserve(self, name: str, count: int) -> int:
        await asyncio.sleep(0)
        how = self.fails.pop(0) if self.fails else ""
        if how == "before":
            raise StorageError("the disk is full")
        self.last[name] = self.last.get(name, 0) + count
        self.blocks += 1
        if how == "after":
            raise StorageError("nobody knows whether it was written")
        return self.last[name] - count + 1


async def test_numbers_begin_at_one_and_go_on_after_a_restart() -> None:
    counter = Counter()
    numbers = Numbers(counter, "session")
    assert [await numbers.next() for _ in range(3)] == [1, 2, 3]
    assert await Numbers(counter, "session").next() == BLOCK + 1


async def test_the_next_block_is_there_before_the_last_is_used_up() -> None:
    counter = Counter()
    numbers = Numbers(counter, "session", block=4)
    task = asyncio.create_task(numbers.run())
    given_out = []
    for _ in range(20):
        for _ in range(4):
            await asyncio.sleep(0)
        before = counter.blocks
        given_out.append(await numbers.next())
        assert counter.blocks == before, "nobody has waited for a write"
    task.cancel()
    assert given_out == list(range(1, 21))
    assert counter.blocks <= 6


async def test_a_failed_reservation_is_tried_again_and_only_who_needs_a_number_then_is_told() -> None:
    counter = Counter()
    slept: list[float] = []
    done = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            done.set()
            await asyncio.Event().wait()

    counter.fails = ["before", "after"]
    numbers = Numbers(counter, "session", block=4, sleep=sleep)
    task = asyncio.create_task(numbers.run())
    await done.wait()
    counter.fails = ["before"]
    with pytest.raises(StorageError, match="disk is full"):
        await numbers.next()
    # The block whose fate nobody knew is not used.
    assert await numbers.next() == 5
    assert slept == [RETRY_S, RETRY_S]
    task.cancel()


@given(
    st.lists(
        st.lists(st.sampled_from(["", "", "before", "after"]), max_size=12),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 5),
)
async def test_no_number_is_given_twice_whatever_fails_over_how_many_runs(runs: list[list[str]], block: int) -> None:
    counter = Counter()
    given_out: list[int] = []
    for fails in runs:
        counter.fails = list(fails)
        numbers = Numbers(counter, "session", block=block, sleep=lambda _: asyncio.sleep(0))
        task = asyncio.create_task(numbers.run())
        answers = await asyncio.gather(*(numbers.next() for _ in range(12)), return_exceptions=True)
        given_out += [answer for answer in answers if isinstance(answer, int)]
        task.cancel()
    assert given_out == sorted(set(given_out))


async def test_sessions_verifications_and_questions_are_counted_each_by_itself() -> None:
    numbers = NumbersOfBridge(Counter())
    task = asyncio.create_task(numbers.run())
    each = (numbers.sessions, numbers.verifications, numbers.questions)
    assert [await kind.next() for kind in each] == [1, 1, 1]
    task.cancel()
