"""What a person learns while a command waits, and when it ends: in virtual time."""

from __future__ import annotations

import asyncio
import io

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.matrix.api.reach import Reach
from tests.virtual_time import run

REFUSED = HomeserverError("the homeserver cannot be reached: connection refused")


class Said(Report):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[float, str]] = []

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        self.all.append((asyncio.get_running_loop().time(), sentence))


def test_silence_is_told_from_time_to_time_and_ends_with_what_was_waited_for() -> None:
    said = Said()

    async def waits() -> None:
        waiting = Waiting(said, 15)
        async with waiting.limited():
            await asyncio.sleep(5)
            waiting.waits_for("the peer")
            await asyncio.Event().wait()

    async def story() -> float:
        with pytest.raises(ClientError, match=r"^no answer within 15 seconds; waited for the peer$") as caught:
            await waits()
        assert caught.value.code is Exit.RETRY
        return asyncio.get_running_loop().time()

    assert run(story()) == 15
    assert said.all == [(1.5, "waiting for the homeserver"), (9.5, "waiting for the peer")]


def test_what_is_known_is_told_and_kept_and_forgotten_when_it_has_passed() -> None:
    said = Said()

    async def waits(waiting: Waiting, *changes: HomeserverError | None) -> None:
        async with waiting.limited():
            for change in changes:
                waiting.patience.on_change(change)
            await asyncio.Event().wait()

    async def story() -> None:
        waiting = Waiting(said, 15)
        with pytest.raises(ClientError, match=r"^the homeserver cannot be reached: connection refused \(tried for 15"):
            await waits(waiting, REFUSED)
        with pytest.raises(ClientError, match=r"^no answer within 15 seconds"):
            await waits(waiting, REFUSED, None)

    run(story())
    assert said.all[0] == (1.5, "waiting for the homeserver (the homeserver cannot be reached: connection refused)")
    assert said.all[-1][1] == "waiting for the homeserver"


@pytest.mark.parametrize(
    ("reach", "words"),
    [
        (Reach.NAME, "a resolver to say where the homeserver is"),
        (Reach.CONNECTION, "the homeserver to take a connection"),
        (Reach.ANSWER, "the homeserver"),
    ],
)
def test_who_is_silent_on_the_way_to_the_homeserver_is_named(reach: Reach, words: str) -> None:
    said = Said()

    async def waits(waiting: Waiting) -> None:
        async with waiting.limited():
            waiting.patience.on_reach(reach)
            await asyncio.Event().wait()

    async def story() -> None:
        waiting = Waiting(said, 8)
        with pytest.raises(ClientError, match=f"^no answer within 8 seconds; waited for {words}$"):
            await waits(waiting)
        waiting.waits_for("the peer")
        assert waiting.step == "the peer"

    run(story())
    assert said.all == [(1.5, f"waiting for {words}")]


def test_what_ends_by_itself_says_nothing_and_a_time_limit_of_others_is_theirs() -> None:
    said = Said()

    async def story() -> None:
        async with Waiting(said, 15).limited():
            await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with Waiting(said, 15).limited(), asyncio.timeout(1):
                await asyncio.Event().wait()

    run(story())
    assert said.all == []


def test_a_homeserver_that_is_not_there_is_tried_for_a_moment_and_a_pause_that_it_asks_for_is_kept() -> None:
    retry = Waiting(Report(), 15).patience.retry
    assert retry.pause(1, 0, None, 0) is not None
    assert retry.pause(3, 2, None, 0) is None
    assert retry.pause(1, 1, 12, 0) == 12
    assert retry.pause(1, 1, 20, 0) is None


async def test_last_words_are_waited_for_where_somebody_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.StringIO):
        asked = 0

        def drain(self, seconds: float) -> bool:
            assert seconds == 0
            self.asked += 1
            return self.asked > 2

    slow = Slow()
    monkeypatch.setattr("sys.stderr", slow)
    await Report().taken()
    assert slow.asked == 3
