"""A process that gives no sign of life is told of, and lost in the end; however long we ourselves were stopped."""

from __future__ import annotations

import asyncio

from mxrtc_bridge.client.sharing.heartbeat import LOST_BEATS, TOLD_BEATS, Heartbeat
from tests import virtual_time

BEAT_S = 2.0


class Listening:
    def __init__(self) -> None:
        self.told: list[tuple[float, object]] = []
        self.heartbeat = Heartbeat(BEAT_S, told=self._note, lost=lambda: self._note("lost"))

    def _note(self, what: object) -> None:
        self.told.append((asyncio.get_running_loop().time(), what))


def test_who_says_something_now_and_then_lives() -> None:
    async def story() -> list[tuple[float, object]]:
        listening = Listening()
        listening.heartbeat.start()
        for _ in range(1000):
            await asyncio.sleep(BEAT_S * 0.9)
            listening.heartbeat.heard()
        listening.heartbeat.stop()
        return listening.told

    assert virtual_time.run(story()) == []


def test_who_says_nothing_is_told_of_first_and_lost_then() -> None:
    async def story() -> list[tuple[float, object]]:
        listening = Listening()
        listening.heartbeat.start()
        await asyncio.sleep(1000)
        return listening.told

    assert virtual_time.run(story()) == [(TOLD_BEATS * BEAT_S, False), (LOST_BEATS * BEAT_S, "lost")]


def test_who_is_back_in_time_is_told_of_and_begins_anew() -> None:
    async def story() -> list[tuple[float, object]]:
        listening = Listening()
        listening.heartbeat.start()
        await asyncio.sleep((LOST_BEATS - 1) * BEAT_S + 0.5)
        listening.heartbeat.heard()
        await asyncio.sleep(BEAT_S * 2)
        listening.heartbeat.stop()
        return listening.told

    assert virtual_time.run(story()) == [(TOLD_BEATS * BEAT_S, False), (LOST_BEATS * BEAT_S, True)]


def test_after_the_end_nothing_is_told() -> None:
    async def story() -> list[tuple[float, object]]:
        listening = Listening()
        listening.heartbeat.stop()
        listening.heartbeat.start()
        await asyncio.sleep(BEAT_S * 1.5)
        listening.heartbeat.stop()
        await asyncio.sleep(1000)
        return listening.told

    assert virtual_time.run(story()) == []
