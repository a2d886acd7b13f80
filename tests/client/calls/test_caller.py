"""What several calls of one command share, and that each of them ends whatever happens to the command."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from mxrtc_bridge.client.calls import caller as caller_module
from mxrtc_bridge.client.calls.caller import Caller
from mxrtc_bridge.client.calls.device import UnreadableAnswerError
from mxrtc_bridge.client.options import CallOptions, Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.call.events import CallMessage, Invite
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.engine.client_channels import ClientChannels
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from tests import virtual_time

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")


class Calls:
    """A device that calls; the answer to its first call cannot be read, and to others there is none."""

    peer = DeviceIdentity(PEER, DeviceId("PEER"), "signs", "exchanges", Trust.CROSS_SIGNED)
    route = DevicePair(ALICE, PEER, DeviceId("PEER"))

    def __init__(self, putting_away: asyncio.Event | None = None) -> None:
        self.invites: list[float] = []
        self.heard = asyncio.Event()
        self._invited = asyncio.Event()
        self._putting_away = putting_away

    async def send(self, _sender: UserId, message: CallMessage, _step: str) -> None:
        if isinstance(message, Invite):
            self.invites.append(asyncio.get_running_loop().time())
            self._invited.set()

    async def see_through(self, *_: object) -> None:
        await self._invited.wait()
        if len(self.invites) == 1:
            self._invited.clear()
            raise UnreadableAnswerError
        await asyncio.Event().wait()

    async def done_with(self, transport: Transport) -> None:
        await transport.close()

    @asynccontextmanager
    async def calls(self, *_: object, **__: object) -> AsyncIterator[Calls]:
        yield self
        if self._putting_away is not None:
            self._putting_away.set()
            await asyncio.Event().wait()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(StateFolder(tmp_path / "state"), Report(quiet=True), CallOptions(interfaces=("lo",)))


async def no_servers(_: Homeserver) -> tuple[IceServer, ...]:
    return ()


LOGIN = Login("http://127.0.0.1:1", ALICE, "LAPTOP", "secret-token")


async def call_for(context: Context, calls: Calls, seconds: float) -> None:
    """Call a peer that does not answer, and give up."""
    async with Caller(context, LOGIN, cast(Any, calls)) as caller:
        calling = asyncio.create_task(caller.call(PEER).__aenter__())
        await asyncio.sleep(seconds)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)


def test_what_is_left_of_a_call_is_no_part_of_the_program(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would never be collected, and a command that calls again for weeks would grow with each call."""
    calls = Calls()
    monkeypatch.setattr(Homeserver, "turn_server", no_servers)
    virtual_time.run(call_for(context, calls, 1))
    frozen = gc.get_freeze_count()
    virtual_time.run(call_for(context, calls, 1))
    assert len(calls.invites) == 3
    assert gc.get_freeze_count() == frozen


def test_a_call_that_is_made_again_has_the_same_question_for_turn_servers(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for the answer as long as a call may, and must not end it for the next."""
    calls = Calls()

    async def never(_: Homeserver) -> tuple[IceServer, ...]:
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(Homeserver, "turn_server", never)
    virtual_time.run(call_for(context, calls, 12))
    assert len(calls.invites) == 2


async def test_a_call_that_is_up_ends_with_a_command_that_is_told_to_end_while_it_puts_its_device_away(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge would keep it for half a minute, and count it, as nobody says goodbye."""
    putting_away = asyncio.Event()

    class Up(ClientChannels):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            self.up.set()

    monkeypatch.setattr(caller_module, "ClientChannels", Up)
    monkeypatch.setattr(Homeserver, "turn_server", no_servers)

    def calls_left() -> int:
        return sum(task.get_name() == "call" for task in asyncio.all_tasks())

    async with Caller(context, LOGIN, cast(Any, Calls(putting_away))) as caller:
        calling = asyncio.create_task(caller.call(PEER).__aenter__())
        await putting_away.wait()
        assert calls_left() == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert calls_left() == 0
