"""A guest's streams and questions go by the session of the holder, and what one of the two does harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.client.calls.connection import Connection, check_finished
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import CallOptions, SignalBy
from mxrtc_bridge.client.report import Says
from mxrtc_bridge.client.sharing.guest import HolderGoneError
from mxrtc_bridge.client.sharing.pool import SessionPool
from mxrtc_bridge.client.sharing.reach import StrangerError
from mxrtc_bridge.client.sharing.served_guest import PAUSE_BYTES
from mxrtc_bridge.core.call.values import CallEnded, CallOutcome
from mxrtc_bridge.core.errors import HomeserverError, TransportError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.sharing.frames import Frame, FrameKind, FrameReader
from mxrtc_bridge.core.stream.events import StreamOutcome
from mxrtc_bridge.core.stream.messages import PROTOCOL_TCP, ServiceKind
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from tests.client.sharing.bench import DEVICE, PEER, Bench, Heard, Network, Placed
from tests.fakes import FakeSink
from tests.waiting import turns, until

SSH = ServiceName("ssh")
KIB = 1024


def joined(placed: Placed) -> int:
    """How many services have a stream that listens to them."""
    return sum(sink.listener is not None for sink in placed.session.connector.sinks)


async def test_bytes_go_both_ways_and_each_end_is_an_end_of_its_own(tmp_path: Path) -> None:
    """Half-close, as ssh and rsync use it."""
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        local = FakeSink()
        opened = connection.links.open_stream(SSH, local)
        await asyncio.wait_for(opened.accepted.wait(), 10)
        (service,) = placed.session.connector.sinks
        local.listener.data_received(b"question")
        local.listener.eof_received()
        await until(lambda: service.events == ["eof"])
        assert service.written == b"question"
        assert not opened.finished.done()
        service.listener.data_received(b"answer")
        service.listener.eof_received()
        finished = await asyncio.wait_for(opened.finished, 10)
        assert (finished.outcome, finished.sent, finished.received) == (StreamOutcome.CLEAN, 8, 6)
        assert (local.written, local.events) == (b"answer", ["eof", "close"])


async def test_a_connection_of_a_guest_tells_what_that_of_the_holder_tells(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        assert (connection.peer, connection.path, connection.packet_bytes) == (PEER, placed.call.path, 1280)
        assert connection.device is not None
        assert (connection.device.device, connection.device.ed25519) == (DEVICE.device, DEVICE.ed25519)
        assert connection.device.trust is DEVICE.trust
        assert connection.why_over is None
        found = await asyncio.wait_for(connection.links.list_services(), 10)
        assert found == {PEER: ("few", "idle", "ssh", "web")}
        assert connection.links.kinds[PEER, SSH] is ServiceKind.STREAM
        assert connection.links.expiries == {(PEER, SSH): 5}
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0


async def test_a_reset_arrives_as_a_reset_in_both_directions(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        here, there = FakeSink(), FakeSink()
        first, second = connection.links.open_stream(SSH, here), connection.links.open_stream(SSH, there)
        await until(lambda: joined(placed) == 2)
        one, other = placed.session.connector.sinks
        here.listener.sink_closed("Connection reset by peer")
        await until(lambda: "reset" in one.events)
        other.listener.sink_closed("Connection reset by peer")
        await until(lambda: "reset" in there.events)
        outcomes = [(await each.finished).outcome for each in (first, second)]
        assert outcomes == [StreamOutcome.RESET, StreamOutcome.RESET]


async def test_a_guest_that_is_gone_has_its_streams_cut_and_no_others(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        staying, leaving = await bench.connection(), await bench.reach()
        calling = leaving.call(PEER, CallOptions(), Heard())
        gone = await calling.__aenter__()
        kept = FakeSink()
        staying.links.open_stream(SSH, kept)
        gone.links.open_stream(SSH, FakeSink())
        await until(lambda: joined(placed) == 2)
        first, second = placed.session.connector.sinks
        await calling.__aexit__(None, None, None)
        await until(lambda: "reset" in second.events)
        first.listener.data_received(b"still here")
        await until(lambda: kept.written == b"still here")
        assert bench.holder.guests == 1


async def test_when_the_holder_ends_a_guest_sees_a_reset_and_reads_why(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        local = FakeSink()
        opened = connection.links.open_stream(SSH, local)
        await asyncio.wait_for(opened.accepted.wait(), 10)
        await bench.holder.close()
        finished = await asyncio.wait_for(opened.finished, 10)
        assert "reset" in local.events
        with pytest.raises(ClientError) as cut:
            check_finished("build/ssh", finished, connection.why_over)
        assert cut.value.code is Exit.INTEGRITY
        assert "the mxrtc command whose connection this was has ended" in str(cut.value)
        lost = connection.lost("build")
        assert (lost.code, str(lost)) == (
            Exit.RETRY,
            "build: the mxrtc command whose connection this was has ended",
        )


@pytest.mark.parametrize(
    ("bye", "outcome", "code", "why"),
    [
        (
            ("denied", "your right to it has ended"),
            CallEnded(CallOutcome.FAILED, "bye_denied"),
            Exit.DENIED,
            "build: the peer ended the session: your right to it has ended",
        ),
        (
            None,
            CallEnded(CallOutcome.FAILED, "consent_expired"),
            Exit.RETRY,
            "build: the connection failed (consent_expired)",
        ),
    ],
)
async def test_a_guest_reads_why_the_session_has_ended(
    tmp_path: Path, bye: tuple[str, str] | None, outcome: CallEnded, code: Exit, why: str
) -> None:
    """Before its stream ends, so that the sentence about the stream has the reason."""
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        opened = connection.links.open_stream(SSH, FakeSink())
        await asyncio.wait_for(opened.accepted.wait(), 10)
        if bye is not None:
            placed.session.acceptor.say_bye(*bye)
            await until(lambda: placed.session.opener.bye)
        known = asyncio.ensure_future(opened.finished)
        told: list[object] = []
        known.add_done_callback(lambda _: told.append(connection.why_over))
        placed.end(outcome)
        await asyncio.wait_for(known, 10)
        await asyncio.wait_for(connection.links.lost.wait(), 10)
        assert told != [None]
        assert (connection.lost("build").code, str(connection.lost("build"))) == (code, why)


async def test_two_guests_and_later_ones_share_a_call(tmp_path: Path) -> None:
    network = Network(Placed())
    async with Bench(tmp_path, network) as bench:
        await asyncio.gather(bench.connection(), bench.connection())
        await bench.connection(CallOptions(signal=SignalBy.DEVICE))
        assert len(network.options) == 1


async def test_a_guest_calls_as_it_was_told_to(tmp_path: Path) -> None:
    network = Network(Placed(), Placed())
    async with Bench(tmp_path, network) as bench:
        await bench.connection()
        options = CallOptions(IcePolicy.RELAY, ("eth0",), 7.0, SignalBy.ROOM)
        await bench.connection(options)
        assert network.options[1] == options


async def test_a_guest_is_told_what_is_waited_for(tmp_path: Path) -> None:
    heard = Heard()
    async with Bench(tmp_path, Network(Placed())) as bench:
        await bench.connection(says=heard)
    words = "waiting for the peer to answer"
    assert heard.said[0] == ("waiting", words, {"waiting_for": "the peer to answer", "cause": None})


@pytest.mark.parametrize(
    "error",
    [
        ClientError(Exit.DENIED, "the call was refused"),
        ClientError(Exit.RETRY, "a defect", defect=True),
        HomeserverError("too often", 429, "M_LIMIT_EXCEEDED", 2.5),
        HomeserverError("logged out", 401, "M_UNKNOWN_TOKEN"),
    ],
)
async def test_a_call_that_fails_fails_for_the_guest_in_the_same_way(tmp_path: Path, error: Exception) -> None:
    async with Bench(tmp_path, Network(error)) as bench:
        with pytest.raises(type(error)) as failed:
            await bench.connection()
        assert (str(failed.value), vars(failed.value)) == (str(error), vars(error))
        assert len(bench.network.options) == 1


async def test_a_defect_of_a_call_ends_the_guest_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Bench(tmp_path, Network(ZeroDivisionError("ours"), Placed())) as bench:
        with pytest.raises(ClientError, match="by a defect of the mxrtc command that has made it") as failed:
            await bench.connection()
        assert failed.value.defect
        assert "ZeroDivisionError" in caplog.text
        await bench.connection()


async def test_a_guest_waits_in_line_behind_what_a_session_carries(tmp_path: Path) -> None:
    """As many channels of guests as a session has room for, and the next one when one of them ends."""
    placed = Placed(max_streams=500)
    placed.session.opener.max_streams = 3
    async with Bench(tmp_path, Network(placed)) as bench:
        first = await bench.connection()
        sinks = [FakeSink() for _ in range(4)]
        opened = [first.links.open_stream(SSH, sink) for sink in sinks]
        await until(lambda: len(placed.session.connector.sinks) == 3)
        opened[0].reset("closed", "ended here")
        await until(lambda: len(placed.session.connector.sinks) == 4)
        assert placed.session.opener.totals()[0] == 3


async def test_what_a_guest_sends_waits_with_the_guest_while_the_session_is_full(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        local = FakeSink()
        opened = connection.links.open_stream(SSH, local)
        await asyncio.wait_for(opened.accepted.wait(), 10)
        await until(lambda: not placed.session.network)
        placed.moves.clear()
        data = bytes(2 * KIB * KIB)
        for at in range(0, len(data), 64 * KIB):
            local.listener.data_received(data[at : at + 64 * KIB])
        await asyncio.sleep(0.05)
        held = placed.session.near.queued + bench.holder.waiting_bytes
        assert 0 < held <= PAUSE_BYTES + 512 * KIB
        placed.moves.set()
        await until(lambda: placed.session.connector.sinks[0].written == data)
        assert bench.holder.waiting_bytes == 0


# Hostile, or broken


class Raw:
    """A guest that says what it likes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.frames: list[Frame] = []

    async def __aenter__(self) -> Raw:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        self._frames = FrameReader()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def say(self, *sent: messages.GuestMessage | bytes | Frame) -> None:
        for each in sent:
            match each:
                case bytes():
                    self._writer.write(each)
                case Frame():
                    self._writer.write(each.encode())
                case _:
                    text = messages.GUEST.encode(each).encode()
                    self._writer.write(Frame(FrameKind.TEXT, 0, text).encode())

    async def hear(self, kind: type[messages.HolderMessage]) -> messages.HolderMessage:
        """Return the next message of a kind."""
        async with asyncio.timeout(10):
            while True:
                for frame in self._frames.feed(await self._read()):
                    message = messages.HOLDER.decode(frame.payload.decode()) if frame.channel == 0 else None
                    if isinstance(message, kind):
                        return message

    async def _read(self) -> bytes:
        data = await self._reader.read(65536)
        if not data:
            raise ConnectionResetError
        return data

    async def is_cut(self) -> bool:
        async with asyncio.timeout(10):
            try:
                while await self._reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
        return True


