"""What several calls of one command share."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from mxrtc_bridge.client.calls.caller import Caller
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from tests.catch_all import answering

ALICE = UserId("@alice:example.org")


async def test_a_call_that_does_not_wait_for_turn_servers_leaves_them_to_the_next_one(tmp_path: Path) -> None:
    """A call that was answered so that nobody can read it is made again, within the same command."""
    may_answer = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.json_response({"uris": ["turn:turn.test"], "username": "user", "password": "secret"})

    async with answering(answer) as url:
        login = Login(url, ALICE, "LAPTOP", "secret-token")
        async with Caller(Context(StateFolder(tmp_path / "state"), Report()), login) as caller:
            caller._want_turn()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await caller._ice_servers(ALICE)
            may_answer.set()
            async with asyncio.timeout(5):
                (server,) = await caller._ice_servers(ALICE)
    assert server.urls == ("turn:turn.test",)
