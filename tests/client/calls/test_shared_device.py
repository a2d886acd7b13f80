"""Our device is open as long as a call is being placed, and every call hears what is its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from mxrtc_bridge.client.calls import shared_device as module
from mxrtc_bridge.client.calls.device import DeviceCalls
from mxrtc_bridge.client.calls.shared_device import SharedDevice
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.call.events import CallMessage
from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE, CallToDevice, call_to_device_content
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from tests.client.calls.test_device import ALICE, ANSWER, BUILD, PEER, Own
from tests.waiting import turns

LOGIN = Login("http://127.0.0.1:1", ALICE, "LAPTOP", "secret-token")
OTHER = UserId("@rtc_lab:example.org")
LAB = replace(BUILD, user=OTHER, device=DeviceId("LAB"))


@dataclass
class Homeserver:
    """Opens our device, and hands on what comes for it."""

    own: Own = field(default_factory=Own)
    opened: int = 0
    closed: int = 0
    failure: Exception | None = None
    opening: asyncio.Event = field(default_factory=asyncio.Event)
    handler: Any = None
    heard: asyncio.Event | None = None

    @contextlib.asynccontextmanager
    async def own_device(self, *_: object, **__: object) -> AsyncIterator[tuple[Own, None]]:
        await self.opening.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.opened += 1
        try:
            yield self.own, None
        finally:
            self.closed += 1

    def sync(self, _server: None, _device: Own, handler: Any, *, heard: asyncio.Event) -> Homeserver:
        self.handler, self.heard = handler, heard
        return self

    async def run(self) -> None:
        assert self.heard is not None
        self.heard.set()
        await asyncio.get_running_loop().create_future()


@pytest.fixture
def homeserver(monkeypatch: pytest.MonkeyPatch) -> Homeserver:
    made = Homeserver()
    made.opening.set()
    monkeypatch.setattr(module, "own_device", made.own_device)
    monkeypatch.setattr(module, "DeviceSync", made.sync)
    return made


@pytest.fixture
def shared(tmp_path: Path, homeserver: Homeserver) -> SharedDevice:
    return SharedDevice(StateFolder(tmp_path), LOGIN)


class Way:
    """A way to the homeserver."""

    closed = False

    async def close(self) -> None:
        self.closed = True


def calling(shared: SharedDevice, peer: UserId = PEER) -> contextlib.AbstractAsyncContextManager[DeviceCalls]:
    return shared.calls(peer, cast(Any, Way()))


async def test_calls_at_the_same_time_share_the_device_and_each_hears_its_own(
    shared: SharedDevice, homeserver: Homeserver
) -> None:
    heard: list[tuple[str, CallMessage]] = []
    async with calling(shared) as first:
        homeserver.own.listed = (LAB,)
        async with calling(shared, OTHER) as second:
            await turns()
            first.listener = lambda _user, message: heard.append(("first", message))
            second.listener = lambda _user, message: heard.append(("second", message))
            content = call_to_device_content(CallToDevice(0, 5, ANSWER))
            for sender, device in ((OTHER, LAB), (PEER, BUILD)):
                await homeserver.handler(homeserver.own, ToDeviceEvent(SIGNAL_TYPE, sender, content, device))
            assert first.heard.is_set()
            assert second.heard.is_set()
        assert (homeserver.opened, homeserver.closed) == (1, 0)
    assert heard == [("second", ANSWER), ("first", ANSWER)]
    assert (homeserver.opened, homeserver.closed) == (1, 1)


async def test_a_session_that_is_begun_anew_is_told_to_all_calls(shared: SharedDevice, homeserver: Homeserver) -> None:
    """The peer whose session it is sends what it said once more; the other one leaves it."""
    new = replace(BUILD, device=DeviceId("NEW"))
    async with calling(shared) as first:
        homeserver.own.listed = (LAB,)
        async with calling(shared, OTHER) as second:
            homeserver.own.session_begun(new, False)  # type: ignore[attr-defined]
            assert (first.peer, second.peer) == (new, LAB)


async def test_after_the_last_call_the_device_is_put_away_and_opened_anew_for_the_next(
    shared: SharedDevice, homeserver: Homeserver
) -> None:
    for count in (1, 2):
        async with calling(shared):
            assert (homeserver.opened, homeserver.closed) == (count, count - 1)


async def test_a_device_that_cannot_be_opened_for_one_is_tried_again_for_the_next(
    shared: SharedDevice, homeserver: Homeserver
) -> None:
    homeserver.failure = ClientError(Exit.LOCAL, "the disk is full")
    with pytest.raises(ClientError, match="the disk is full"):
        async with calling(shared):
            raise AssertionError
    async with calling(shared):
        assert homeserver.opened == 1


async def test_who_gives_up_while_the_device_is_opened_leaves_it_to_who_waits(
    shared: SharedDevice, homeserver: Homeserver
) -> None:
    homeserver.opening.clear()
    told: list[str] = []
    first = asyncio.create_task(calling(shared).__aenter__())
    await turns()
    second = shared.calls(PEER, cast(Any, Way()), waits=told.append)
    waiting = asyncio.create_task(second.__aenter__())
    await turns()
    first.cancel()
    homeserver.opening.set()
    calls = await asyncio.wait_for(waiting, 5)
    assert calls.peer == BUILD
    assert told[0] == "another mxrtc command, which uses our device"
    await second.__aexit__(None, None, None)
    assert (homeserver.opened, homeserver.closed) == (1, 1)


async def test_the_way_to_the_homeserver_is_closed_when_nobody_asks_by_it_any_more(
    shared: SharedDevice, homeserver: Homeserver
) -> None:
    """The device was opened by a call that is over, and another one still waits for its answer."""
    first, second = Way(), Way()
    async with contextlib.AsyncExitStack() as stack:
        async with shared.calls(PEER, cast(Any, first)):
            await stack.enter_async_context(shared.calls(PEER, cast(Any, second)))
        for each in (first, second):
            await shared.done_with(cast(Any, each))
        assert (first.closed, second.closed) == (False, True)
    assert first.closed
    assert homeserver.closed == 1