CALL = messages.CallRequest(PEER, IcePolicy.ALL, (), "auto", 15.0)
OPEN = messages.OpenChannel(1, SSH, PROTOCOL_TCP)


@pytest.mark.parametrize(
    "hostile",
    [
        (b"GET / HTTP/1.1\r\n\r\n",),
        (Frame(FrameKind.TEXT, 0, b"\xff"),),
        (Frame(FrameKind.TEXT, 0, b"{}"),),
        (OPEN,),
        (CALL, CALL),
        (CALL, OPEN, OPEN),
        (CALL, OPEN, Frame(FrameKind.TEXT, 1, b"\xff")),
        (CALL, OPEN, Frame(FrameKind.OPENED, 1)),
    ],
)
async def test_a_guest_that_breaks_the_protocol_is_cut_off_and_nobody_else(
    tmp_path: Path, hostile: tuple[messages.GuestMessage | bytes | Frame, ...]
) -> None:
    async with Bench(tmp_path, Network(Placed())) as bench:
        connection = await bench.connection()
        async with Raw(bench.path) as raw:
            raw.say(*hostile[:1])
            if hostile[0] is CALL:
                await raw.hear(messages.SessionUp)
            raw.say(*hostile[1:])
            assert await raw.is_cut()
        await until(lambda: bench.holder.guests == 1)
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0


