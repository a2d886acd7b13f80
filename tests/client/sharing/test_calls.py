"""Who holds the account, who is its guest, and who calls by itself."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import CallOptions, Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.calls import LOCK_NAME, SOCKET_NAME, Calls
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.core.sharing.frames import Frame, FrameKind
from tests.client.sharing.bench import LOGIN, PEER, Network, Placed
from tests.fakes import FakeSink
from tests.waiting import until

WAITED = "waiting for the peer to answer\n"


class Command:
    """One command, and what it has told."""

    def __init__(self, folder: Path, network: Network, *, share: bool = True, unreachable_s: float = 0.5) -> None:
        self.told = io.StringIO()
        state = StateFolder(folder / "state")
        self.context = Context(state, Report(sentences=self.told), CallOptions(share=share))
        self.calls = Calls(self.context, LOGIN, place=network.place, unreachable_s=unreachable_s)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        async with self.calls as calls, calls.call(PEER) as connection:
            yield connection


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Somebody has the account; returns where its socket belongs."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    with (state / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield state / SOCKET_NAME


async def test_the_second_command_uses_the_session_of_the_first(tmp_path: Path) -> None:
    network = Network(Placed())
    first, second = Command(tmp_path, network), Command(tmp_path, Network())
    async with first.connected(), second.connected() as connection:
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0
    assert len(network.options) == 1


async def test_when_the_first_has_ended_the_second_holds_the_account(tmp_path: Path) -> None:
    """Its next call is its own, and lent to whoever comes."""
    first, network = Command(tmp_path, Network(Placed())), Network(Placed())
    second, third = Command(tmp_path, network), Command(tmp_path, Network())
    async with second.calls as calls:
        async with first.connected():
            async with calls.call(PEER):
                pass
            assert not network.options
        async with calls.call(PEER), third.connected() as connection:
            assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0
    assert len(network.options) == 1


async def test_a_command_that_is_done_goes_on_for_its_guests_and_says_so_once(tmp_path: Path) -> None:
    first, second = Command(tmp_path, Network(Placed())), Command(tmp_path, Network())
    enough = asyncio.Event()

    async def run() -> None:
        async with first.connected():
            await enough.wait()

    running = asyncio.create_task(run())
    await until((tmp_path / "state" / SOCKET_NAME).exists)
    async with second.connected() as connection:
        enough.set()
        await until(lambda: "this command is done" in first.told.getvalue())
        assert not running.done()
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0
        # The account is free meanwhile.
        network = Network(Placed())
        async with Command(tmp_path, network).connected():
            assert len(network.options) == 1
    await asyncio.wait_for(running, 10)
    words = "this command is done, but another mxrtc command uses its connections; it ends with them"
    assert first.told.getvalue() == f"{WAITED}{words} (Ctrl-C ends it now, and cuts them)\n"


async def test_a_command_that_has_failed_says_why_before_it_goes_on_for_its_guests(tmp_path: Path) -> None:
    first, second = Command(tmp_path, Network(Placed())), Command(tmp_path, Network())
    enough = asyncio.Event()

    async def run() -> None:
        async with first.connected():
            await enough.wait()
            raise ClientError(Exit.INTEGRITY, "the stream was cut")

    running = asyncio.create_task(run())
    await until((tmp_path / "state" / SOCKET_NAME).exists)
    async with second.connected():
        enough.set()
        await until(lambda: "ends with them" in first.told.getvalue())
        assert first.told.getvalue().startswith(f"{WAITED}mxrtc: The stream was cut.\n")
    with pytest.raises(ClientError) as ended:
        await asyncio.wait_for(running, 10)
    assert ended.value.told


async def test_a_command_that_is_told_to_end_does_so_at_once_and_its_guests_read_why(tmp_path: Path) -> None:
    first, second = Command(tmp_path, Network(Placed())), Command(tmp_path, Network())

    async def run() -> None:
        async with first.connected():
            await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(run())
    await until((tmp_path / "state" / SOCKET_NAME).exists)
    async with second.connected() as connection:
        local = FakeSink()
        opened = connection.links.open_stream(ServiceName("ssh"), local)
        await asyncio.wait_for(opened.accepted.wait(), 10)
        running.cancel()
        await asyncio.wait([running], timeout=10)
        await asyncio.wait_for(opened.finished, 10)
        assert "reset" in local.events
        assert "whose connection this was has ended" in str(connection.lost("build"))


async def test_a_command_that_is_interrupted_goes_on_for_its_guests_until_it_is_told_again(tmp_path: Path) -> None:
    """As ssh hangs up on its ProxyCommand while another ssh goes by it."""
    first, second = Command(tmp_path, Network(Placed())), Command(tmp_path, Network())

    async def run() -> None:
        async with first.connected():
            await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(run())
    await until((tmp_path / "state" / SOCKET_NAME).exists)
    assert not first.context.lending.stay()
    async with second.connected() as connection:
        assert first.context.lending.stay()
        running.cancel()
        await until(lambda: "this command is done" in first.told.getvalue())
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0
        running.cancel()
        await asyncio.wait([running], timeout=10)
        assert running.cancelled()
        await asyncio.wait_for(connection.links.lost.wait(), 10)


@pytest.mark.parametrize("socket", ["missing", "nobody listens", "silent", "another version"])
async def test_who_gets_no_answer_calls_by_itself(tmp_path: Path, socket: str) -> None:
    network, servers = Network(Placed()), list[asyncio.Server]()

    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if socket == "another version":
            hello = json.dumps({"t": "hello", "version": 1, "pid": 4711}).encode()
            writer.write(Frame(FrameKind.TEXT, 0, hello).encode())
        with contextlib.suppress(OSError):
            await _reader.read()
        writer.close()

    with locked(tmp_path) as path:
        if socket in ("silent", "another version"):
            servers.append(await asyncio.start_unix_server(speak, path))
        elif socket == "nobody listens":
            server = await asyncio.start_unix_server(speak, path)
            server.close()
        command = Command(tmp_path, network)
        async with command.connected() as connection:
            assert len(network.options) == 1
            assert connection.device is not None
        for server in servers:
            server.close()


async def test_who_waits_for_one_that_ends_takes_its_place(tmp_path: Path) -> None:
    network = Network(Placed())
    command = Command(tmp_path, network, unreachable_s=30)
    with locked(tmp_path) as path:
        connecting = asyncio.create_task(command.connected().__aenter__())
        await asyncio.sleep(0.1)
        assert not network.options
    await asyncio.wait_for(connecting, 10)
    assert path.exists()
    await command.calls.__aexit__(None, None, None)
    assert not path.exists()


async def test_who_wants_its_own_call_neither_asks_nor_lends(tmp_path: Path) -> None:
    alone, network = Network(Placed()), Network(Placed())
    async with Command(tmp_path, alone, share=False).connected():
        assert not (tmp_path / "state" / SOCKET_NAME).exists()
        async with (
            Command(tmp_path, network).connected(),
            Command(tmp_path, Network(Placed()), share=False).connected() as third,
        ):
            assert third.device is not None
    assert (len(alone.options), len(network.options)) == (1, 1)


async def test_where_no_socket_can_be_made_a_command_calls_by_itself(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / SOCKET_NAME).mkdir()
    network = Network(Placed())
    async with Command(tmp_path, network).connected():
        assert len(network.options) == 1


async def test_a_lock_of_others_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / LOCK_NAME).symlink_to("/etc/passwd")
    network = Network(Placed())
    async with Command(tmp_path, network).connected():
        assert len(network.options) == 1
        assert not (tmp_path / "state" / SOCKET_NAME).exists()


async def test_a_folder_with_a_long_name_has_its_socket_too(tmp_path: Path) -> None:
    """A socket's name has about a hundred bytes."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    first, second = Command(folder, Network(Placed())), Command(folder, Network())
    async with first.connected(), second.connected() as connection:
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0
