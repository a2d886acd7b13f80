"""Rights that end by themselves, while the clock of the machine is set, or the machine sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mxrtc_bridge.engine.expiry import ExpiryWatch
from tests.fakes import FakeClock

HOUR_S = 3600.0
LOOK_S = 0.01


class Watched(FakeClock):
    """A right that ends at a time of the wall clock; the test sets the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.ends_ms: int | None = None
        self.judged: list[int] = []
        self.looks = 0
        self.failures = 0
        self.watch = ExpiryWatch(self.next_change_s, self.judge, self, look_s=LOOK_S)

    def next_change_s(self) -> float | None:
        self.looks += 1
        if self.failures:
            self.failures -= 1
            raise KeyError("a defect")
        return None if self.ends_ms is None else (self.ends_ms - self.wall_ms()) / 1000

    def judge(self) -> None:
        self.judged.append(self.wall_ms())

    def set(self, seconds: float) -> None:
        self.start_wall_ms += round(seconds * 1000)

    async def looked(self, times: int = 3) -> None:
        """Return after some looks."""
        wanted = self.looks + times
        async with asyncio.timeout(5):
            while self.looks < wanted:
                await asyncio.sleep(LOOK_S / 2)


@asynccontextmanager
async def watching(clock: Watched) -> AsyncIterator[None]:
    task = asyncio.create_task(clock.watch.run())
    await clock.looked(1)
    yield
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S, 1.0, -1.0])
async def test_clock_that_is_set_has_sessions_judged_at_the_next_look(by_s: float) -> None:
    clock = Watched()
    clock.ends_ms = clock.wall_ms() + 24 * 3600_000
    async with watching(clock):
        await clock.looked()
        assert clock.judged == []
        clock.set(by_s)
        await clock.looked()
        assert len(clock.judged) == 1


async def test_end_that_came_while_the_machine_slept_is_noticed_at_the_next_look() -> None:
    clock = Watched()
    clock.ends_ms = clock.wall_ms() + 3600_000
    async with watching(clock):
        clock.advance(2 * HOUR_S)
        await clock.looked()
        assert clock.judged


async def test_right_that_is_given_later_and_ends_sooner_is_watched() -> None:
    clock = Watched()
    async with watching(clock):
        clock.ends_ms = clock.wall_ms() + 60
        clock.watch.rights_changed()
        await clock.looked()
        assert clock.judged == []
        clock.advance(0.061)
        await clock.looked()
        assert clock.judged


async def test_end_that_somebody_else_has_noticed_first_is_judged_all_the_same() -> None:
    """Whoever asks for the rights forgets those that are over, and so does the look itself."""
    clock = Watched()
    clock.ends_ms = clock.wall_ms() + 60
    async with watching(clock):
        clock.watch.rights_changed()
        await clock.looked()
        clock.ends_ms = None
        clock.watch.rights_changed()
        await clock.looked()
        assert clock.judged == []
        clock.advance(0.07)
        await clock.looked()
        assert len(clock.judged) == 1


async def test_defect_in_a_look_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    clock = Watched()
    clock.failures = 3
    async with watching(clock):
        await clock.looked(5)
        clock.set(HOUR_S)
        await clock.looked()
        assert clock.judged
    assert caplog.text.count("could not be told") == 3