async def test_a_guest_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed), max_untaken=64 * KIB) as bench:
        async with Raw(bench.path) as raw:
            raw.say(CALL)
            await raw.hear(messages.SessionUp)
            raw.say(OPEN, Frame(FrameKind.TEXT, 1, b'{"t":"open","s":"a"}'))
            raw.say(Frame(FrameKind.TEXT, 1, b'{"t":"ack","o":0,"w":4194304}'))
            await until(lambda: joined(placed))
            for _ in range(64):
                placed.session.connector.sinks[0].listener.data_received(bytes(64 * KIB))
            await until(lambda: bench.holder.guests == 0)
        await until(lambda: "reset" in placed.session.connector.sinks[0].events)


async def test_more_guests_than_there_is_room_for_are_not_answered(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network(Placed()), max_guests=1) as bench:
        await bench.connection()
        with pytest.raises(StrangerError, match="as many guests as it takes"):
            await bench.reach()


async def test_more_questions_than_may_wait_are_answered_at_once(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench, Raw(bench.path) as raw:
        raw.say(CALL)
        await raw.hear(messages.SessionUp)
        placed.moves.clear()
        raw.say(*(messages.PingRequest(number) for number in range(80)))
        answer = await raw.hear(messages.Unanswered)
        assert answer == messages.Unanswered(64, "too many questions wait for the peer")


async def test_a_question_that_the_session_does_not_outlive_is_answered(tmp_path: Path) -> None:
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench:
        connection = await bench.connection()
        placed.moves.clear()
        ping, listing = (
            asyncio.ensure_future(connection.links.ping()),
            asyncio.ensure_future(connection.links.list_services()),
        )
        await asyncio.sleep(0.05)
        placed.end(CallEnded(CallOutcome.FAILED, "consent_expired"))
        for each in (ping, listing):
            with pytest.raises(TransportError):
                await asyncio.wait_for(each, 10)


async def test_the_socket_is_open_to_its_user_alone_and_gone_with_the_holder(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network()) as bench:
        assert bench.path.stat().st_mode & 0o777 == 0o600
    assert not bench.path.exists()


async def test_a_holder_that_turns_away_keeps_those_who_are_there(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network(Placed())) as bench:
        link = await bench.reach()
        calling = link.call(PEER, CallOptions(), Heard())
        connection = await calling.__aenter__()
        bench.holder.turn_away()
        with pytest.raises(OSError, match="No such file"):
            await asyncio.open_unix_connection(bench.path)
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0
        waiting = asyncio.create_task(bench.holder.wait_until_empty())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await calling.__aexit__(None, None, None)
        await asyncio.wait_for(waiting, 10)


async def test_a_socket_that_an_earlier_holder_has_left_is_no_hindrance(tmp_path: Path) -> None:
    """A process that was killed cannot remove it."""
    bench, left = Bench(tmp_path, Network(Placed())), socket.socket(socket.AF_UNIX)
    left.bind(str(bench.path))
    left.close()
    async with bench:
        await bench.connection()


# A holder that hangs, or is done


async def test_a_holder_that_gives_no_sign_of_life_is_told_of_and_then_its_session_is_lost(tmp_path: Path) -> None:
    """As one that was stopped: its end of the socket stays open."""
    heard = Heard()
    async with Bench(tmp_path, Network(Placed()), expects_s=0.05) as bench:
        connection = await bench.connection(says=heard)
        local = FakeSink()
        opened = connection.links.open_stream(SSH, local)
        finished = await asyncio.wait_for(opened.finished, 10)
        assert [each[2]["lives"] for each in heard.said if each[0] == "holder"] == [False]
        assert "reset" in local.events
        with pytest.raises(ClientError, match="gives no sign of life") as cut:
            check_finished("build/ssh", finished, connection.why_over)
        assert cut.value.code is Exit.INTEGRITY
        assert connection.lost("build").code is Exit.RETRY
        await until(lambda: bench.holder.guests == 0)


async def test_a_holder_that_has_nothing_to_say_says_that_it_lives(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network(Placed()), expects_s=0.1, beat_s=0.01) as bench:
        connection = await bench.connection()
        beats = asyncio.ensure_future(connection.links.lost.wait())
        await asyncio.wait([beats], timeout=1)
        assert not connection.links.lost.is_set()
        beats.cancel()


async def test_a_guest_that_waits_for_a_call_of_a_holder_that_hangs_can_ask_somebody_else(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network(), expects_s=0.02) as bench:
        link = await bench.reach()
        with pytest.raises(HolderGoneError, match="gives no sign of life"):
            async with link.call(PEER, CallOptions(), Heard()):
                pass


async def test_a_holder_that_is_done_tells_those_who_use_its_session_and_cuts_those_who_have_asked_for_nothing(
    tmp_path: Path,
) -> None:
    async with Bench(tmp_path, Network(Placed())) as bench, Raw(bench.path) as raw:
        connection = await bench.connection()
        await until(lambda: bench.holder.guests == 1)
        bench.holder.turn_away()
        await asyncio.wait_for(connection.leaving.wait(), 10)
        assert await raw.is_cut()
        assert await asyncio.wait_for(connection.links.ping(), 10) == 0.0


async def test_a_guest_that_says_nothing_is_cut_off_and_holds_up_no_end(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network(), order_s=0.05) as bench, Raw(bench.path) as raw:
        await raw.hear(messages.HolderHello)
        assert bench.holder.guests == 0
        assert await raw.is_cut()
        await asyncio.wait_for(bench.holder.wait_until_empty(), 10)


async def test_20_guests_whose_session_is_lost_make_one_new_call(tmp_path: Path) -> None:
    lost, network = Placed(), Network()
    network.answers = [lost, Placed()]
    async with Bench(tmp_path, network) as bench:
        first = await asyncio.gather(*(bench.connection() for _ in range(20)))
        lost.end(CallEnded(CallOutcome.FAILED, "consent_expired"))
        await asyncio.gather(*(asyncio.wait_for(each.links.lost.wait(), 10) for each in first))
        again = await asyncio.gather(*(bench.connection() for _ in range(20)))
        assert len(network.options) == 2
        assert await asyncio.gather(*(each.links.ping() for each in again)) == [0.0] * 20


async def test_what_is_told_beside_a_sentence_is_left_out_where_it_is_longer_than_a_message(tmp_path: Path) -> None:
    heard, placed = Heard(), Placed()

    @contextlib.asynccontextmanager
    async def place(peer: UserId, options: CallOptions, says: Says) -> AsyncIterator[Connection]:
        says.say("waiting", "waiting for the homeserver", **{f"cause{each}": "\U0001f600" * 500 for each in range(9)})
        async with network.place(peer, options, says) as connection:
            yield connection

    network = Network(placed)
    async with Bench(tmp_path, network) as bench:
        bench.pool = bench.holder.pool = SessionPool(place)
        await bench.connection(says=heard)
    assert heard.said[0] == ("waiting", "waiting for the homeserver", {})


async def test_the_next_guest_finds_the_session_of_the_one_before(tmp_path: Path) -> None:
    network = Network(Placed())
    async with Bench(tmp_path, network) as bench:
        for _ in range(2):
            link = await bench.reach()
            async with link.call(PEER, CallOptions(), Heard()):
                pass
            await until(lambda: bench.holder.guests == 0)
        assert len(network.options) == 1


async def test_a_guest_that_does_not_read_holds_up_nobody_else(tmp_path: Path) -> None:
    """Four streams of one guest go on beside one that takes nothing."""
    placed = Placed()
    async with Bench(tmp_path, Network(placed)) as bench, Raw(bench.path) as raw:
        raw.say(CALL)
        await raw.hear(messages.SessionUp)
        raw.say(OPEN, Frame(FrameKind.TEXT, 1, b'{"t":"open","s":"a"}'))
        raw.say(Frame(FrameKind.TEXT, 1, b'{"t":"ack","o":0,"w":4194304}'))
        await until(lambda: joined(placed) == 1)
        connection = await bench.connection()
        sinks = [FakeSink() for _ in range(4)]
        for each in sinks:
            connection.links.open_stream(SSH, each)
        await until(lambda: joined(placed) == 5)
        stuck, *services = placed.session.connector.sinks
        for each in services:
            stuck.listener.data_received(bytes(256 * KIB))
            each.listener.data_received(bytes(128 * KIB))
        await until(lambda: [len(each.written) for each in sinks] == [128 * KIB] * 4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                Frame, st.sampled_from([FrameKind.TEXT, FrameKind.BINARY]), st.integers(0, 3), st.binary(max_size=80)
            ),
            st.builds(Frame, st.sampled_from([FrameKind.OPENED, FrameKind.CLOSE]), st.integers(0, 3)),
            st.sampled_from([1, 2, 3]).map(lambda number: messages.OpenChannel(number, SSH, PROTOCOL_TCP)),
            st.just(Frame(FrameKind.BINARY, 1, bytes(64 * KIB))),
            st.just(Frame(FrameKind.TEXT, 1, b"x" * 64 * KIB)),
            st.just(messages.CompareReply(same=True)),
            st.integers(0, 9).map(messages.PingRequest),
        ),
        max_size=8,
    )
)
def test_whatever_a_guest_sends_in_whatever_order_nobody_else_notices(
    tmp_path_factory: pytest.TempPathFactory, sent: list[messages.GuestMessage | bytes | Frame]
) -> None:
    async def story() -> None:
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
        async with Bench(tmp_path_factory.mktemp("any"), Network(Placed())) as bench:
            connection = await bench.connection()
            async with Raw(bench.path) as raw:
                raw.say(CALL)
                await raw.hear(messages.SessionUp)
                raw.say(*sent)
                await turns(5)
                opened = connection.links.open_stream(SSH, FakeSink())
                await asyncio.wait_for(opened.accepted.wait(), 10)
            await until(lambda: bench.holder.guests == 1)
            assert not connection.links.lost.is_set()
        assert failed == []

    asyncio.run(story())
