"""A right that ends while the bridge waits for something: what was judged before is judged again before it is used."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mxrtc_bridge.core.access.targets import FilesTarget, Target, TcpTarget
from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import Get, Ls
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.engine.client_channels import OpenedTransfer
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom, Selected
from tests.engine.test_file_transfer import CLEAN, Services, World, content, outcome, put, sources_of
from tests.engine.test_session_channels import Session
from tests.fakes import FakeSink

SSH = ServiceName("ssh")


class Slow(Session):
    """A session whose waits a test ends one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded, self.record = asyncio.Event(), self.gate.recorded
        self.dialled: list[Target] = []
        self.connected = asyncio.Event()
        self.connected.set()
        self.stubborn = False
        """Whether a target goes on to connect although nobody waits any more."""
        self.gate.recorded = self._recorded  # type: ignore[method-assign]
        self.connector.connect = self._connect  # type: ignore[method-assign]
        self.tasks: list[asyncio.Task[None]] = []

    async def _recorded(self, service: ServiceName, rule: str) -> bool:
        await self.recorded.wait()
        return await self.record(service, rule)

    async def _connect(self, target: Target) -> FakeSink:
        self.dialled.append(target)
        sink = FakeSink()
        try:
            await self.connected.wait()
        except asyncio.CancelledError:
            if not self.stubborn:
                raise
        self.connector.sinks.append(sink)
        return sink

    async def turn(self) -> None:
        """Deliver what is under way, and let all work go on as far as it can."""
        for _ in range(20):
            while self.network:
                self.network.popleft()()
                self.opener.send_space()
                self.acceptor.send_space()
            self.tasks += [asyncio.ensure_future(work) for work in self.work]
            self.work.clear()
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.acceptor.ended()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def taken_away(session: Session) -> None:
    session.gate.services.clear()
    session.acceptor.judge_again()


def over_by_time(session: Session) -> None:
    """Nobody has judged since: clocks are looked at every few seconds."""
    session.gate.services.clear()


def session_over(session: Session) -> None:
    session.acceptor.ended()


ENDS = pytest.mark.parametrize("end", [taken_away, over_by_time, session_over])


@ENDS
@pytest.mark.parametrize("raw", [False, True])
async def test_no_target_is_dialled_for_a_right_that_ended_while_its_use_was_written_down(
    end: Callable[[Session], None], raw: bool
) -> None:
    session = Slow()
    if raw:
        session.near.open_channel("web", messages.PROTOCOL_RAW)
    else:
        session.opener.open_stream(SSH, FakeSink())
    await session.turn()
    end(session)
    session.recorded.set()
    await session.turn()
    assert session.dialled == []
    assert session.acceptor.totals()[0] == 0
    await session.end()


async def test_stream_whose_right_ended_meanwhile_is_refused_and_that_is_written_down() -> None:
    session = Slow()
    opened = session.opener.open_stream(SSH, FakeSink())
    await session.turn()
    over_by_time(session)
    session.recorded.set()
    await session.turn()
    how = opened.finished.result()
    assert (how.outcome, how.code, session.gate.denied) == (stream.StreamOutcome.REFUSED, "denied", ["ssh"])
    await session.end()


async def test_what_is_used_is_what_the_rules_say_after_the_wait_by_a_rule_that_is_written_down() -> None:
    session = Slow()
    session.gate.services["ssh"] = replace(session.gate.services["ssh"], rule="one")
    session.opener.open_stream(SSH, FakeSink())
    await session.turn()
    elsewhere = TcpTarget("localhost", 23)
    session.gate.services["ssh"] = replace(session.gate.services["ssh"], rule="other", target=elsewhere)
    session.recorded.set()
    await session.turn()
    assert session.gate.used == [("ssh", "one"), ("ssh", "other")]
    assert session.dialled == [elsewhere]
    await session.end()


