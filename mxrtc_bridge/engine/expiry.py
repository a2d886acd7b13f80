"""Notices when rights end by themselves, whatever becomes of the clocks, and has live sessions judged again.

The wall clock may be set, and the machine may sleep: timers of the loop notice neither. So the two clocks are compared
every :data:`LOOK_S`, which costs next to nothing as long as nothing has ended.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from mxrtc_bridge.core.access.clock_change import set_by_ms
from mxrtc_bridge.engine.clock import Clock, moment_of
from mxrtc_bridge.engine.set_within import set_within

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""How late a clock that was set may be noticed."""
SHORTEST_S = 0.05


class ExpiryWatch:
    """See the head of this module; :meth:`run` must run.

    Args:
        next_change_s: in how many seconds a right ends by itself; None if none does.
        judge_again: judges live sessions; must not block.
        clock: where time comes from.
    """

    def __init__(
        self,
        next_change_s: Callable[[], float | None],
        judge_again: Callable[[], None],
        clock: Clock,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._look_s = look_s
        self._next_change_s = next_change_s
        self._judge_again = judge_again
        self._clock = clock
        self._changed = asyncio.Event()

    def rights_changed(self) -> None:
        """Look again when the next right ends."""
        self._changed.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        before = moment_of(self._clock)
        due_ms = math.inf
        while True:
            self._changed.clear()
            # A look that fails must not end the watch: no right would end by itself any more.
            try:
                change_s = self._next_change_s()
            except Exception:
                log.exception("! it could not be told when the next right ends")
                change_s = SHORTEST_S
            begun = moment_of(self._clock)
            if change_s is not None:
                # An end that was foreseen is judged, whatever is the next one now: whoever was asked meanwhile, also
                # just here, may have noticed it and have forgotten the right. Both clocks are cut to milliseconds.
                due_ms = min(due_ms, begun.elapsed_ms + max(0.0, change_s) * 1000 + 1)
            wait_s = min(self._look_s, max(SHORTEST_S, (due_ms - begun.elapsed_ms) / 1000))
            await set_within(self._changed, wait_s)
            now = moment_of(self._clock)
            if set_ms := set_by_ms(before, now):
                log.warning("! the clock of this machine was set by %+.1f s", set_ms / 1000)
            if set_ms or now.elapsed_ms >= due_ms:
                due_ms = math.inf
                try:
                    self._judge_again()
                except Exception:
                    log.exception("! not all live sessions could be judged again")
            before = now
