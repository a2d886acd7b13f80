"""A page in Chromium with the real matrix-js-sdk calls a peer and exchanges bytes, from the specification alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.pages import run_page
from tests.e2e.world import PASSWORD, World, digest, echo

pytestmark = pytest.mark.real


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("raw-echo", echo, raw=True)
        await world.serve("digest", digest)
        world.grant("alice", "build/raw-echo", "build/digest")
        # Browsers never use loopback addresses of their own, so the bridge offers all the others.
        world.settings["ice"] = {"interfaces": [], "remote": {"loopback": True, "private": True}}
        await world.homeserver.register_user("alice", PASSWORD)
        await world.start_bridge()
        yield world


async def test_page_with_the_js_sdk_exchanges_bytes_over_raw_and_tcp_channels(world: World, tmp_path: Path) -> None:
    result = await run_page("page.js", "exchange", world, tmp_path)
    assert "failed" not in result, result
    assert result["rawEqual"], "a raw channel carries bytes unchanged"
    assert result["digestEqual"], "a tcp channel half-closes and still reads the answer"
    assert '"denied"' in result["refusal"] or '"unknown"' in result["refusal"]
    assert result["rawForbiddenClosed"], "raw is only for services that allow it"
    assert result["state"] == "connected", result["log"]
