"""Asks the homeserver for the truth of rooms, again and again, without ever asking too much.

For each room one question at a time; whoever asks meanwhile gets the next answer together with all others. In the
background a room is asked for only while it is doubtful, with a pause that grows with what the last answer has cost,
and with growing pauses while the homeserver does not answer. A question that fails ends nothing and gives nothing: it
is logged once, and asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError, MxrtcError
from mxrtc_bridge.core.ids import RoomId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.set_within import set_within

log = logging.getLogger(__name__)

PARALLEL = 4
"""Questions at the same time, all rooms together."""
ASK_TIMEOUT_S = 30.0
SETTLE_S = 5.0
"""How much older than its question an answer may be: homeservers of several processes answer by what they know."""
GAP_S = 1.0
"""From the end of an answer until the room is asked for again in the background."""
GAP_FACTOR = 3.0
"""The same, by how long the answer took: a large room is asked for a quarter of the time at most."""
LONGEST_GAP_S = 30.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""After a question that failed."""

Read = Callable[[RoomId], Awaitable[float | None]]
"""Asks and takes the answer over; returns None, or after how many seconds the room must be asked for once more."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How long a room is left alone after an answer: see :data:`GAP_S` and :data:`GAP_FACTOR`."""

    least_s: float = GAP_S
    factor: float = GAP_FACTOR


@dataclass(slots=True)
class _Room:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    doubts: int = 0
    answered: int = 0
    """How many of the doubts the last answer has settled."""
    began: float | None = None
    """When the question of the last answer was asked."""
    due: float = 0.0
    failures: int = 0
    busy: bool = False


class Refresher:
    """See the head of this module. What is doubtful is settled while :meth:`run` runs.

    Args:
        what: is asked for, in words for the log.
        read: asks for one room.
        monotonic: seconds.
        parallel: questions at the same time.
        gap: between two questions about a room.
    """

    def __init__(
        self,
        what: str,
        read: Read,
        *,
        monotonic: Callable[[], float] = elapsed_s,
        parallel: int = PARALLEL,
        gap: Gap = Gap(),
    ) -> None:
        self._gap = gap
        self._what = what
        self._read = read
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(parallel)
        self._parallel = parallel
        self._running = 0
        """Questions that are asked in the background; with all places taken nobody looks what else is doubtful."""
        self._rooms: dict[RoomId, _Room] = {}
        self._doubtful: dict[RoomId, _Room] = {}
        self._changed = asyncio.Event()
        self._seldom = RateLimitedLog(log, monotonic)

    def doubt(self, room: RoomId, *, after_s: float = 0.0) -> None:
        """What is known of a followed room may be wrong: ask, soon. Never blocks."""
        state = self._rooms.setdefault(room, _Room())
        state.doubts += 1
        if after_s:
            state.due = max(state.due, self._monotonic() + after_s)
        self._doubtful[room] = state
        self._changed.set()

    def is_doubtful(self, room: RoomId) -> bool:
        """Whether a room was doubted since the question of its last answer."""
        return room in self._doubtful

    def doubtful(self) -> frozenset[RoomId]:
        """All rooms of which that is so."""
        return frozenset(self._doubtful)

    def age(self, room: RoomId) -> float | None:
        """Seconds since the question of the last answer; None where there was none."""
        state = self._rooms.get(room)
        return None if state is None or state.began is None else self._monotonic() - state.began

    def learned(self, room: RoomId) -> None:
        """Somebody else has just asked for this room."""
        self._rooms.setdefault(room, _Room()).began = self._monotonic()

    def forget(self, room: RoomId) -> None:
        """Stop to follow a room."""
        self._rooms.pop(room, None)
        self._doubtful.pop(room, None)

    async def confirm(self, room: RoomId, max_age_s: float | None = None) -> None:
        """Return when what is known comes from a question that was asked after all doubts so far.

        Args:
            room: a followed room.
            max_age_s: and not longer ago than this before now.

        Raises:
            MxrtcError: the homeserver did not say.
        """
        state = self._rooms.setdefault(room, _Room())
        doubts, now = state.doubts, self._monotonic()
        async with state.lock:
            if state.answered >= doubts and (
                max_age_s is None or (state.began is not None and state.began >= now - max_age_s)
            ):
                return
            async with self._slots:
                await self._ask(room, state)

    async def _ask(self, room: RoomId, state: _Room) -> None:
        doubts, began = state.doubts, self._monotonic()
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                again_s = await self._read(room)
        except TimeoutError:
            raise HomeserverError(f"the homeserver did not answer within {ASK_TIMEOUT_S:g} s") from None
        now = self._monotonic()
        state.began, state.answered, state.failures = began, doubts, 0
        state.due = now + min(LONGEST_GAP_S, max(self._gap.least_s, self._gap.factor * (now - began)))
        if self._rooms.get(room) is not state:
            return
        if again_s is not None:
            self.doubt(room, after_s=again_s)
        elif state.answered == state.doubts:
            self._doubtful.pop(room, None)

    async def run(self) -> None:
        """Ask for what is doubtful, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                now = self._monotonic()
                next_due = None
                for room, state in tuple(self._doubtful.items()) if self._running < self._parallel else ():
                    if state.busy:
                        continue
                    if state.due > now:
                        next_due = state.due if next_due is None else min(next_due, state.due)
                    elif self._running < self._parallel:
                        state.busy = True
                        self._running += 1
                        tasks.create_task(self._settle(room, state))
                    else:
                        break
                await set_within(self._changed, None if next_due is None else next_due - now)

    async def _settle(self, room: RoomId, state: _Room) -> None:
        try:
            await self.confirm(room)
        except MxrtcError as error:
            if not state.failures:
                self._seldom.warning(
                    room, "! %s of %s could not be asked for: %s; trying again", self._what, room, error
                )
            state.failures += 1
            state.due = self._monotonic() + Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S).pause_s(state.failures)
        except Exception as error:  # noqa: BLE001 - a defect with one room must not end the questions for the others
            what = type(error).__name__
            self._seldom.log(logging.ERROR, room, "! %s of %s: unexpected %s", self._what, room, what)
            state.due = self._monotonic() + LONGEST_PAUSE_S
        finally:
            state.busy = False
            self._running -= 1
            self._changed.set()
