"""What serves for as long as the bridge runs ends only when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mxrtc_bridge.bridge.failures import LONGEST_PAUSE_S, STEADY_S, keep_running, until_possible
from mxrtc_bridge.core.errors import HomeserverError, MxrtcError, RefusedStatementError, StorageError
from tests import virtual_time


class Work:
    """Fails as it is told, then runs until it is cancelled."""

    def __init__(self, *failures: BaseException | Callable[[], Awaitable[None]] | None) -> None:
        self.failures = list(failures)
        self.begun_s: list[float] = []
        self.running = False

    async def run(self) -> None:
        self.begun_s.append(asyncio.get_running_loop().time())
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, BaseException):
                raise failure
            if failure is not None:
                await failure()
            return
        self.running = True
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.running = False


async def cancelled_from_within() -> None:
    """Waits for something that somebody else has cancelled."""
    shared = asyncio.get_running_loop().create_future()
    shared.cancel()
    await shared


async def fails_in_a_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cancelled_from_within())
        tasks.create_task(Work(KeyError("a defect")).run())


@pytest.mark.parametrize(
    "failure",
    [
        KeyError("a defect"),
        StorageError("away"),
        RefusedStatementError("not this"),
        MxrtcError("no"),
        asyncio.CancelledError(),
        cancelled_from_within,
        fails_in_a_group,
        None,
    ],
    ids=lambda failure: getattr(failure, "__name__", str(failure)),
)
def test_what_fails_is_logged_and_begins_again_and_ends_when_it_is_told_to(
    failure: BaseException | Callable[[], Awaitable[None]] | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        work = Work(failure)
        keeping = asyncio.create_task(keep_running("the work", work.run))
        await asyncio.sleep(5)
        assert work.running
        keeping.cancel()
        await asyncio.wait([keeping])
        assert keeping.cancelled()
        assert not work.running

    virtual_time.run(story())
    assert "the work" in caplog.text
    assert ("Traceback" in caplog.text) is not (isinstance(failure, MxrtcError) or failure is None)


def test_it_is_begun_again_with_growing_pauses_and_anew_after_a_while_of_peace() -> None:
    async def story() -> None:
        async def later() -> None:
            await asyncio.sleep(STEADY_S + 1)
            raise KeyError("after a while")

        work = Work(*[KeyError("a defect")] * 8, later, KeyError("again"))
        keeping = asyncio.create_task(keep_running("the work", work.run))
        await asyncio.sleep(2 * STEADY_S + 300)
        pauses = [after - before for before, after in zip(work.begun_s, work.begun_s[1:], strict=False)]
        assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S + 2, 2]
        keeping.cancel()
        await asyncio.wait([keeping])

    virtual_time.run(story())


@pytest.mark.parametrize("failure", [StorageError("busy"), HomeserverError("away", 502)])
def test_step_of_a_start_is_done_when_what_was_away_is_back(failure: MxrtcError) -> None:
    failures = [failure] * 5

    async def step() -> None:
        if failures:
            raise failures.pop()

    virtual_time.run(until_possible("a step", step))
    assert failures == []


@pytest.mark.parametrize("failure", [RefusedStatementError("not this"), HomeserverError("no", 403), KeyError("defect")])
def test_step_of_a_start_that_will_never_be_possible_ends_it(failure: Exception) -> None:
    async def step() -> None:
        raise failure

    with pytest.raises(type(failure)):
        virtual_time.run(until_possible("a step", step))
