"""Whether another process still lives, by what comes from it: at least a sign of life every so often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

BEAT_S = 2.0
"""How often one process tells another that it is alive, where there is nothing else to say."""
TOLD_BEATS, LOST_BEATS = 2, 5
"""After how many that have not come that is told, and the other process counts as lost."""


class Heartbeat:
    """Listens for the signs of life of one process.

    What counts is how often nothing had come when it was looked for, and not the time that has passed: we may have been
    stopped ourselves, or the whole machine.

    Args:
        beat_s: how often it is looked for.
        told: called with False when the other process has been silent for a while, and with True when it is back.
        lost: called at the end, when it counts as lost.
    """

    def __init__(self, beat_s: float, *, told: Callable[[bool], None], lost: Callable[[], None]) -> None:
        self._beat_s = beat_s
        self._told = told
        self._lost = lost
        self._heard = False
        self._task: asyncio.Task[None] | None = None

    def heard(self) -> None:
        """Note that something has come."""
        self._heard = True

    def start(self) -> None:
        """Listen from now on."""
        self._task = asyncio.create_task(self._listen(), name="heartbeat")

    def stop(self) -> None:
        """Listen no more; harmless where nobody did."""
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        silent = 0
        while silent < LOST_BEATS:
            await asyncio.sleep(self._beat_s)
            before, silent, self._heard = silent, 0 if self._heard else silent + 1, False
            if silent == TOLD_BEATS:
                self._told(False)
            elif before >= TOLD_BEATS and not silent:
                self._told(True)
        self._lost()
