"""Of several ways the first that works is taken, and none is waited for that leads nowhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial

import pytest

from mxrtc_bridge.rtc.happy_eyeballs import MAX_ADDRESSES, first_to_succeed, resolve
from tests import virtual_time

NEVER = 1e6


class Ways:
    """Attempts that note when they begin and whether they are given up."""

    def __init__(self, *outcomes: tuple[float, bool]) -> None:
        self.began: list[float] = []
        self.given_up: list[int] = []
        self.attempts: list[Callable[[], Coroutine[None, None, bool]]] = [
            partial(self._try, number, *outcome) for number, outcome in enumerate(outcomes)
        ]

    async def _try(self, number: int, seconds: float, result: bool) -> bool:
        self.began.append(round(asyncio.get_running_loop().time(), 3))
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.given_up.append(number)
            raise
        return result


@pytest.mark.parametrize(
    ("outcomes", "result", "began", "given_up", "seconds"),
    [
        ([(0.1, True), (0.1, True)], True, [0.0], [], 0.1),
        ([(NEVER, True), (0.1, True)], True, [0.0, 0.25], [0], 0.35),
        ([(NEVER, True), (NEVER, True), (0.1, True)], True, [0.0, 0.25, 0.5], [0, 1], 0.6),
        ([(0.0, False), (0.1, True)], True, [0.0, 0.0], [], 0.1),
        ([(0.4, True), (NEVER, True)], True, [0.0, 0.25], [1], 0.4),
        ([(0.3, False), (0.5, False)], False, [0.0, 0.25], [], 0.75),
        ([], False, [], [], 0.0),
    ],
)
def test_first_way_that_works_is_taken(
    outcomes: list[tuple[float, bool]], result: bool, began: list[float], given_up: list[int], seconds: float
) -> None:
    ways = Ways(*outcomes)

    async def story() -> tuple[bool, float]:
        return await first_to_succeed(ways.attempts, 0.25), asyncio.get_running_loop().time()

    assert virtual_time.run(story()) == (result, pytest.approx(seconds))
    assert (ways.began, sorted(ways.given_up)) == (began, given_up)


def test_defect_of_an_attempt_ends_the_others() -> None:
    ways = Ways((NEVER, True))

    async def defect() -> bool:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        virtual_time.run(_run(first_to_succeed([*ways.attempts, defect], 0.25)))
    assert ways.given_up == [0]


async def _run(work: Coroutine[None, None, bool]) -> bool:
    return await work


async def test_families_of_a_name_take_turns_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    v6 = [(socket.AF_INET6, 2, 17, "", (f"2001:db8::{n}", 3478, 0, 0)) for n in range(1, 9)]
    v4 = [(socket.AF_INET, 2, 17, "", (f"192.0.2.{n}", 3478)) for n in (1, 2, 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [*v6, *v4])
    found = await resolve("turn.example.org", 3478)
    assert [host for host, _ in found] == [
        "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3", "2001:db8::4",
    ]  # fmt: skip
    assert len(found) == MAX_ADDRESSES
