"""Each connection of the file is kept by itself, and what fails is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mxrtc_bridge.client.account import status
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context, Forward
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.status_socket import running_commands
from mxrtc_bridge.client.up import running
from mxrtc_bridge.client.up.connections_file import UpConnection
from mxrtc_bridge.client.up.running import Up
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import ServiceName, UserId
from tests.client.sharing.bench import PEER, Network, Placed
from tests.waiting import until

LOGIN = Login("http://127.0.0.1:1", UserId("@alice:example.org"), "LAPTOP", "secret-token")
SSH = PeerName(PEER, ServiceName("ssh"))


class Bench:
    def __init__(self, folder: Path, network: Network, *ports: int) -> None:
        self.told = io.StringIO()
        self.state = StateFolder(folder / "state")
        self.context = Context(self.state, Report(sentences=self.told))
        self.state.save_login(LOGIN)
        self.calls = Calls(self.context, LOGIN, place=network.place)
        connections = [UpConnection(Forward("127.0.0.1", port, None), SSH) for port in ports]
        self.up = Up(self.calls, self.context, connections, folder / "up.toml", pause=lambda _failures: 0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        async with self.calls:
            task = asyncio.create_task(self.up.run())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def rows(self) -> list[dict[str, object]]:
        rows = self.up.status()["connections"]
        assert isinstance(rows, list)
        return rows

    async def listening(self) -> int:
        await until(lambda: self.rows()[0].get("listening"))
        (address,) = self.rows()[0]["listening"]  # type: ignore[misc]
        return int(address.rpartition(":")[2])


async def test_a_connection_that_fails_is_tried_again_until_it_stands(tmp_path: Path) -> None:
    placed = Placed()
    denied = ClientError(Exit.DENIED, "you have no right to it")
    network = Network(ClientError(Exit.OFFLINE, "no answer"), HomeserverError("it is away"), denied, placed)
    bench = Bench(tmp_path, network, 0)
    async with bench.running():
        reader, writer = await asyncio.open_connection("127.0.0.1", await bench.listening())
        await until(lambda: [each for each in placed.session.connector.sinks if each.listener])
        placed.session.connector.sinks[0].listener.data_received(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 10) == b"hello"
        writer.close()
    said = bench.told.getvalue()
    for why in ("no answer", "it is away", "you have no right to it"):
        assert f"build/ssh: {why}; trying again in 0 s" in said


async def test_one_that_cannot_listen_is_told_and_tried_again_and_holds_up_no_other(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bench = Bench(tmp_path, Network(Placed(), Placed()), 0, taken.getsockname()[1])
        async with bench.running():
            await bench.listening()
            await until(lambda: "another program listens there" in bench.told.getvalue())
            await until(lambda: "another program listens there" in str(bench.rows()[1].get("problem")))
            assert bench.rows()[1]["peer"] == "build/ssh"


async def test_all_of_one_peer_share_a_call(tmp_path: Path) -> None:
    network = Network(Placed())
    bench = Bench(tmp_path, network, 0, 0)
    async with bench.running():
        await until(lambda: all(row.get("listening") for row in bench.rows()))
        assert len(network.options) == 1


async def test_status_shows_each_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, Network(Placed()), 0)
    async with bench.running():
        port = await bench.listening()
        (command,) = await running_commands(bench.state)
        assert command["up"] == str(tmp_path / "up.toml")
        with pytest.raises(ClientError):
            await status(Context(bench.state, Report()))
    assert f"listening on 127.0.0.1:{port}" in capsys.readouterr().out


async def test_a_login_that_counts_no_more_ends_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Network(HomeserverError("logged out", 401, "M_UNKNOWN_TOKEN")), 0)
    async with bench.running() as task:
        with pytest.raises(BaseExceptionGroup) as ended:
            await asyncio.wait_for(task, 10)
    assert ended.group_contains(HomeserverError, match="logged out")


async def test_a_defect_is_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Network(ZeroDivisionError("ours")), 0)
    async with bench.running() as task:
        with pytest.raises(BaseExceptionGroup) as ended:
            await asyncio.wait_for(task, 10)
    assert ended.group_contains(ZeroDivisionError)


async def test_there_is_one_for_each_account(tmp_path: Path) -> None:
    """And the second one says what to do, instead of taking the ports of the first."""
    state = StateFolder(tmp_path / "state")
    state.save_login(LOGIN)
    path = tmp_path / "up.toml"
    path.write_text('[connections]\n0 = "build/ssh"\n')
    context = Context(state, Report(sentences=io.StringIO()))
    first = asyncio.create_task(running.run(context, path))
    await until(lambda: (state.path / "run").exists() and list((state.path / "run").iterdir()))
    with pytest.raises(ClientError, match="runs already for this account; mxrtc status shows it") as refused:
        await running.run(context, path)
    assert refused.value.code is Exit.LOCAL
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
