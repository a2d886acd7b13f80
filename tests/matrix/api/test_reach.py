"""Whoever waits for the homeserver in vain learns what was silent on the way there."""

from __future__ import annotations

import contextlib
import socket
import threading
from http import HTTPMethod as Method
from typing import Any

import pytest
from aiohttp import web

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.matrix.api.reach import Reach
from mxrtc_bridge.matrix.api.transport import Repeat, RetryPolicy
from tests.fakes import VirtualTime
from tests.matrix.api.test_transport import ask, make
from tests.matrix.conftest import ScriptedServer
from tests.waiting import until


async def test_a_resolver_that_is_silent_is_told_from_a_homeserver_that_is(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, answers = list[Reach](), threading.Event()
    port = scripted.url.rpartition(":")[2]

    def resolve(*_: object) -> list[Any]:
        answers.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    transport = make(
        f"http://matrix.test:{port}",
        VirtualTime(),
        timeout_s=0.05,
        retry=RetryPolicy(total_s=0),
        on_reach=steps.append,
    )
    for _ in range(2):
        # The second waits for the question of the first.
        with pytest.raises(HomeserverError, match=r"reached: no resolver said within 0\.05 seconds where it is$"):
            await transport.request("ask", Method.GET, "x")
    assert steps == [Reach.NAME, Reach.NAME]
    answers.set()
    await until(lambda: steps[2:])
    scripted.answers = [web.json_response({}), web.json_response({})]
    steps.clear()
    for _ in range(2):
        await transport.request("ask", Method.GET, "x", timeout_s=10)
    assert steps == [Reach.NAME, Reach.CONNECTION, Reach.ANSWER, Reach.ANSWER]
    await transport.close()


async def test_a_homeserver_that_takes_no_connection_is_told_from_one_that_says_nothing() -> None:
    """As behind a firewall that drops packets: here a listener whose queue is full."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        transport = make(f"http://127.0.0.1:{full.getsockname()[1]}", VirtualTime(), timeout_s=0.05)
        with pytest.raises(HomeserverError, match=r"cannot be reached: it took no connection within 0\.05 seconds$"):
            await ask(transport, repeat=Repeat.NEVER)