@ENDS
@pytest.mark.parametrize("stubborn", [False, True])
async def test_target_that_connects_after_the_right_has_ended_gets_no_byte(
    end: Callable[[Session], None], stubborn: bool
) -> None:
    session = Slow()
    session.stubborn = stubborn
    session.recorded.set()
    session.connected.clear()
    local = FakeSink()
    session.opener.open_stream(SSH, local)
    await session.turn()
    assert len(session.dialled) == 1
    local.listener.data_received(b"secret")
    await session.turn()
    end(session)
    await session.turn()
    if end is not over_by_time:
        assert all(task.done() for task in session.tasks), "the attempt has ended with the stream, wherever it was"
    session.connected.set()
    await session.turn()
    assert [(sink.written, sink.events) for sink in session.connector.sinks] in ([], [(b"", ["reset"])])
    assert session.acceptor.totals()[0] == 0
    await session.end()


@pytest.mark.parametrize("fails", [False, True])
async def test_target_that_connects_in_the_moment_in_which_the_session_is_cancelled_is_let_go(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    session = Slow()
    session.recorded.set()
    now, sink = asyncio.get_running_loop().create_future(), FakeSink()

    async def connect(_target: Target) -> FakeSink:
        await now
        # The attempt is over with this step, and nobody has taken what came of it.
        asyncio.get_running_loop().call_soon(session.tasks[-1].cancel)
        if fails:
            raise TargetError(TargetFailure.REFUSED, "refused")
        return sink

    session.connector.connect = connect  # type: ignore[method-assign, assignment]
    session.opener.open_stream(SSH, FakeSink())
    await session.turn()
    now.set_result(None)
    await session.turn()
    assert session.tasks[-1].cancelled()
    gc.collect()
    assert sink.events == ([] if fails else ["reset"])
    assert not caplog.records, "nothing is left of which nobody heard"
    await session.end()


async def test_way_of_using_a_service_that_was_taken_away_ends_its_streams(session: Session) -> None:
    session.near.open_channel("web", messages.PROTOCOL_RAW)
    await session.settle()
    assert len(session.connector.sinks) == 1
    session.gate.services["web"] = replace(session.gate.services["web"], raw=False)
    session.acceptor.judge_again()
    assert session.connector.sinks[0].events == ["reset"]


@pytest.fixture
async def session() -> Session:
    return Session()


class Waiting(Services):
    """Files whose source is looked for until a test lets it be found."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.looking, self.found = asyncio.Event(), asyncio.Event()
        self.received = 0

    async def source(self, target: FilesTarget, job: Get | Ls) -> Selected:
        self.looking.set()
        await self.found.wait()
        return await super().source(target, job)

    def receiver(self, target: FilesTarget) -> ReceivedFrom:
        self.received += 1
        return super().receiver(target)


@pytest.mark.parametrize("end", [taken_away, over_by_time])
@pytest.mark.parametrize("kind", ["put", "list", "list, while it is looked for"])
async def test_no_file_moves_by_a_right_that_has_ended_meanwhile(
    tmp_path: Path, end: Callable[[Session], None], kind: str
) -> None:
    services = Waiting(tmp_path)
    await services.box.open()
    (tmp_path / "share" / "file").write_bytes(b"secret")
    world = World(tmp_path, services)
    await world.settle()
    recording, recorded, record = asyncio.Event(), asyncio.Event(), world.gate.recorded

    async def slow(service: ServiceName, rule: str) -> bool:
        recording.set()
        await recorded.wait()
        return await record(service, rule)

    world.gate.recorded = slow  # type: ignore[method-assign]
    sources, shown = await sources_of(world, {"a.bin": content(5)}), []
    opened: OpenedTransfer
    if kind == "put":
        opened = put(world, sources)
    else:
        opened = world.opener.open_transfer(ServiceName("out"), Ls(""), shown.append)
    settling = asyncio.ensure_future(world.settle())
    await recording.wait()
    if kind.endswith("looked for"):
        recorded.set()
        await services.looking.wait()
    end(world)
    recorded.set()
    services.found.set()
    await settling
    await world.settle()
    assert outcome(opened) != CLEAN
    assert opened.finished.result().outcome in (tx.TransferOutcome.REFUSED, tx.TransferOutcome.INTERRUPTED)
    assert (shown, services.received) == ([], 0)
    assert services.looking.is_set() == kind.endswith("looked for")
    sources.close()
    await world.end()
    await services.box.close()
    services.share.close()
