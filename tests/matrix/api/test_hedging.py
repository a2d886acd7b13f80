"""Of several requests the first answer counts, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from mxrtc_bridge.matrix.api.hedging import FINAL, hedged
from tests import virtual_time

NEVER = 1000.0


class RefusedError(Exception):
    """An answer."""


class EndedError(Exception):
    """A connection that has ended."""


class LimitedError(Exception):
    """May be otherwise later, and says when."""


RANKS = {RefusedError: FINAL, LimitedError: 1, EndedError: 0}


@dataclass
class Requests:
    """Each takes so many seconds and then ends so."""

    ends: list[tuple[float, str | Exception]]
    sent: int = 0
    cancelled: list[int] = field(default_factory=list)

    async def send(self) -> str:
        number, self.sent = self.sent, self.sent + 1
        after_s, end = self.ends[number]
        try:
            await asyncio.sleep(after_s)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if isinstance(end, Exception):
            raise end
        return end


async def outcome(requests: Requests) -> tuple[str | type[Exception], float]:
    loop = asyncio.get_running_loop()
    began, before = loop.time(), asyncio.all_tasks()
    try:
        got: str | type[Exception] = await hedged(requests.send, 30, lambda error: RANKS[type(error)])
    except tuple(RANKS) as error:
        got = type(error)
    assert asyncio.all_tasks() == before
    return got, loop.time() - began


@pytest.mark.parametrize(
    ("ends", "expected", "sent"),
    [
        ([(29, "one")], ("one", 29), 1),
        ([(10, EndedError())], (EndedError, 10), 1),
        ([(NEVER, ""), (5, "two")], ("two", 35), 2),
        ([(33, "one"), (9, "two")], ("one", 33), 2),
        ([(NEVER, ""), (5, RefusedError())], (RefusedError, 35), 2),
        ([(40, EndedError()), (20, "two")], ("two", 50), 2),
        ([(50, "one"), (5, EndedError())], ("one", 50), 2),
        ([(40, EndedError()), (20, EndedError())], (EndedError, 50), 2),
        ([(10, LimitedError())], (LimitedError, 10), 1),
        ([(50, "one"), (5, LimitedError())], ("one", 50), 2),
        ([(50, LimitedError()), (5, EndedError())], (LimitedError, 50), 2),
        ([(50, EndedError()), (5, LimitedError())], (LimitedError, 50), 2),
        ([(50, RefusedError()), (5, LimitedError())], (RefusedError, 50), 2),
        # Both at the same time
        ([(40, RefusedError()), (10, "two")], ("two", 40), 2),
        ([(40, "one"), (10, RefusedError())], ("one", 40), 2),
        ([(40, LimitedError()), (10, EndedError())], (LimitedError, 40), 2),
        ([(40, EndedError()), (10, LimitedError())], (LimitedError, 40), 2),
        ([(NEVER, ""), (NEVER, ""), (5, "three")], ("three", 65), 3),
        ([(NEVER, ""), (NEVER, ""), (NEVER, ""), (NEVER, "four")], ("", NEVER), 4),
        ([(95, EndedError()), (NEVER, ""), (NEVER, ""), (500, "four")], ("four", 590), 4),
        ([(NEVER, ""), (5, EndedError()), (1, "never sent")], ("", NEVER), 2),
    ],
    ids=str,
)
def test_first_answer_counts(
    ends: list[tuple[float, str | Exception]], expected: tuple[str | type[Exception], float], sent: int
) -> None:
    requests = Requests(ends)
    end, after_s = virtual_time.run(outcome(requests))
    assert (end, requests.sent) == (expected[0], sent)
    assert after_s == pytest.approx(expected[1], abs=0.1)


def test_whoever_waits_no_more_leaves_no_request_behind() -> None:
    requests = Requests([(NEVER, ""), (NEVER, ""), (NEVER, "")])

    async def story() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(70):
                await outcome(requests)

    virtual_time.run(story())
    assert sorted(requests.cancelled) == [0, 1, 2]
