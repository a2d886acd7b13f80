"""The main job through a real homeserver: a user reaches TCP services behind the bridge."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from mxrtc_bridge.cli.bridge.packages import MODULES
from mxrtc_bridge.client.known_services import load_known
from mxrtc_bridge.client.state import StateFolder
from tests.e2e.world import World, digest, echo, payload, pump

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

MIB = 1 << 20
WITHOUT = Path(__file__).parent.parent / "without.py"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("pipe")
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        world.own_calls = False
        await world.serve("echo", echo)
        await world.serve("digest", digest)
        await world.serve("secret", echo)
        world.services["down"] = {"target": "tcp:127.0.0.1:1"}
        world.services["log"] = {"target": f"append:{folder / 'log'}"}
        world.services["motd"] = {"target": f"read:{folder / 'log'}"}
        world.grant("alice", "build/echo", "build/digest", "build/down", "build/log", "build/motd")
        await world.add_user("alice", by_program=True)
        await world.add_user("mallory")
        await world.start_bridge()
        yield world


async def test_connect_moves_64_mib_both_ways_at_once(world: World) -> None:
    """What goes in comes back, byte for byte, with both directions full at the same time."""
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    data = payload(64 * MIB)
    received = await asyncio.wait_for(pump(port, data), 120)
    assert hashlib.sha256(received).hexdigest() == hashlib.sha256(data).hexdigest()
    await process.wait_for_line(r"direct \(host to (host|prflx)", 5)
    assert await process.terminate() in (0, 130)


async def test_nc_receives_the_rest_after_its_stdin_has_closed(world: World) -> None:
    """Half-close: the service answers only after it has seen the end of what nc was given."""
    data = payload(3 * MIB + 17)
    code, out, err = await world.run_mxrtc("alice", "nc", "build/digest", stdin=data)
    assert code == 0, err
    assert out.decode().strip() == hashlib.sha256(data).hexdigest()


async def test_nc_needs_nothing_that_the_bridge_alone_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = ",".join(name.partition(".")[0] for name in MODULES)
    monkeypatch.setattr(world, "client", [sys.executable, WITHOUT, hidden])
    code, out, err = await world.run_mxrtc("alice", "nc", "build/digest", stdin=b"hello")
    assert code == 0, err
    assert out.decode().strip() == hashlib.sha256(b"hello").hexdigest()


async def test_nc_appends_to_a_file_and_reads_it(world: World) -> None:
    data = payload(2 * MIB + 3)
    for part in (data[:MIB], data[MIB:]):
        code, out, err = await world.run_mxrtc("alice", "nc", "build/log", stdin=part)
        assert (code, out) == (0, b""), err
    assert (world.folder / "log").read_bytes() == data
    code, out, err = await world.run_mxrtc("alice", "nc", "build/motd")
    assert (code, out == data) == (0, True), err
    code, _, err = await world.run_mxrtc("alice", "nc", "build/motd", stdin=b"for nobody")
    assert code == 6
    assert "the stream was cut (nothing can be sent to this service: it gives data and takes none)" in err


async def test_200_parallel_connections_share_one_session(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    payloads = [payload(4096 + i) for i in range(200)]
    received = await asyncio.wait_for(asyncio.gather(*(pump(port, data) for data in payloads)), 90)
    assert received == payloads
    await process.terminate()
    opened = [line for line in world.log_text().splitlines() if "session open" in line]
    assert opened, "each session leaves one line"


async def test_user_without_a_grant_is_refused_for_good(world: World) -> None:
    """No right: the exit code says never, and nothing in the answer says what exists."""
    code, out, err = await world.run_mxrtc("mallory", "nc", "build/echo")
    assert code == 3, err
    assert out == b""
    assert "secret" not in err
    assert "digest" not in err


@pytest.mark.parametrize("service", ["nothing", "secret"])
async def test_unknown_and_forbidden_service_look_the_same(world: World, service: str) -> None:
    code, _, err = await world.run_mxrtc("alice", "nc", f"build/{service}")
    assert code == 3
    assert f"build/{service}" in err
    assert "Traceback" not in err


async def test_target_that_is_down_is_said_and_may_be_tried_again(world: World) -> None:
    code, _, err = await world.run_mxrtc("alice", "nc", "build/down")
    assert code == 1, err
    assert "build/down" in err
    assert "Traceback" not in err


async def test_ls_shows_what_the_user_may_use_and_nothing_else(world: World) -> None:
    Path(world.services["motd"]["target"].removeprefix("read:")).touch()  # which another test writes, if it runs
    states = {"digest": "up", "down": "down", "echo": "up", "log": "up", "motd": "up"}
    wanted = [f"build/{name}\tstream\t{state}\t\tmxrtc connect build/{name}" for name, state in states.items()]
    code, out, err = await world.run_mxrtc("alice", "ls")
    assert code == 0, err
    assert sorted(out.decode().splitlines()) == wanted
    code, out, err = await world.run_mxrtc("alice", "ls", "build")
    assert code == 0, err
    assert sorted(out.decode().splitlines()) == wanted
    login = StateFolder(world.folder / "state-alice").load_login()
    known = load_known(StateFolder(world.folder / "state-alice"), login.user_id)
    assert {name for _, name in known.kinds} == set(states), "which a shell completes from now on"


async def test_ping_tells_the_round_trip_and_the_path(world: World) -> None:
    code, out, err = await world.run_mxrtc("alice", "--json", "ping", "build", "-c", "3")
    assert code == 0, err
    objects = [json.loads(line) for line in out.decode().splitlines()]
    assert all("kind" in each for each in objects)
    trips = [each["ms"] for each in objects if each["kind"] == "pong"]
    assert len(trips) == 3
    assert all(0 < ms < 5000 for ms in trips)
    assert any(each.get("path", "").startswith("direct") for each in objects)


async def test_results_of_ping_are_data_and_what_it_says_meanwhile_is_not(world: World) -> None:
    code, out, err = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, err
    assert re.fullmatch(r"build: 1 of 1, [\d.]+ ms\nbuild: 1 of 1 answered, median [\d.]+ ms\n", out.decode())
    assert err.startswith("connected to build: ")
    assert err.count("\n") == 1


async def test_status_names_the_user_and_the_running_connects(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    code, out, err = await world.run_mxrtc("alice", "--json", "status")
    assert code == 0, err
    objects = [json.loads(line) for line in out.decode().splitlines()]
    assert any(each["kind"] == "login" and each["user"] == "@alice:example.test" for each in objects)
    sessions = [each for each in objects if each["kind"] == "session"]
    assert [each["pid"] for each in sessions] != []
    assert any(str(port) in json.dumps(each) for each in sessions)
    await process.terminate()


async def test_log_of_the_bridge_holds_no_address_and_no_description(world: World) -> None:
    """What is logged at INFO may be shown to anybody who helps: no candidates, no SDP, no tokens."""
    text = world.log_text()
    assert "session open" in text
    for secret in ("a=candidate", "ice-pwd", "ice-ufrag", "fingerprint:", "hs" * 24, "as" * 24, "192.0.2."):
        assert secret not in text
    # Loopback is where this bridge was told to listen, and nothing else may name an address.
    addressed = [line for line in text.splitlines() if "127.0.0.1" in line and "listening on" not in line]
    assert not [line for line in addressed if "homeserver" not in line]
