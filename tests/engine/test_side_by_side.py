"""Many things, a few at a time: whoever waits and tries again is told of what may pass by itself."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import HomeserverError, MxrtcError, StorageError
from mxrtc_bridge.engine.side_by_side import each


@pytest.mark.parametrize("error", [HomeserverError("away", 502), StorageError("busy")])
async def test_failure_that_may_pass_is_raised_by_itself_and_ends_the_rest(error: MxrtcError) -> None:
    done: list[int] = []

    async def action(item: int) -> None:
        await asyncio.sleep(0)
        if item in (2, 3):
            raise error
        done.append(item)

    with pytest.raises(type(error)) as raised:
        await each(range(100), action, 4)
    assert raised.value is error
    assert len(done) < 10
