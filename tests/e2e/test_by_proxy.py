"""The client by one proxy and the bridge by another: calls work, and all that is said to the homeserver goes there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.world import DOMAIN, World, echo
from tests.proxies import microsocks, tinyproxy

pytestmark = pytest.mark.real


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        yield world


async def test_client_and_bridge_reach_the_homeserver_by_proxies(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with microsocks(tmp_path) as (socks, socks_process), tinyproxy(tmp_path) as (http, http_process):
        world.settings["homeserver"] = {
            "address": world.homeserver.url,
            "domain": DOMAIN,
            "proxy": f"http://{http}",
        }
        await world.add_user("alice")
        await world.start_bridge()
        monkeypatch.setenv("MXRTC_PROXY", f"socks5://{socks}")
        code, out, said = await world.run_mxrtc("alice", "nc", "build/echo", stdin=b"by a proxy")
        assert (code, out) == (0, b"by a proxy"), said
        code, out, said = await world.run_mxrtc("alice", "netcheck")
        assert f"the homeserver is reached by the proxy socks5://{socks} (MXRTC_PROXY)" in out.decode(), said
        port = world.homeserver.url.rpartition(":")[2]
        assert f"connected to 127.0.0.1:{port}" in socks_process.output("stderr").decode()
        assert f"127.0.0.1:{port}" in http_process.output("stdout").decode() + http_process.output("stderr").decode()
