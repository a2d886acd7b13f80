"""Local connections while the peer connection comes and goes, with the caller faked and the sockets real."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.forwarding import MAX_DEFECTS, Forwarding
from mxrtc_bridge.client.options import Forward
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.events import StreamFinished, StreamOutcome
from mxrtc_bridge.core.stream.messages import ONLY_FILES, RESET_BY_OTHER_SIDE, UNREACHABLE, ServiceKind
from mxrtc_bridge.core.webrtc.ice import Path as IcePath
from mxrtc_bridge.core.webrtc.ice import PathKind
from mxrtc_bridge.engine.client_channels import OpenedStream
from tests.waiting import until

PEER = UserId("@rtc_build:example.org")
ECHO = ServiceName("echo")
AWAY = HomeserverError("the homeserver is away")


class Links:
    """Takes streams and leaves them open until the connection is lost."""

    max_streams = 2

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.streams: list[tuple[ServiceName, Any, OpenedStream]] = []
        self.kinds: dict[tuple[UserId, ServiceName], ServiceKind] = {}
        self.bye: tuple[str, str] | None = None

    async def list_services(self, *, states: bool = False) -> dict[UserId, tuple[ServiceName, ...]]:
        return {PEER: (ECHO,)}

    def open_stream(self, service: ServiceName, sink: Any) -> OpenedStream:
        opened = OpenedStream(asyncio.get_running_loop().create_future())
        self.streams.append((service, sink, opened))
        return opened

    @property
    def is_full(self) -> bool:
        return len(self.streams) > self.max_streams

    def totals(self) -> tuple[int, int, int]:
        return len(self.streams), 0, 0

    def end(self) -> None:
        self.lost.set()
        for _, sink, opened in self.streams:
            sink.reset()
            if not opened.finished.done():
                opened.finished.set_result(StreamFinished(StreamOutcome.LOST, "lost", "the session has ended", 0, 0))


class Connection:
    path = IcePath(PathKind.DIRECT, "host", "host", "ipv4")
    peer = PEER
    setup_s = 0.1
    why_by_room = ""
    device = None

    def __init__(self) -> None:
        self.links = Links()
        self.leaving = asyncio.Event()

    @property
    def why_over(self) -> tuple[str, str] | None:
        return self.links.bye

    def lost(self, name: str) -> ClientError:
        return ClientError(Exit.RETRY, f"{name}: the peer hung up")


class Caller:
    """Gives prepared connections and failures, one a call; waits for ever when there are no more."""

    login = Login("https://example.org", UserId("@alice:example.org"), "DEVICE", "token")

    def __init__(self, *answers: Connection | Exception) -> None:
        self.answers = list(answers)
        self.calls = 0

    @contextlib.asynccontextmanager
    async def call(self, _peer: UserId) -> AsyncIterator[Connection]:
        self.calls += 1
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        try:
            yield answer
        finally:
            answer.links.end()


class Bench:
    def __init__(
        self,
        folder: Path,
        *answers: Connection | Exception,
        ports: tuple[int, ...] = (0,),
        hosts: tuple[str, ...] = ("127.0.0.1",),
        caller: Caller | None = None,
        forwards: list[Forward] | None = None,
        service: ServiceName | None = ECHO,
        **limits: Any,
    ) -> None:
        self.caller = caller or Caller(*answers)
        self.said = io.StringIO()
        report = Report(sentences=self.said)
        self.forwarding = Forwarding(
            self.caller,  # type: ignore[arg-type]
            report,
            PeerName(PEER, service),
            forwards or [Forward(host, port, None) for host in hosts for port in ports],
            StateFolder(folder),
            pause=lambda _failures: 0.01,
            **limits,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.forwarding.run(reconnect=True))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def local(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await until(lambda: self.forwarding.listening)
        host, _, port = self.forwarding.listening[0].rpartition(":")
        return await asyncio.open_connection(host, int(port))


async def test_service_of_files_is_refused_before_anybody_connects(tmp_path: Path) -> None:
    connection = Connection()
    connection.links.kinds[PEER, ECHO] = ServiceKind.INBOX
    bench = Bench(tmp_path, connection)
    with pytest.raises(BaseExceptionGroup) as raised:
        await bench.forwarding.run(reconnect=True)
    (error,) = raised.value.exceptions
    assert isinstance(error, ClientError)
    assert (error.code, str(error)) == (Exit.DENIED, f"build/echo: {ONLY_FILES}")
    assert bench.forwarding.listening == []
    assert "listening" not in bench.said.getvalue()


@pytest.mark.parametrize("named", [ECHO, None])
async def test_port_is_the_usual_one_of_the_service_where_none_is_given(
    tmp_path: Path, named: ServiceName | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as let_go:
        usual = let_go.getsockname()[1]
    ports = {ECHO: usual}
    any_port = [Forward("127.0.0.1", None, None)]
    bench = Bench(tmp_path, Connection(), forwards=any_port, service=named, port_for=ports.__getitem__)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        assert bench.forwarding.listening == [f"127.0.0.1:{usual}"]
        (await bench.local())[1].close()
        second = Bench(tmp_path, Connection(), forwards=any_port, service=named, port_for=ports.__getitem__)
        with pytest.raises(BaseExceptionGroup) as raised:
            await second.forwarding.run(reconnect=True)
    (error,) = raised.value.exceptions
    assert isinstance(error, ClientError)
    assert error.code is Exit.LOCAL
    assert str(error).endswith("another program listens there; stop it or choose another port with -L PORT")
    assert second.caller.calls == (named is None), "a port of a service that is named is taken before anybody is called"


async def test_homeserver_that_asks_for_a_pause_is_not_called_by_before_it_is_over(tmp_path: Path) -> None:
    first, times, loop = Connection(), list[float](), asyncio.get_running_loop()
    bench = Bench(tmp_path, first, HomeserverError("too often", 429, wait_s=0.3), Connection())
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        for calls in (2, 3):
            await until(lambda calls=calls: bench.caller.calls == calls)  # type: ignore[misc]
            times.append(loop.time())
    assert times[1] - times[0] > 0.25


async def test_lost_connection_is_made_again_although_the_homeserver_is_away_for_a_while(tmp_path: Path) -> None:
    first, second = Connection(), Connection()
    bench = Bench(tmp_path, first, AWAY, AWAY, ClientError(Exit.OFFLINE, "no answer"), second)
    async with bench.running() as task:
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        await until(lambda: bench.caller.calls == 5)
        _, writer = await bench.local()
        await until(lambda: second.links.streams)
        assert not task.done()
        writer.close()
    assert bench.said.getvalue().count("the homeserver is away; calling again") == 2


@pytest.mark.parametrize(
    "failure",
    [HomeserverError("unknown token", 401, "M_UNKNOWN_TOKEN"), ClientError(Exit.DENIED, "no right")],
)
async def test_what_never_works_again_ends_the_command(tmp_path: Path, failure: Exception) -> None:
    first = Connection()
    bench = Bench(tmp_path, first, failure)
    async with bench.running() as task:
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        with pytest.raises(BaseExceptionGroup) as raised:
            await asyncio.wait_for(task, 10)
    assert raised.value.exceptions == (failure,)


async def test_defect_of_our_own_is_not_tried_again_for_ever(tmp_path: Path) -> None:
    defect = ClientError(Exit.RETRY, "build: the connection failed (internal_error)", defect=True)
    first, between = Connection(), Connection()
    failures = [defect] * (MAX_DEFECTS - 1)
    bench = Bench(tmp_path, first, *failures, AWAY, *failures, between, *failures, defect)
    async with bench.running() as task:
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        await until(lambda: not bench.caller.answers[MAX_DEFECTS:])
        between.links.lost.set()
        with pytest.raises(BaseExceptionGroup) as raised:
            await asyncio.wait_for(task, 10)
    (error,) = raised.value.exceptions
    assert str(error).startswith(f"build: the connection failed (internal_error); {MAX_DEFECTS} calls in a row")
    assert bench.caller.answers == []


async def test_failure_of_the_first_call_ends_the_command(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AWAY)
    async with bench.running() as task:
        with pytest.raises(BaseExceptionGroup) as raised:
            await asyncio.wait_for(task, 10)
    assert raised.value.exceptions == (AWAY,)
    assert bench.forwarding.listening == []


async def test_port_in_use_ends_the_command_and_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as let_go:
        free = let_go.getsockname()[1]
        let_go.close()
        bench = Bench(tmp_path, Connection(), ports=(free, taken.getsockname()[1]))
        async with bench.running() as task:
            with pytest.raises(BaseExceptionGroup) as raised:
                await asyncio.wait_for(task, 10)
        (error,) = raised.value.exceptions
        assert isinstance(error, ClientError)
        assert error.code is Exit.LOCAL
        assert str(taken.getsockname()[1]) in str(error)
        # Nobody was called for it, and the other port was let go.
        assert bench.caller.calls == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)


async def test_local_connections_wait_for_the_peer_through_several_losses(tmp_path: Path) -> None:
    """Also one that is lost in the very moment in which it was made, before those who waited have their turn."""
    first, brief, last = Connection(), Connection(), Connection()
    brief.links.lost.set()
    bench = Bench(tmp_path, first)
    async with bench.running() as task:
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        await until(lambda: bench.caller.calls == 2)
        local = [await bench.local() for _ in range(3)]
        await until(lambda: bench.forwarding.waiting == 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Cancelled while they wait: reset, for an orderly end would tell that all has come.
        for reader, writer in local:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 10)
            writer.close()
    once_more = Connection()
    bench = Bench(tmp_path, once_more, AWAY, brief, AWAY, last)
    async with bench.running() as task:
        await until(lambda: bench.forwarding.listening)
        once_more.links.lost.set()
        local = [await bench.local() for _ in range(3)]
        await until(lambda: len(last.links.streams) == 3)
        assert not task.done()
        for _, writer in local:
            writer.close()


async def test_local_connections_beyond_the_limit_are_reset(tmp_path: Path) -> None:
    first = Connection()
    bench = Bench(tmp_path, first, max_waiting=2)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        await until(lambda: bench.caller.calls == 2)
        local = [await bench.local() for _ in range(2)]
        await until(lambda: bench.forwarding.waiting == 2)
        reader, writer = await bench.local()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        for _, each in local:
            each.close()


async def test_local_connection_is_reset_when_the_peer_does_not_come_back(tmp_path: Path) -> None:
    first = Connection()
    bench = Bench(tmp_path, first, wait_for_peer_s=0.05)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        first.links.lost.set()
        await until(lambda: bench.caller.calls == 2)
        reader, writer = await bench.local()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()


async def connected(port: int) -> asyncio.StreamWriter:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return (await asyncio.open_connection("127.0.0.1", port))[1]
            await asyncio.sleep(0)


async def test_who_connects_before_the_peer_has_answered_waits_for_it(tmp_path: Path) -> None:
    connection, answered = Connection(), asyncio.Event()

    class SlowCaller(Caller):
        @contextlib.asynccontextmanager
        async def call(self, _peer: UserId) -> AsyncIterator[Connection]:
            await answered.wait()
            async with super().call(_peer) as made:
                yield made

    with socket.create_server(("127.0.0.1", 0)) as let_go:
        port = let_go.getsockname()[1]
    bench = Bench(tmp_path, ports=(port,), caller=SlowCaller(connection))
    async with bench.running():
        writer = await connected(port)
        await until(lambda: bench.forwarding.waiting)
        assert not bench.forwarding.listening
        answered.set()
        await until(lambda: connection.links.streams)
        assert f"listening on 127.0.0.1:{port} for build/echo" in bench.said.getvalue()
        writer.close()


@pytest.mark.parametrize(
    ("finished", "bye", "words"),
    [
        (
            StreamFinished(StreamOutcome.REFUSED, "refused", UNREACHABLE, 0, 0),
            None,
            "build/echo: the service cannot be reached now (refused)",
        ),
        (
            StreamFinished(StreamOutcome.RESET, "reset", RESET_BY_OTHER_SIDE, 3, 4),
            None,
            "build/echo: the stream was cut (the service broke the connection off) after 3 bytes sent and 4 received",
        ),
        (
            StreamFinished(StreamOutcome.RESET, "closed", RESET_BY_OTHER_SIDE, 3, 4),
            ("session_max", "the session has lasted for the longest that it may"),
            "build/echo: the stream was cut (the session has lasted for the longest that it may) after 3 bytes sent",
        ),
    ],
)
async def test_why_a_stream_has_ended_is_said_in_the_words_of_nc(
    tmp_path: Path, finished: StreamFinished, bye: tuple[str, str] | None, words: str
) -> None:
    connection = Connection()
    bench = Bench(tmp_path, connection)
    async with bench.running():
        _, writer = await bench.local()
        await until(lambda: connection.links.streams)
        connection.links.bye = bye
        connection.links.streams[0][2].finished.set_result(finished)
        await until(lambda: words in bench.said.getvalue())
        writer.close()


async def test_an_address_can_be_pasted_as_it_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Connection(), hosts=("::1", "localhost"))
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        assert re.search(r"listening on \[::1\]:\d+ for build/echo\n", bench.said.getvalue())
        assert re.search(r"listening on localhost:\d+ for build/echo\n", bench.said.getvalue())


async def test_local_connections_that_a_session_cannot_carry_are_said_once(tmp_path: Path) -> None:
    connection = Connection()
    bench = Bench(tmp_path, connection)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        local = [await bench.local() for _ in range(Links.max_streams)]
        await until(lambda: len(connection.links.streams) == Links.max_streams)
        assert "at a time" not in bench.said.getvalue()
        local += [await bench.local() for _ in range(3)]
        await until(lambda: len(connection.links.streams) == Links.max_streams + 3)
        assert bench.said.getvalue().count("carries 2 local ones at a time") == 1
        for _, writer in local:
            writer.close()


# Where the connection is lent by a command whose own work is done


async def test_an_idle_command_calls_anew_and_leaves_the_connection_of_a_command_that_is_done(tmp_path: Path) -> None:
    lent, own = Connection(), Connection()
    bench = Bench(tmp_path, lent, own)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        lent.leaving.set()
        await until(lent.links.lost.is_set)
        _, writer = await bench.local()
        await until(lambda: own.links.streams)
        assert bench.caller.calls == 2
        assert "connection lost" not in bench.said.getvalue()
        writer.close()


async def test_what_runs_over_a_lent_connection_goes_on_there_while_new_ones_take_the_own(tmp_path: Path) -> None:
    lent, own = Connection(), Connection()
    bench = Bench(tmp_path, lent, own)
    async with bench.running():
        _, first = await bench.local()
        await until(lambda: lent.links.streams)
        lent.leaving.set()
        await until(lambda: bench.caller.calls == 2)
        _, second = await bench.local()
        await until(lambda: own.links.streams)
        assert not lent.links.lost.is_set()
        lent.links.streams[0][2].finished.set_result(StreamFinished(StreamOutcome.CLEAN, "", "", 0, 0))
        await until(lent.links.lost.is_set)
        assert not own.links.lost.is_set()
        assert len(own.links.streams) == 1
        first.close()
        second.close()


async def test_a_lent_connection_is_used_until_there_is_another_one(tmp_path: Path) -> None:
    lent, own = Connection(), Connection()
    bench = Bench(tmp_path, lent, AWAY, ClientError(Exit.OFFLINE, "no answer"), own)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        lent.leaving.set()
        _, writer = await bench.local()
        await until(lambda: bench.caller.calls == 4)
        assert lent.links.streams or own.links.streams
        assert "connection lost" not in bench.said.getvalue()
        writer.close()


async def test_a_lent_connection_that_is_lost_before_there_is_another_one_is_made_again(tmp_path: Path) -> None:
    lent, own = Connection(), Connection()
    bench = Bench(tmp_path, lent, AWAY)
    async with bench.running():
        await until(lambda: bench.forwarding.listening)
        bench.caller.answers.append(own)
        lent.leaving.set()
        lent.links.end()
        _, writer = await bench.local()
        await until(lambda: own.links.streams)
        assert "connection lost" in bench.said.getvalue()
        writer.close()
