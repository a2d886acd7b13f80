"""What nobody waits for any more is taken back, and holds nobody up."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.engine.undone import taken_back, undone_if_cancelled
from tests import virtual_time


class Server:
    """Makes one thing, after a while."""

    def __init__(self, takes_s: float = 1.0, *, fails: bool = False, undo_takes_s: float = 0.0) -> None:
        self.takes_s, self.fails, self.undo_takes_s = takes_s, fails, undo_takes_s
        self.made = 0
        self.undone: list[str] = []

    async def make(self) -> str:
        await asyncio.sleep(self.takes_s)
        if self.fails:
            raise LookupError("no")
        self.made += 1
        return "session"

    async def undo(self, what: str) -> None:
        await asyncio.sleep(self.undo_takes_s)
        self.undone.append(what)


async def cancelled_after(server: Server, seconds: float) -> float:
    """Cancel whoever waits; returns how long that took to end."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(undone_if_cancelled(server.make(), server.undo, within_s=3))
    await asyncio.sleep(seconds)
    started = loop.time()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    return loop.time() - started


def test_what_is_waited_for_is_had() -> None:
    server = Server()
    assert virtual_time.run(undone_if_cancelled(server.make(), server.undo)) == "session"
    assert server.undone == []


def test_failure_is_had_as_well() -> None:
    server = Server(fails=True)
    with pytest.raises(LookupError):
        virtual_time.run(undone_if_cancelled(server.make(), server.undo))


def test_what_comes_after_whoever_waited_was_cancelled_is_taken_back() -> None:
    server = Server(1.0)
    assert virtual_time.run(cancelled_after(server, 0.25)) == pytest.approx(0.75)
    assert (server.made, server.undone) == (1, ["session"])


@pytest.mark.parametrize(("server", "takes_s"), [(Server(100.0), 3.0), (Server(undo_takes_s=100.0), 3.75)])
def test_what_does_not_come_or_cannot_be_taken_back_holds_up_nobody(server: Server, takes_s: float) -> None:
    assert virtual_time.run(cancelled_after(server, 0.25)) == pytest.approx(takes_s)
    assert server.undone == []


def test_what_was_not_made_is_not_taken_back() -> None:
    server = Server(fails=True)
    virtual_time.run(cancelled_after(server, 0.25))
    assert server.undone == []


def test_taking_back_never_hides_why_it_was_done() -> None:
    async def fails() -> None:
        raise LookupError("gone")

    virtual_time.run(taken_back(fails()))
