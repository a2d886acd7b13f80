"""What people read when something is not there: the true cause, soon, and in the right exit code."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.e2e.test_ssh import run
from tests.e2e.world import BIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

LIMIT_S = 40
"""For what ends after 15 seconds of silence, on a machine with much else to do."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("causes"), stack)
        await world.serve("echo", echo)
        world.services["dead"] = {"target": "tcp:127.0.0.1:1"}
        world.grant("alice", "build")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


@pytest.mark.parametrize(
    ("service", "words"),
    [("nosuch", "there is no such service, or you have no right to it"), ("dead", "the service cannot be reached now")],
)
async def test_ssh_shows_why_there_is_nothing_behind_it(world: World, service: str, words: str) -> None:
    """ssh ends its ProxyCommand when the output ends: the reason is said before."""
    proxy = f"{BIN / 'mxrtc'} -q nc build/{service}"
    for _ in range(2):
        code, _, said = await run(
            "ssh", "-F", "none", "-o", f"ProxyCommand={proxy}", "build", "true", **world.env("alice")
        )
        assert code == 255
        assert words in said.decode()
        assert "connected to" not in said.decode()


async def test_a_peer_of_a_server_that_nobody_knows(world: World) -> None:
    code, _, said = await world.run_mxrtc("alice", "--timeout", "15", "ping", "build@nosuch.invalid", timeout_s=LIMIT_S)
    assert code == 1, said
    assert "does not reach nosuch.invalid" in said


async def test_an_interface_that_is_not_there(world: World) -> None:
    code, _, said = await world.run_mxrtc("alice", "--interface", "eth9", "ping", "build")
    assert code == 5, said
    assert "No network interface matches (eth9); this machine has: " in said


async def test_a_bridge_without_its_interface_says_so_in_its_log(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    ice = {"interfaces": ["eth9"], "remote": {"loopback": True, "private": True}}
    world.settings["ice"] = ice
    try:
        bridge = await world.start_bridge()
        code, _, said = await world.run_mxrtc("alice", "ping", "build")
        assert code == 1, said
        assert (
            "The bridge could not take the call; its log says why" in said.partition("mxrtc: build: ")[2].capitalize()
        )
        await bridge.wait_for_line(r"no network interface matches \(eth9\)", 5)
        await bridge.terminate(20)
    finally:
        del world.settings["ice"]


async def test_a_bridge_that_may_use_relays_only_and_has_none(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"turn:127.0.0.1:{closed.getsockname()[1]}"
    server = {"urls": [uri], "username": "user", "credential": "secret"}
    remote = {"loopback": True, "private": True}
    world.settings["ice"] = {"interfaces": ["lo"], "remote": remote, "policy": "relay", "servers": [server]}
    try:
        bridge = await world.start_bridge()
        code, _, said = await world.run_mxrtc("alice", "ping", "build", timeout_s=LIMIT_S)
        assert code == 5, said
        assert "build: no packets can pass, as the bridge may use relays only, and no TURN server gives it one" in said
        await bridge.wait_for_line("this machine lacks what a call needs: none of 1 TURN servers gave a relayed", 5)
        await bridge.terminate(20)
    finally:
        del world.settings["ice"]


@pytest.mark.parametrize("way", ["auto", "room"])
async def test_a_bridge_that_does_not_run(world: World, way: str) -> None:
    assert world.bridge is not None
    if world.bridge.returncode is None:
        await world.bridge.terminate(20)
    commands = [["ping", "build"], ["request", "build/echo"]] if way == "auto" else [["ping", "build"]]
    for command in commands:
        code, _, said = await world.run_mxrtc("alice", "--timeout", "15", "--signal", way, *command, timeout_s=LIMIT_S)
        assert code == 4, (command, said)
        assert "waiting for" in said
        assert re.search("may not be running|is probably not running", said), said


async def test_a_homeserver_that_does_not_answer_and_then_one_that_is_not_there(world: World) -> None:
    stopped = world.homeserver.pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    try:
        code, _, said = await world.run_mxrtc("alice", "--timeout", "5", "ls", timeout_s=LIMIT_S)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert code == 1, said
    assert "waiting for the homeserver" in said
    assert "No answer within 5 seconds" in said
    async with world.homeserver.away():
        code, _, said = await world.run_mxrtc("alice", "ls", timeout_s=LIMIT_S)
        assert code == 1, said
        assert "cannot be reached: connection refused" in said
        # And a bridge says at once what it waits for.
        assert world.bridge is not None
        await world.bridge.terminate(20)
        async with world.admin("run") as bridge:
            await bridge.wait_for_line("waiting for the homeserver: .*connection refused", 20)
