"""One look at a target serves all who ask for it, and is nobody's alone."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from mxrtc_bridge.bridge.target_health import TargetStates
from mxrtc_bridge.core.access.targets import AppendTarget, Direction, FilesTarget, ReadTarget, Target, TcpTarget
from mxrtc_bridge.core.errors import TargetFailure
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceState
from tests.engine.test_session_channels import Connector
from tests.fakes import FakeSink

TARGET, SLOW = TcpTarget("127.0.0.1", 22), TcpTarget("127.0.0.1", 23)


class HangsAt(Connector):
    """One target never answers."""

    def __init__(self, silent: Target) -> None:
        super().__init__()
        self._silent = silent

    async def connect(self, target: Target) -> FakeSink:
        if target == self._silent:
            await asyncio.Event().wait()
        return await super().connect(target)


class HangsAtFirst(Connector):
    """The first look never ends."""

    looks = 0

    async def connect(self, target: Target) -> FakeSink:
        self.looks += 1
        if self.looks == 1:
            await asyncio.Event().wait()
        return await super().connect(target)


async def test_look_that_one_gives_up_is_done_again_for_another_who_shares_it() -> None:
    connector = HangsAtFirst()
    states = TargetStates(connector, asyncio.get_running_loop().time)
    first = asyncio.create_task(states.of([TARGET]))
    while not connector.looks:
        await asyncio.sleep(0)
    second, given_up = asyncio.create_task(states.of([TARGET])), asyncio.create_task(states.of([TARGET]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given_up.cancel()
    first.cancel()
    assert await second == {TARGET: True}
    await asyncio.gather(first, given_up, return_exceptions=True)
    assert first.cancelled()
    assert given_up.cancelled()
    assert connector.looks == 2


async def test_states_of_services_are_those_of_their_targets_and_unknown_where_it_takes_too_long() -> None:
    peer, ssh, gone, slow = UserId("@rtc_build:example.org"), *map(ServiceName, ("ssh", "gone", "slow"))
    listing = [(peer, (ssh, gone))]

    def target_of(_peer: UserId, name: ServiceName) -> Target | None:
        return {ssh: TARGET, slow: SLOW}.get(name)

    def no_peer(_peer: UserId) -> None:
        return None

    connector = HangsAt(SLOW)
    states = TargetStates(connector, asyncio.get_running_loop().time, look_s=30)
    found = await states.of_services(listing, target_of, no_peer)
    assert found == {(peer, ssh): ServiceState.UP, (peer, gone): ServiceState.UNKNOWN}
    connector.failure = TargetFailure.REFUSED
    states = TargetStates(connector, asyncio.get_running_loop().time, look_s=30)
    assert (await states.of_services(listing, target_of, no_peer))[peer, ssh] is ServiceState.DOWN
    states = TargetStates(HangsAt(SLOW), asyncio.get_running_loop().time, look_s=30, list_s=0.05)
    found = await states.of_services([(peer, (ssh, slow))], target_of, no_peer)
    assert found == dict.fromkeys([(peer, ssh), (peer, slow)], ServiceState.UNKNOWN)


async def test_services_of_a_peer_that_takes_no_calls_are_down_without_a_look() -> None:
    up, down, ssh = UserId("@rtc_up:x.test"), UserId("@rtc_down:x.test"), ServiceName("ssh")
    states = TargetStates(HangsAt(SLOW), asyncio.get_running_loop().time, look_s=30)
    found = await states.of_services(
        [(up, (ssh,)), (down, (ssh,))],
        lambda peer, _name: TARGET if peer == up else SLOW,
        lambda peer: "shows another identity" if peer == down else None,
    )
    assert found == {(up, ssh): ServiceState.UP, (down, ssh): ServiceState.DOWN}


async def test_disk_that_hangs_counts_as_down_within_the_time_of_a_look_and_others_are_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, stat = threading.Event(), os.stat

    def hangs(path: object, *more: object, **options: object) -> object:
        if str(path).startswith("/mnt/dead"):
            over.wait(30)
        return stat(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", hangs)
    states = TargetStates(Connector(), asyncio.get_running_loop().time, look_s=0.2)
    dead = [
        FilesTarget("/mnt/dead/share", Direction.SEND),
        AppendTarget("/mnt/dead/log"),
        ReadTarget("/mnt/dead/file"),
    ]
    alive = FilesTarget(str(tmp_path), Direction.SEND)
    async with asyncio.timeout(5):
        assert await states.of([*dead, alive]) == {**dict.fromkeys(dead, False), alive: True}
    over.set()
