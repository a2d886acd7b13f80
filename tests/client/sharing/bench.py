"""Two commands of one account in this process: a session in memory, the socket between them real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.options import CallOptions
from mxrtc_bridge.client.report import Person, Says
from mxrtc_bridge.client.sharing.guest import HolderLink
from mxrtc_bridge.client.sharing.heartbeat import BEAT_S
from mxrtc_bridge.client.sharing.holder import Holder
from mxrtc_bridge.client.sharing.pool import LINGER_S, SessionPool
from mxrtc_bridge.client.sharing.reach import reach
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.config.private_files import open_private_directory
from mxrtc_bridge.core.call.values import CallEnded
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.webrtc import ice
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from tests.engine.test_session_channels import PEER, Session

LOGIN = Login("http://127.0.0.1:1", UserId("@alice:example.org"), "LAPTOP", "secret-token")
DEVICE = DeviceIdentity(PEER, DeviceId("BUILD"), "signs", "exchanges", Trust.CROSS_SIGNED)


class Heard:
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, object]]] = []

        self.given: list[tuple[str, str, dict[str, object]]] = []
        self.shown: list[tuple[UserId, str, ShortCode]] = []
        self.answers: asyncio.Queue[bool | Exception] = asyncio.Queue()

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        self.said.append((kind, sentence, fields))

    def data(self, kind: str, line: str, **fields: object) -> None:
        self.given.append((kind, line, fields))

    async def compare(self, user: UserId, device: str, code: ShortCode) -> bool:
        self.shown.append((user, device, code))
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


class PlacedCall:
    """A call that got through."""

    path: ice.Path | None = ice.Path(ice.PathKind.DIRECT, "host", "host", "ipv4")
    failure = ""

    def __init__(self) -> None:
        self.outcome: CallEnded | None = None

    def packet_bytes(self) -> int | None:
        return 1280

    def gathering_report(self) -> GatheringReport:
        return GatheringReport()


class Placed:
    """One session, both of whose ends are here; what is on its way moves by itself."""

    def __init__(self, device: DeviceIdentity | None = DEVICE, **limits: Any) -> None:
        self.session = Session(**limits)
        self.call = PlacedCall()
        self.connection = Connection(PEER, self.call, self.session.opener, device)
        self.moves = asyncio.Event()
        self.moves.set()

    async def move(self) -> None:
        while True:
            await self.moves.wait()
            await self.session.settle()
            await asyncio.sleep(0.001)

    def end(self, outcome: CallEnded) -> None:
        """End it as the call machine does: first what depends on it, then the word for it."""
        self.session.opener.ended()
        self.call.outcome = outcome


class Network:
    """Places calls: gives what is prepared, or fails as prepared; without an end where nothing is."""

    def __init__(self, *answers: Placed | Exception) -> None:
        self.answers = list(answers)
        self.options: list[CallOptions] = []
        self.ended = 0
        """Sessions that were hung up."""

    @contextlib.asynccontextmanager
    async def place(self, _peer: UserId, options: CallOptions, says: Says) -> AsyncIterator[Connection]:
        self.options.append(options)
        says.say("waiting", "waiting for the peer to answer", waiting_for="the peer to answer", cause=None)
        if not self.answers:
            await asyncio.get_running_loop().create_future()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        moving = asyncio.create_task(answer.move())
        answer.session.opener.up.set()
        try:
            yield answer.connection
        finally:
            self.ended += 1
            answer.session.opener.ended()
            moving.cancel()
            await answer.session.settle()


class Device:
    """Does what is asked of the device of the account, as prepared."""

    def __init__(self) -> None:
        self.asked: list[messages.DeviceRequest] = []
        self.lines: list[str] = []
        self.code: ShortCode | None = None
        self.same: bool | None = None
        self.failure: Exception | None = None
        self.ended = 0

    async def do(self, asked: messages.DeviceRequest, person: Person) -> None:
        self.asked.append(asked)
        try:
            for each in self.lines:
                person.data("device", each, user=asked.user, own=True)
            if self.code is not None:
                self.same = await person.compare(asked.user, "PHONE", self.code)
                person.say("verified", "verified", signed=True)
            if self.failure is not None:
                raise self.failure
        finally:
            self.ended += 1


class Bench:
    """A holder, and the way to it; guests expect a sign of life every ``expects_s``."""

    def __init__(
        self, folder: Path, network: Network, *, linger_s: float = LINGER_S, expects_s: float = BEAT_S, **limits: Any
    ) -> None:
        self.path = folder / "state" / "account.sock"
        self.network = network
        self.pool = SessionPool(network.place, linger_s=linger_s)
        self.device = Device()
        self.holder = Holder(self.pool, self.device.do, CallOptions(), LOGIN, **limits)
        self.expects_s = expects_s
        self._folder = open_private_directory(None, folder / "state", str(folder))
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Bench:
        await self.holder.open(self._folder, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()
        await self.holder.close()
        await self.pool.close()

    async def reach(self) -> HolderLink:
        return await reach(self._folder, self.path, LOGIN, beat_s=self.expects_s)

    async def connection(self, options: CallOptions = CallOptions(), says: Says | None = None) -> Connection:  # noqa: B008
        """A guest's connection, which ends with the bench."""
        link = await self.reach()
        return await self._closing.enter_async_context(link.call(PEER, options, says or Heard()))
