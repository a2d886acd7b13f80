"""One process an account: other commands use its connections, without a call of their own, and outlive its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import ManagedProcess, ProcessError
from tests.e2e.test_verify import Verifying
from tests.e2e.world import World, digest, echo, payload, pump
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

MIB = 1 << 20
GUESTS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("shared")
    for name in ("inbox", "share"):
        (folder / name).mkdir()
    (folder / "share" / "notes.txt").write_bytes(b"what there is\n")
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        world.own_calls = False
        await world.serve("echo", echo)
        await world.serve("digest", digest)
        world.services["inbox"] = {"files": {"dir": str(folder / "inbox"), "direction": "receive"}}
        world.services["share"] = {"files": {"dir": str(folder / "share"), "direction": "send"}}
        world.grant("alice", "build/echo", "build/digest", "build/inbox", "build/share")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


def sessions(world: World) -> int:
    """How many calls the bridge has answered."""
    return world.log_text().count("session open")


async def connect(world: World, stack: AsyncExitStack) -> tuple[ManagedProcess, int]:
    process = await stack.enter_async_context(world.mxrtc("alice", "connect", "build/echo", "-L", "0"))
    found = await process.wait_for_line(r"listening on 127\.0\.0\.1:(\d+)", 60)
    return process, int(found[1])


async def test_every_command_beside_another_one_uses_its_connection(world: World, tmp_path: Path) -> None:
    """Bytes with half-close, lists, pings and files in both directions, by one call."""
    async with AsyncExitStack() as stack:
        await connect(world, stack)
        before = sessions(world)
        data = payload(5 * MIB + 17)
        code, out, err = await world.run_mxrtc("alice", "nc", "build/digest", stdin=data)
        assert (code, out.decode().strip()) == (0, hashlib.sha256(data).hexdigest()), err
        assert "connected to build/digest: direct" in err
        code, out, err = await world.run_mxrtc("alice", "ls", "build")
        assert code == 0, err
        assert sorted(line.split("\t")[:3] for line in out.decode().splitlines()) == [
            ["build/digest", "stream", "up"],
            ["build/echo", "stream", "up"],
            ["build/inbox", "inbox", "up"],
            ["build/share", "share", "up"],
        ]
        code, out, err = await world.run_mxrtc("alice", "ping", "build", "-c", "2")
        assert code == 0, err
        assert "2 of 2 answered" in out.decode()
        (tmp_path / "large").write_bytes(data)
        code, _, err = await world.run_mxrtc("alice", "send", tmp_path / "large", "build/inbox")
        assert code == 0, err
        (arrived,) = (each for each in (world.folder / "inbox").rglob("large*") if each.is_file())
        assert arrived.read_bytes() == data
        code, _, err = await world.run_mxrtc("alice", "get", "build/share:notes.txt", "-o", f"{tmp_path / 'back'}/")
        assert code == 0, err
        assert (tmp_path / "back" / "notes.txt").read_bytes() == b"what there is\n"
        code, out, err = await world.run_mxrtc("alice", "ls", "build/share")
        assert "notes.txt" in out.decode(), err
        assert sessions(world) == before == 1, "no call but the first"


async def test_20_guests_at_once_share_one_session(world: World) -> None:
    async with AsyncExitStack() as stack:
        await connect(world, stack)
        before = sessions(world)
        data = [payload(100_000 + each) for each in range(GUESTS)]
        results = await asyncio.gather(
            *(world.run_mxrtc("alice", "nc", "build/digest", stdin=each, timeout_s=240) for each in data)
        )
        assert [(code, out.decode().strip()) for code, out, _ in results] == [
            (0, hashlib.sha256(each).hexdigest()) for each in data
        ]
        assert sessions(world) == before


async def test_commands_that_begin_at_once_make_one_call(world: World) -> None:
    before = sessions(world)
    results = await asyncio.gather(*(world.run_mxrtc("alice", "ping", "build", "-c", "3") for _ in range(4)))
    assert [code for code, _, _ in results] == [0] * 4, [err for _, _, err in results]
    assert sessions(world) - before < 4


async def test_a_guest_outlives_the_command_whose_connection_it_uses(world: World) -> None:
    """That one is done, says so, and ends once its guest has a connection of its own."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            world.mxrtc("alice", "--json", "ping", "build", "-c", "60", "-i", "0.25")
        )
        await first.wait_for_line('"kind": "connected"', 60)
        guest, port = await connect(world, stack)
        await first.wait_for_line('"kind": "lending"', 30)
        data = payload(MIB)
        assert await pump(port, data) == data
        assert await first.wait(60) == 0, first.tail()
        assert guest.returncode is None
        assert await pump(port, data) == data
        # The guest holds the account now, and lends as well.
        before = sessions(world)
        code, _, err = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, err
        assert sessions(world) == before


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGINT])
async def test_a_hang_up_is_for_the_command_and_not_for_its_guests(world: World, how: signal.Signals) -> None:
    """As ssh hangs up on its ProxyCommand while another ssh goes by it; a second Ctrl-C ends it."""
    async with AsyncExitStack() as stack:
        holder, _ = await connect(world, stack)
        _, port = await connect(world, stack)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        holder.send_signal(how)
        await holder.wait_for_line("this command is done, but another mxrtc command uses its connections", 15)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 15) == b"hello"
        assert holder.returncode is None
        # Two of a kind that come close together are one.
        while holder.returncode is None:
            holder.send_signal(signal.SIGINT)
            with contextlib.suppress(ProcessError):
                await holder.wait(2)
        assert holder.returncode == 130
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 15)
        writer.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_holder_is_killed_streams_are_reset_and_a_guest_takes_its_place(
    world: World, how: signal.Signals
) -> None:
    async with AsyncExitStack() as stack:
        holder, _ = await connect(world, stack)
        guest, port = await connect(world, stack)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        holder.send_signal(how)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(15):
                await reader.read()
        writer.close()
        found = await guest.wait_for_line("connection lost: build: (.*); calling again", 15)
        assert found[1] == "the mxrtc command whose connection this was has ended"
        data = payload(MIB)
        async with asyncio.timeout(60):
            assert await pump(port, data) == data
        before = sessions(world)
        code, _, err = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, err
        assert sessions(world) == before, "the one that took its place lends as well"


