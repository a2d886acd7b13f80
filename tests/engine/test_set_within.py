"""An event is waited for, and no longer than some time."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.engine.set_within import set_within
from tests import virtual_time


@pytest.mark.parametrize("limit_s", [10.0, None])
def test_it_returns_when_the_event_is_set(limit_s: float | None) -> None:
    async def story() -> None:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        began_s = loop.time()
        loop.call_later(3, event.set)
        assert await set_within(event, limit_s)
        assert loop.time() - began_s == pytest.approx(3)
        assert await set_within(event, 0), "what is set already needs no time"

    virtual_time.run(story())


def test_it_gives_up_after_the_time() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert not await set_within(asyncio.Event(), 3)
        assert loop.time() - began_s == pytest.approx(3)

    virtual_time.run(story())
