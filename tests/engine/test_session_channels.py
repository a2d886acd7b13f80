"""Both sides of a session joined in memory: streams, lists, rights, turns, ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from mxrtc_bridge.core.access.targets import Direction, FilesTarget, Target, TcpTarget
from mxrtc_bridge.core.errors import TargetError, TargetFailure, TransportError
from mxrtc_bridge.core.files.messages import Get, Ls
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages, silence
from mxrtc_bridge.core.stream.control_channel import States
from mxrtc_bridge.engine import rate_limited_log
from mxrtc_bridge.engine.bridge_channels import LINES_A_MINUTE, BridgeChannels, log_of_callers
from mxrtc_bridge.engine.call_ports import ServiceGrant
from mxrtc_bridge.engine.client_channels import ClientChannels
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.control_channel import Listing, is_farewell
from mxrtc_bridge.engine.file_ports import FileReceiver, FileSource, UserFileServices
from mxrtc_bridge.engine.ports import ENDED_BY_PEER
from tests.fakes import FakeClock, FakePeer, FakeSink, RecordingCounters, joined_peers

PEER = UserId("@rtc_build:example.org")
ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:example.org")
TARGET = TcpTarget("localhost", 22)

CALL_LOG = ContextLog(logging.getLogger("test"), "call c1")


class Gate:
    """A gate whose rules a test can change."""

    def __init__(self) -> None:
        self.services: dict[str, ServiceGrant] = {
            "ssh": ServiceGrant(TARGET, raw=False),
            "web": ServiceGrant(TARGET, raw=True),
            "few": ServiceGrant(TARGET, raw=False, max_streams=2),
            "idle": ServiceGrant(TARGET, raw=False, idle_s=60.0),
        }
        self.durable = True
        self.untold: str | None = None
        self.used: list[tuple[str, str]] = []
        self.denied: list[str] = []

    def open(self, service: ServiceName) -> ServiceGrant | None:
        return self.services.get(service)

    def expiries(self) -> dict[tuple[UserId, ServiceName], int]:
        return {(PEER, ServiceName("ssh")): 5}

    def kind(self, _peer: UserId, service: ServiceName) -> messages.ServiceKind | None:
        return None if service == self.untold else messages.ServiceKind.STREAM

    async def recorded(self, service: ServiceName, rule: str) -> bool:
        self.used.append((service, rule))
        return self.durable

    def refused(self, service: ServiceName) -> None:
        self.denied.append(service)

    def listing(self) -> Listing:
        return [(PEER, tuple(ServiceName(name) for name in sorted(self.services)))]


class Connector:
    """Connects to a sink that the test holds, or fails."""

    def __init__(self) -> None:
        self.sinks: list[FakeSink] = []
        self.failure: TargetFailure | None = None
        self.takes = True

    async def connect(self, _target: Target) -> FakeSink:
        if self.failure is not None:
            raise TargetError(self.failure, "it is down")
        self.sinks.append(FakeSink(takes=self.takes))
        return self.sinks[-1]


class NoFiles:
    """No service has files here."""

    async def source(self, target: FilesTarget, job: Get | Ls) -> FileSource:
        raise AssertionError(target, job)

    def receiver(self, target: FilesTarget) -> FileReceiver:
        raise AssertionError(target)


class Session:
    """A session in memory."""

    def __init__(self, files: UserFileServices | None = None, *, max_streams: int = 8, **of_caller: Any) -> None:
        self.files = files or NoFiles()
        self.clock = FakeClock()
        self.gate = Gate()
        self.connector = Connector()
        self.counters = RecordingCounters()
        self.near: FakePeer
        self.far: FakePeer
        self.network: deque[Callable[[], None]]
        self.near, self.far, self.network = joined_peers()
        self.opener = ClientChannels(clock=self.clock, counters=RecordingCounters())
        self.acceptor = BridgeChannels(
            gate=self.gate,
            connector=self.connector,
            files=self.files,
            clock=self.clock,
            counters=self.counters,
            max_streams=max_streams,
            **of_caller,
        )
        self.lost: list[tuple[str, str]] = []
        for name, links, peer in (("near", self.opener, self.near), ("far", self.acceptor, self.far)):
            peer.set_listener(links)
            links.on_lost(lambda reason, name=name: self.lost.append((name, reason)))  # type: ignore[misc]
        self.acceptor.attach(self.far, spawn=self.spawn, call_log=CALL_LOG)
        self.opener.attach(self.near, spawn=self.spawn, call_log=CALL_LOG)
        self.work: list[Coroutine[None, None, None]] = []

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        self.work.append(work)

    async def settle(self) -> None:
        """Deliver everything, until nothing moves any more."""
        while self.network or self.work:
            while self.network:
                self.network.popleft()()
                self.opener.send_space()
                self.acceptor.send_space()
            for work in tuple(self.work):
                self.work.remove(work)
                await work


@pytest.fixture
async def session() -> Session:
    session = Session()
    await session.settle()
    return session


async def open_stream(
    session: Session, service: str = "ssh"
) -> tuple[FakeSink, FakeSink, asyncio.Future[stream.StreamFinished]]:
    """Open a stream and return both sinks and its end."""
    local = FakeSink()
    opened = session.opener.open_stream(ServiceName(service), local)
    await session.settle()
    return local, session.connector.sinks[-1], opened.finished


async def test_bytes_pass_both_ways_and_both_halves_close(session: Session) -> None:
    local, remote, finished = await open_stream(session)
    local.listener.data_received(b"ping")
    remote.listener.data_received(b"pong")
    await session.settle()
    assert (local.written, remote.written) == (b"pong", b"ping")
    local.listener.eof_received()
    await session.settle()
    assert remote.events == ["eof"]
    remote.listener.data_received(b"the rest")
    remote.listener.eof_received()
    await session.settle()
    assert local.written == b"pongthe rest"
    assert (local.events, remote.events) == (["eof", "close"], ["eof", "close"])
    assert finished.result().outcome is stream.StreamOutcome.CLEAN
    assert session.opener.totals() == (0, 4, 12)


async def test_what_a_stream_carries_is_told_and_counted_while_it_runs_and_once(session: Session) -> None:
    """A tunnel of a day must not be a flat line and a cliff."""
    local, remote, _ = await open_stream(session)
    local.listener.data_received(b"ping")
    await session.settle()
    assert session.acceptor.totals() == (1, 0, 4)
    session.acceptor.count_payload()
    session.acceptor.count_payload()
    assert session.counters.payloads == [("received", 4)]
    remote.listener.data_received(b"pong!")
    local.listener.data_received(b"more")
    local.listener.eof_received()
    remote.listener.eof_received()
    await session.settle()
    assert session.acceptor.totals() == (0, 5, 8)
    assert session.counters.payloads == [("received", 4), ("sent", 5), ("received", 4)]


async def test_all_memory_of_received_messages_is_given_back(session: Session) -> None:
    local, remote, _ = await open_stream(session)
    local.listener.data_received(bytes(40_000))
    local.listener.eof_received()
    remote.listener.eof_received()
    await session.settle()
    assert [channel.unconsumed for channel in session.near.channels + session.far.channels] == [0] * 4


@pytest.mark.parametrize("service", ["unknown", "UPPER", ""])
async def test_stream_to_what_is_not_allowed_is_refused_without_a_hint(session: Session, service: str) -> None:
    local = FakeSink()
    opened = session.opener.open_stream(ServiceName(service), local)
    await session.settle()
    how = opened.finished.result()
    assert how.outcome in (stream.StreamOutcome.REFUSED, stream.StreamOutcome.LOST)
    assert local.events == ["reset"]
    assert session.connector.sinks == []


async def test_who_has_the_right_to_a_service_for_files_is_told_that_it_has_no_streams(session: Session) -> None:
    session.gate.services["inbox"] = ServiceGrant(FilesTarget("/inbox", Direction.RECEIVE), raw=False)
    opened = {name: session.opener.open_stream(ServiceName(name), FakeSink()) for name in ("inbox", "nothing")}
    await session.settle()
    told = {name: (each.finished.result().code, each.finished.result().message) for name, each in opened.items()}
    assert told == {
        "inbox": ("denied", messages.ONLY_FILES),
        "nothing": ("denied", "no such service, or no right to it"),
    }


async def test_what_is_used_and_what_is_denied_is_written_down_before_anything_is_connected(session: Session) -> None:
    session.gate.services["ssh"] = replace(session.gate.services["ssh"], rule="by test")
    await open_stream(session, "ssh")
    assert session.gate.used == [("ssh", "by test")]
    session.opener.open_stream(ServiceName("secret"), FakeSink())
    await session.settle()
    assert session.gate.denied == ["secret"]
    session.gate.durable = False
    opened = session.opener.open_stream(ServiceName("ssh"), FakeSink())
    await session.settle()
    assert (opened.finished.result().outcome, opened.finished.result().code) == (
        stream.StreamOutcome.REFUSED,
        "unavailable",
    )
    assert len(session.connector.sinks) == 1


@pytest.mark.parametrize("failure", list(TargetFailure))
async def test_target_that_cannot_be_reached_is_told_by_its_code(session: Session, failure: TargetFailure) -> None:
    session.connector.failure = failure
    local = FakeSink()
    opened = session.opener.open_stream(ServiceName("ssh"), local)
    await session.settle()
    how = opened.finished.result()
    assert (how.outcome, how.code) == (stream.StreamOutcome.REFUSED, failure.value)
    assert "down" not in how.message, "what the admin reads in the log is not for the user"


async def test_stream_beyond_the_service_limit_is_refused(session: Session) -> None:
    for _ in range(2):
        await open_stream(session, "few")
    opened = session.opener.open_stream(ServiceName("few"), FakeSink())
    await session.settle()
    assert opened.finished.result().code == "limit"
    await open_stream(session, "ssh")


async def test_stream_beyond_the_session_limit_is_refused(session: Session) -> None:
    for _ in range(8):
        await open_stream(session)
    opened = session.opener.open_stream(ServiceName("ssh"), FakeSink())
    await session.settle()
    assert opened.finished.result().code == "limit"


@pytest.mark.parametrize(
    ("label", "protocol", "counted"),
    [
        ("ssh", "raw.mxrtc", "denied"),
        ("ssh", "", "denied"),
        ("none", "raw.mxrtc", "denied"),
        ("ssh", "file.v9.mxrtc", "unknown_protocol"),
        ("../etc", "tcp.v1.mxrtc", "bad_label"),
        ("", "ctl.v1.mxrtc", "second_control"),
    ],
)
async def test_channel_that_is_nothing_we_serve_is_closed(
    session: Session, label: str, protocol: str, counted: str
) -> None:
    channel = session.near.open_channel(label, protocol)
    await session.settle()
    assert channel.closed
    assert ("refusal", counted) in session.counters.counted
    assert session.connector.sinks == []


async def test_raw_stream_counts_and_holds_the_window_until_its_sink_has_taken_the_rest_of_a_closed_channel(
    session: Session,
) -> None:
    session.connector.takes = False
    channel = session.near.open_channel("web", "raw.mxrtc")
    channel.send(bytes(100))
    await session.settle()
    channel.close()
    await session.settle()
    (sink,) = session.connector.sinks
    assert sink.events == ["eof", "close"]
    assert session.far.channels[-1].kept == 100
    assert session.acceptor.totals()[0] == 1
    sink.take()
    assert session.acceptor.totals()[0] == 0
    assert session.counters.counted[-1] == ("stream", "clean")


async def test_raw_channel_carries_bytes_and_holds_the_window_until_they_are_taken(session: Session) -> None:
    session.connector.takes = False
    channel = session.near.open_channel("web", "raw.mxrtc")
    channel.set_listener(FakeSinkListener())
    await session.settle()
    channel.send(b"GET / HTTP/1.0\r\n\r\n")
    await session.settle()
    sink = session.connector.sinks[-1]
    far = session.far.channels[-1]
    assert sink.written == b"GET / HTTP/1.0\r\n\r\n"
    assert far.unconsumed == len(sink.written)
    sink.take()
    assert far.unconsumed == 0
    sink.listener.data_received(b"hello")
    sink.listener.eof_received()
    await session.settle()
    assert far.sent == [b"hello"]
    assert channel.closed


class FakeSinkListener:
    """Listens to a channel and keeps nothing."""

    def channel_opened(self) -> None: ...

    def text_received(self, text: str) -> None: ...

    def binary_received(self, data: bytes) -> None: ...

    def channel_closed(self) -> None: ...


async def test_right_that_ends_resets_its_streams_and_no_other(session: Session) -> None:
    local, remote, finished = await open_stream(session, "ssh")
    other_local, other_remote, other_finished = await open_stream(session, "few")
    del session.gate.services["ssh"]
    session.acceptor.judge_again()
    await session.settle()
    assert finished.result().outcome is stream.StreamOutcome.RESET
    assert finished.result().code == "denied"
    assert (local.events, remote.events) == (["reset"], ["reset"])
    other_local.listener.data_received(b"still here")
    await session.settle()
    assert other_remote.written == b"still here"
    assert not other_finished.done()


async def test_list_holds_what_the_gate_allows(session: Session) -> None:
    answer = asyncio.ensure_future(session.opener.list_services())
    await asyncio.sleep(0)
    await session.settle()
    assert await answer == {PEER: ("few", "idle", "ssh", "web")}
    assert set(session.opener.kinds.values()) == {messages.ServiceKind.STREAM}
    assert [name for _, name in session.opener.kinds] == ["few", "idle", "ssh", "web"]


async def test_list_of_a_bridge_that_tells_no_kinds_has_none(session: Session) -> None:
    session.gate.untold = "ssh"
    answer = asyncio.ensure_future(session.opener.list_services())
    await asyncio.sleep(0)
    await session.settle()
    assert await answer == {PEER: ("few", "idle", "ssh", "web")}
    assert session.opener.kinds == {}


async def test_states_are_looked_at_when_asked_for_and_what_ends_meanwhile_is_not_listed() -> None:
    looked: list[Listing] = []

    async def look(listing: Listing) -> States:
        looked.append(listing)
        del session.gate.services["ssh"]
        return {(peer, name): messages.ServiceState.DOWN for peer, names in listing for name in names}

    session = Session(look=look)
    await session.settle()
    plain = asyncio.ensure_future(session.opener.list_services())
    await asyncio.sleep(0)
    await session.settle()
    assert (await plain, looked) == ({PEER: ("few", "idle", "ssh", "web")}, [])
    assert session.opener.states == {}
    answer = asyncio.ensure_future(session.opener.list_services(states=True))
    await asyncio.sleep(0)
    await session.settle()
    assert await answer == {PEER: ("few", "idle", "web")}
    assert looked == [[(PEER, ("few", "idle", "ssh", "web"))]]
    names = ("few", "idle", "web")
    assert session.opener.states == {(PEER, name): messages.ServiceState.DOWN for name in names}


async def test_list_that_never_comes_fails_when_the_session_ends(session: Session) -> None:
    answer = asyncio.ensure_future(session.opener.list_services())
    await asyncio.sleep(0)
    session.opener.ended()
    with pytest.raises(TransportError):
        await answer


async def test_end_of_the_session_resets_every_stream(session: Session) -> None:
    local, remote, finished = await open_stream(session)
    session.opener.ended()
    session.acceptor.ended()
    assert local.events == ["reset"]
    assert remote.events == ["reset"]
    assert finished.result().outcome is stream.StreamOutcome.RESET
    late = session.opener.open_stream(ServiceName("ssh"), FakeSink())
    assert late.finished.result().outcome is stream.StreamOutcome.LOST


async def test_goodbye_is_told_with_its_reason(session: Session) -> None:
    assert session.acceptor.say_bye("denied", "your right has ended")
    await session.settle()
    assert session.opener.bye == ("denied", "your right has ended")
    assert ("near", "bye_denied") in session.lost


async def test_peer_whose_program_hangs_is_dead_after_40_s(session: Session) -> None:
    session.network.clear()
    session.clock.advance(silence.DEAD_S - 0.1)
    session.network.clear()
    assert session.lost == []
    session.clock.advance(0.2)
    assert sorted(session.lost) == [("far", "control_timeout"), ("near", "control_timeout")]


async def test_stream_of_a_service_with_an_idle_limit_is_reset_when_nothing_moves(session: Session) -> None:
    local, _, finished = await open_stream(session, "idle")
    session.clock.advance(1.0)
    await session.settle()
    for _ in range(58):
        session.clock.advance(1.0)
        await session.settle()
    local.listener.data_received(b"x")
    await session.settle()
    for _ in range(59):
        session.clock.advance(1.0)
        await session.settle()
    assert not finished.done()
    for _ in range(3):
        session.clock.advance(1.0)
        await session.settle()
    assert finished.result().code == "timeout"


async def test_slow_sink_holds_back_its_own_writer_only(session: Session) -> None:
    session.connector.takes = False
    slow_local, slow_remote, _ = await open_stream(session)
    session.connector.takes = True
    local, remote, _ = await open_stream(session)
    given = 0
    while not slow_local.paused and given < 10**7:
        slow_local.listener.data_received(bytes(16384))
        given += 16384
        await session.settle()
    assert given < messages.LARGEST_WINDOW + 256 * 1024
    assert slow_remote.untaken <= messages.LARGEST_WINDOW
    local.listener.data_received(b"through")
    await session.settle()
    assert remote.written == b"through"
    slow_remote.take()
    await session.settle()
    assert not slow_local.paused


async def test_many_streams_at_once_wait_in_line_and_all_come_through() -> None:
    session = Session(max_streams=1000)
    await session.settle()
    session.gate.services["ssh"] = ServiceGrant(TARGET, raw=False, max_streams=1000)
    opened = [session.opener.open_stream(ServiceName("ssh"), FakeSink()) for _ in range(239)]
    await session.settle()
    assert len(session.connector.sinks) == 200
    for _ in range(40):
        session.clock.advance(0.1)
        await session.settle()
    assert len(session.connector.sinks) == 239
    assert not any(each.finished.done() for each in opened)
    assert not session.opener.is_full
    session.opener.open_stream(ServiceName("ssh"), FakeSink())
    session.opener.open_stream(ServiceName("ssh"), FakeSink())
    for _ in range(40):
        session.clock.advance(0.1)
        await session.settle()
    assert (session.opener.is_full, len(session.connector.sinks)) == (True, session.opener.max_streams)


async def test_stream_that_ends_by_what_came_early_leaves_nothing_behind(session: Session) -> None:
    """The violation is there before anybody listens: the stream ends while it is being made."""
    session.gate.services["ssh"] = ServiceGrant(TARGET, raw=False, max_streams=1)
    channel = session.near.open_channel("ssh", "tcp.v1.mxrtc")
    channel.set_listener(FakeSinkListener())
    channel.send("no control message")
    await session.settle()
    assert session.acceptor.totals()[0] == 0
    local, remote, _ = await open_stream(session)
    local.listener.data_received(b"its place is free")
    await session.settle()
    assert remote.written == b"its place is free"


async def test_live_streams_are_counted_over_all_sessions(session: Session) -> None:
    changes: list[int] = []
    session.counters.streams_live = changes.append  # type: ignore[method-assign]
    local, remote, _ = await open_stream(session)
    await open_stream(session)
    local.listener.eof_received()
    remote.listener.eof_received()
    await session.settle()
    assert changes == [1, 1, -1]


@pytest.mark.parametrize("reason", sorted(ENDED_BY_PEER))
async def test_what_the_other_side_has_ended_is_told_as_its_act(session: Session, reason: str) -> None:
    session.far.channels[0].tell(lambda listener: listener.channel_closed())
    session.acceptor.connection_lost(reason)
    await asyncio.sleep(0)
    assert next(each for name, each in session.lost if name == "far") == "control_closed"
    assert is_farewell("control_closed")


async def test_a_connection_that_is_lost_closes_its_channels_first_and_is_told_as_lost(session: Session) -> None:
    session.far.channels[0].tell(lambda listener: listener.channel_closed())
    session.acceptor.connection_lost("the other side is gone: consent to send expired")
    await asyncio.sleep(0)
    first = next(each for name, each in session.lost if name == "far")
    assert first == "the other side is gone: consent to send expired"
    assert not is_farewell(first)


async def test_a_control_channel_that_is_closed_alone_is_told_as_well(session: Session) -> None:
    session.far.channels[0].tell(lambda listener: listener.channel_closed())
    await asyncio.sleep(0)
    assert ("far", "control_closed") in session.lost


@pytest.mark.parametrize(
    ("reason", "farewell"), [("bye_done", True), ("control_timeout", False), ("ice_failed", False)]
)
def test_a_farewell_is_told_from_a_loss(reason: str, farewell: bool) -> None:
    assert is_farewell(reason) is farewell


async def test_connections_that_a_target_refuses_are_a_few_lines_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """However often a caller tries, and over however many sessions."""
    caplog.set_level(logging.INFO)
    seldom = log_of_callers()
    for _ in range(2):
        session = Session(caller=ALICE, seldom=seldom)
        session.connector.failure = TargetFailure.REFUSED
        for _ in range(LINES_A_MINUTE * 5):
            session.opener.open_stream(ServiceName("ssh"), FakeSink())
            await session.settle()
    assert caplog.text.count("call c1, stream ssh: it is down") == LINES_A_MINUTE
    other = Session(caller=BOB, seldom=seldom)
    other.connector.failure = TargetFailure.REFUSED
    other.opener.open_stream(ServiceName("ssh"), FakeSink())
    await other.settle()
    assert caplog.text.count("it is down") == LINES_A_MINUTE + 1, "nobody's lines are left out for another's"
    rate_limited_log.tell_all(everything=True)
    assert f"it is down (and {LINES_A_MINUTE * 9 - 1} more like this" in caplog.text
