"""A task tells its own cancellation from that of what it waits for."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.engine.cancellation import is_told_to_end


@pytest.mark.parametrize("own", [True, False])
async def test_a_task_knows_whether_it_was_cancelled_itself(own: bool) -> None:
    shared = asyncio.get_running_loop().create_future()

    async def wait() -> bool:
        try:
            await asyncio.shield(shared)
        except asyncio.CancelledError:
            return is_told_to_end()
        raise AssertionError("it is cancelled")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    (task if own else shared).cancel()
    assert await task is own