async def test_a_guest_that_is_killed_leaves_nothing_behind(world: World) -> None:
    """The service sees that it was cut, and the command that lends goes on."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        try:
            await reader.read()
        except ConnectionResetError:
            ended.set_result("reset")
        else:
            ended.set_result("closed in order")

    async with AsyncExitStack() as stack:
        await world.serve("watch", watch)
        world.grant("alice", "build/watch")
        await world.reload_and_wait()
        holder, port = await connect(world, stack)
        guest = await stack.enter_async_context(world.mxrtc("alice", "connect", "build/watch", "-L", "0"))
        found = await guest.wait_for_line(r"listening on 127\.0\.0\.1:(\d+)", 60)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
        assert await reader.readexactly(1) == b"x"
        guest.kill()
        async with asyncio.timeout(15):
            assert await ended == "reset"
        writer.close()
        data = payload(MIB)
        assert await pump(port, data) == data
        assert holder.returncode is None


async def test_a_holder_that_hangs_holds_up_nobody(world: World) -> None:
    async with AsyncExitStack() as stack:
        holder, _ = await connect(world, stack)
        holder.send_signal(signal.SIGSTOP)
        try:
            code, out, err = await world.run_mxrtc("alice", "nc", "build/digest", stdin=b"hello")
        finally:
            holder.send_signal(signal.SIGCONT)
        assert (code, out.decode().strip()) == (0, hashlib.sha256(b"hello").hexdigest()), err


async def test_when_a_holder_hangs_in_the_middle_a_guest_is_told_and_calls_by_itself(world: World) -> None:
    async with AsyncExitStack() as stack:
        holder, _ = await connect(world, stack)
        guest, port = await connect(world, stack)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        holder.send_signal(signal.SIGSTOP)
        try:
            await guest.wait_for_line("gives no sign of life; it may be stopped, or hang", 30)
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(30):
                    await reader.read()
            writer.close()
            data = payload(MIB)
            async with asyncio.timeout(60):
                assert await pump(port, data) == data
        finally:
            holder.send_signal(signal.SIGCONT)


async def test_a_verification_that_waits_for_a_person_holds_up_no_other_command(world: World) -> None:
    """It has the device all the time, and holds the account: others call through it."""
    async with AsyncExitStack() as stack:
        verifying = await stack.enter_async_context(Verifying(world, "build"))
        await verifying.says("compare")
        before = sessions(world)
        code, out, err = await world.run_mxrtc("alice", "nc", "build/digest", stdin=b"hello")
        assert (code, out.decode().strip()) == (0, hashlib.sha256(b"hello").hexdigest()), err
        assert sessions(world) == before + 1
        code, out, err = await world.run_mxrtc("alice", "devices", "build")
        assert code == 0, err
        assert "\t" in out.decode()
        verifying.answer("no")
        await verifying.says("error")


async def test_what_asks_the_device_goes_through_the_command_that_has_it(world: World) -> None:
    async with AsyncExitStack() as stack:
        await connect(world, stack)
        code, out, err = await world.run_mxrtc("alice", "devices")
        assert code == 0, err
        assert "this one" in out.decode()
        code, _, err = await world.run_mxrtc("alice", "trust", "build")
        assert code == 0, err
        assert "is known by the identity" in err
        verifying = await stack.enter_async_context(Verifying(world, "build"))
        await verifying.says("compare")
        code, _, err = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, err


async def test_a_command_that_wants_its_own_call_makes_one(world: World) -> None:
    async with AsyncExitStack() as stack:
        await connect(world, stack)
        before = sessions(world)
        code, _, err = await world.run_mxrtc("alice", "--own-call", "ping", "build", "-c", "1")
        assert code == 0, err
        assert sessions(world) == before + 1


async def test_nc_beside_a_warm_connection_starts_in_a_fraction_of_the_time(world: World) -> None:
    """By what both say of themselves, in one run, so that a machine with much to do changes little."""

    async def setup_ms(*options: str) -> float:
        code, _, err = await world.run_mxrtc("alice", "--json", *options, "nc", "build/digest", stdin=b"x")
        assert code == 0, err
        (connected,) = (each for each in map(json.loads, err.splitlines()) if each["kind"] == "connected")
        return float(connected["setup_ms"])

    async with AsyncExitStack() as stack:
        await connect(world, stack)
        warm = sorted([await setup_ms() for _ in range(3)])[1]
        cold = sorted([await setup_ms("--own-call") for _ in range(3)])[1]
        assert warm < cold / 3, (warm, cold)


async def test_the_socket_is_for_its_user_alone(world: World) -> None:
    async with AsyncExitStack() as stack:
        await connect(world, stack)
        socket = world.folder / "state-alice" / "account.sock"
        assert re.fullmatch("0o14[01]600", oct(socket.stat().st_mode))


async def test_up_in_the_background_keeps_connections_that_others_use(world: World, tmp_path: Path) -> None:
    file = tmp_path / "up.toml"
    file.write_text('[connections]\n0 = "build/echo"\n"127.0.0.1:0" = "build/digest"\n')
    before = sessions(world)
    code, _, err = await world.run_mxrtc("alice", "up", "--bg", file)
    assert code == 0, err
    try:
        log = world.folder / "state-alice" / "up.log"
        await until(lambda: log.read_text().count("listening on") == 2, 60)
        (port,) = re.findall(r"listening on 127\.0\.0\.1:(\d+) for build/echo", log.read_text())
        data = payload(MIB)
        assert await pump(int(port), data) == data
        code, out, err = await world.run_mxrtc("alice", "nc", "build/digest", stdin=data)
        assert (code, out.decode().strip()) == (0, hashlib.sha256(data).hexdigest()), err
        code, out, err = await world.run_mxrtc("alice", "--json", "status")
        rows = [json.loads(line) for line in out.decode().splitlines()]
        shown = [(row["peer"], row["up"]) for row in rows if row["kind"] == "session"]
        assert shown == [("build", str(file))] * 2
        assert sessions(world) == before + 1, "one call for all"
        code, _, err = await world.run_mxrtc("alice", "up", file)
        assert (code, "runs already for this account" in err) == (7, True), err
    finally:
        code, _, err = await world.run_mxrtc("alice", "down")
    assert (code, "ended (process" in err) == (0, True), err
    code, out, _ = await world.run_mxrtc("alice", "status")
    assert "no connections are running" in out.decode()
