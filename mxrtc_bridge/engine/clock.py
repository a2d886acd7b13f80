"""Time for the engine: the loop's clock for deadlines, the wall clock to judge events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from mxrtc_bridge.core.access.clock_change import Moment
from mxrtc_bridge.system import elapsed_ns


def elapsed_s() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps.

    For how old something is that was learned from others, who did not sleep; never for timers.
    """
    return elapsed_ns() / 1e9


def asleep_s() -> float:
    """For how many seconds the machine has slept since it was started, to a few milliseconds."""
    return elapsed_s() - time.monotonic()


class Timer(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic seconds for every deadline, the wall clock only to judge events and for ends that people name."""

    def monotonic(self) -> float: ...

    def wall_ms(self) -> int: ...

    def elapsed_ms(self) -> int:
        """Milliseconds by a clock that nobody sets, and that goes on while the machine sleeps."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` once ``monotonic()`` has reached ``when``."""
        ...


def moment_of(clock: Clock) -> Moment:
    """Ask both clocks for this moment."""
    return Moment(clock.wall_ms(), clock.elapsed_ms())


class LoopClock:
    """The system's monotonic clock, and timers of the running loop.

    Not the loop's own clock: uvloop counts in whole milliseconds, which is as long as a round trip may take.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        return elapsed_ns() // 1_000_000

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(max(0.0, when - time.monotonic()), callback)
