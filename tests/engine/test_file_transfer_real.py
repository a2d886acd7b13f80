"""Transfers over a real connection on loopback, with all tasks running at the same time as they do in a session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mxrtc_bridge.core.access.targets import Direction, FilesTarget
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import Get, Ls, Put
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.engine.bridge_channels import BridgeChannels
from mxrtc_bridge.engine.call_ports import ServiceGrant
from mxrtc_bridge.engine.client_channels import ClientChannels, OpenedTransfer
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom
from mxrtc_bridge.sinks.files.user_paths import Sources, UserDestination
from tests.engine.test_file_transfer import CLEAN, MIB, Services, outcome
from tests.engine.test_session_channels import Connector, Gate
from tests.fakes import RecordingCounters
from tests.rtc.peers import join, make_peer
from tests.sinks.files.receive.senders import content, files_in, partials_in

pytestmark = pytest.mark.real


class Tasks:
    """Owns the tasks of one side; ends them as a session does."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()

    async def cancel(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def session(folder: Path, services: Services) -> AsyncIterator[ClientChannels]:
    """A call that stands; at its end it is cut on both sides, whatever is under way."""
    gate = Gate()
    for name, direction in (("in", Direction.RECEIVE), ("out", Direction.SEND)):
        gate.services[name] = ServiceGrant(FilesTarget(str(folder), direction), raw=False)
    near, far = make_peer(), make_peer()
    opener = ClientChannels(clock=LoopClock(), counters=RecordingCounters())
    acceptor = BridgeChannels(
        gate=gate, connector=Connector(), files=services, clock=LoopClock(), counters=RecordingCounters()
    )
    tasks = Tasks()
    for peer, links in ((near, opener), (far, acceptor)):
        peer.set_listener(links)
        links.attach(peer, spawn=tasks.spawn, call_log=ContextLog(logging.getLogger("test"), "call c1"))
    try:
        await join(near, far)
        yield opener
    finally:
        opener.ended()
        acceptor.ended()
        await tasks.cancel()
        await near.close()
        await far.close()


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    services = Services(tmp_path)
    await services.box.open()
    yield services
    await services.box.close()
    services.share.close()


async def ended(opened: OpenedTransfer) -> tuple[tx.TransferOutcome, str]:
    async with asyncio.timeout(60):
        await opened.finished
    return outcome(opened)


async def sources_of(folder: Path, files: dict[str, bytes]) -> Sources:
    for name, data in files.items():
        path = folder / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sources = Sources([str(path) for path in sorted((folder / "mine").iterdir())])
    await sources.open()
    return sources


async def test_large_file_and_a_thousand_small_ones_arrive_and_come_back(tmp_path: Path, services: Services) -> None:
    files = {f"small/{number:04}": content(number % 3000, number) for number in range(1000)}
    files["large.bin"] = content(24 * MIB + 1, 7)
    sources = await sources_of(tmp_path, files)
    async with session(tmp_path, services) as opener:
        assert await ended(opener.open_transfer(ServiceName("in"), Put(), sources)) == CLEAN
        assert files_in(tmp_path / "box") == files
        (tmp_path / "box").rename(tmp_path / "share" / "docs")
        destination = UserDestination(tmp_path / "got")
        await destination.open()
        receiver = ReceivedFrom(destination, "peer")
        assert await ended(opener.open_transfer(ServiceName("out"), Get(("docs/*",)), receiver)) == CLEAN
        await destination.close(tidy=True)
        shown: list[str] = []
        listing = opener.open_transfer(ServiceName("out"), Ls("docs"), lambda entry: shown.append(entry.path))
        assert await ended(listing) == CLEAN
    assert files_in(tmp_path / "got") == files
    assert shown == ["docs/large.bin", "docs/small"]
    sources.close()


async def test_call_that_is_cut_again_and_again_brings_the_file_in_the_end(tmp_path: Path, services: Services) -> None:
    data = content(40 * MIB, 9)
    sources = await sources_of(tmp_path, {"large.bin": data})
    kept = 0
    for _ in range(3):
        async with session(tmp_path, services) as opener:
            opened = opener.open_transfer(ServiceName("in"), Put(), sources)
            async with asyncio.timeout(60):
                while opened.progress.bytes_done < kept + 6 * MIB:
                    await asyncio.sleep(0)
        assert outcome(opened)[0] is tx.TransferOutcome.INTERRUPTED
        assert opened.progress.bytes_kept >= kept
        kept = opened.progress.bytes_kept
    assert kept >= 5 * MIB
    async with session(tmp_path, services) as opener:
        assert await ended(opener.open_transfer(ServiceName("in"), Put(), sources)) == CLEAN
    assert files_in(tmp_path / "box") == {"large.bin": data}
    assert partials_in(tmp_path / "box") == []
    assert not services.box.books.live
    sources.close()
