"""Signs of messages for devices: believed only as long as they come, and never the only way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices.wakeups import AGAIN_S, EVERY_S, MAX_CHANGED, DeviceWakeups
from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.core.errors import HomeserverError, RefusedStatementError, StorageError
from mxrtc_bridge.core.ids import DeviceId, UserId

BOT, BUILD, ALICE = (UserId(f"@{name}:example.org") for name in ("rtcbot", "rtc_build", "alice"))


class Device:
    """A device with its poll and its lists."""

    def __init__(self, user: UserId) -> None:
        self.user = user
        self.device_id = DeviceId("DEVICE")
        self.lists = self.sender = self
        self.probes: list[tuple[UserId, list[DeviceId], str]] = []
        self.probed: Callable[[], None] = lambda: None
        self.modes: list[bool] = []
        self.wakeups = 0
        self.outdated: list[Sequence[UserId] | None] = []
        self.refuses = False

    async def send_plain(self, user: UserId, devices: Iterable[DeviceId], kind: str, _: Any) -> None:
        self.probes.append((user, list(devices), kind))
        self.probed()

    def listen(self, *, by_wakeups: bool) -> None:
        self.modes.append(by_wakeups)

    def wake(self) -> None:
        self.wakeups += 1

    async def mark_outdated(self, users: Sequence[UserId]) -> None:
        if self.refuses:
            raise StorageError("away")
        self.outdated.append(users)

    async def mark_all_outdated(self) -> None:
        self.outdated.append(None)


async def nothing() -> None: ...


class World:
    def __init__(self) -> None:
        self.bot, self.build = Device(BOT), Device(BUILD)
        self.pauses: list[float] = []
        self.rounds = 1
        self.meanwhile: Callable[[], Awaitable[None]] = nothing
        """Done in a pause."""
        self.wakeups = DeviceWakeups(
            lambda: [(each, each) for each in (self.bot, self.build)], self.sleep, answer_s=0.01
        )  # type: ignore[misc]

    async def sleep(self, pause: float) -> None:
        self.pauses.append(pause)
        await self.meanwhile()
        if len(self.pauses) >= self.rounds:
            raise InterruptedError

    async def run(self, rounds: int = 1) -> None:
        self.pauses, self.rounds = [], rounds
        with pytest.raises(BaseExceptionGroup):
            await self.wakeups.run()


@pytest.fixture
def world() -> World:
    return World()


def news(*waiting: UserId, **more: Any) -> DeviceListChanges:
    return DeviceListChanges(frozenset(waiting), **more)


async def test_a_probe_that_is_announced_has_all_devices_wait_for_signs(world: World) -> None:
    world.bot.probed = lambda: world.wakeups.hear(news(BOT))
    await world.run(2)
    assert world.wakeups.in_use
    assert (world.bot.modes, world.build.modes, world.pauses) == ([True], [True], [EVERY_S] * 2)
    assert world.bot.probes == [(BOT, [DeviceId("DEVICE")], "io.mxrtc.probe")] * 2


async def test_without_an_announcement_the_polls_stay(world: World) -> None:
    await world.run(7)
    assert (world.wakeups.in_use, world.bot.modes, world.pauses) == (False, [False], [*AGAIN_S, 60, 60])


async def test_announcements_that_stop_bring_the_polls_back_and_it_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.bot.probed = lambda: world.wakeups.hear(news(BOT))
    await world.run()
    world.bot.probed = lambda: None
    await world.run()
    assert (world.wakeups.in_use, world.bot.modes, world.build.modes) == (False, [True, False], [True, False])
    assert "not announced by transactions" in caplog.text


async def test_a_homeserver_that_is_away_is_no_announcement(world: World) -> None:
    def away() -> None:
        raise HomeserverError("away")

    world.bot.probed = away
    await world.run()
    assert not world.wakeups.in_use


async def test_only_those_with_messages_look_unless_something_was_lost(world: World) -> None:
    world.wakeups.hear(news(BUILD))
    assert (world.bot.wakeups, world.build.wakeups) == (0, 1)
    world.wakeups.hear(news(incomplete=True))
    assert (world.bot.wakeups, world.build.wakeups) == (1, 2)


@pytest.mark.parametrize("many", [False, True])
async def test_changed_devices_are_noted_for_all_of_ours_also_if_one_cannot(world: World, many: bool) -> None:
    users = [UserId(f"@u{number}:example.org") for number in range(MAX_CHANGED + 1)] if many else [ALICE]
    world.bot.refuses = not many

    def announced() -> None:
        world.wakeups.hear(news(BOT))
        world.wakeups.hear(news(changed=frozenset({BOT})))  # not yet: the polls bring it

    async def meanwhile() -> None:
        world.wakeups.hear(news(changed=frozenset(users)))
        while not world.build.outdated:
            await asyncio.sleep(0)
        raise InterruptedError

    world.bot.probed = announced
    world.meanwhile = meanwhile
    with pytest.raises(BaseExceptionGroup):
        await world.wakeups.run()
    assert world.build.outdated == [None if many else [ALICE]]


@pytest.mark.virtual_time
async def test_devices_that_change_over_and_over_leave_most_of_the_time_to_others(world: World) -> None:
    """To note a change takes each of our devices a moment in the database, which is everybody's."""
    loop = asyncio.get_running_loop()
    noted: list[float] = []

    async def mark_outdated(_users: Sequence[UserId]) -> None:
        noted.append(loop.time())
        await asyncio.sleep(0.1)

    world.bot.mark_outdated = world.build.mark_outdated = mark_outdated  # type: ignore[method-assign]
    world.bot.probed = lambda: world.wakeups.hear(news(BOT))

    async def meanwhile() -> None:
        began = loop.time()
        while loop.time() < began + 10:
            world.wakeups.hear(news(changed=frozenset({ALICE})))
            await asyncio.sleep(0.01)
        raise InterruptedError

    world.meanwhile = meanwhile
    with pytest.raises(BaseExceptionGroup):
        await world.wakeups.run()
    assert 2 <= len(noted) * 0.1 <= 10 / 4 + 0.2


@pytest.mark.virtual_time
async def test_changes_are_noted_some_seconds_after_the_database_is_back(world: World) -> None:
    """Those that it did not take as well: what it holds of those users would count as up to date."""
    loop = asyncio.get_running_loop()
    back: list[float] = []
    later = UserId("@later:example.org")

    async def mark_outdated(users: Sequence[UserId]) -> None:
        if not back:
            await asyncio.sleep(100)  # as of many devices that wait for it in turn
            raise StorageError("away")
        world.bot.outdated.append(users)

    world.bot.mark_outdated = world.build.mark_outdated = mark_outdated  # type: ignore[method-assign]
    world.bot.probed = lambda: world.wakeups.hear(news(BOT))

    async def meanwhile() -> None:
        world.wakeups.hear(news(changed=frozenset({ALICE})))
        await asyncio.sleep(199)
        back.append(loop.time())
        world.wakeups.hear(news(changed=frozenset({later})))
        while len(world.bot.outdated) < 2:
            await asyncio.sleep(0.1)
        raise InterruptedError

    world.meanwhile = meanwhile
    with pytest.raises(BaseExceptionGroup):
        await world.wakeups.run()
    assert world.bot.outdated == [sorted({ALICE, later})] * 2
    assert loop.time() - back[0] < 10


async def test_what_the_database_refuses_is_not_told_again(world: World) -> None:
    """It would refuse it for ever."""
    refused: list[Sequence[UserId]] = []

    async def mark_outdated(users: Sequence[UserId]) -> None:
        refused.append(users)
        raise RefusedStatementError("a text that it cannot hold")

    world.bot.mark_outdated = world.build.mark_outdated = mark_outdated  # type: ignore[method-assign]
    world.bot.probed = lambda: world.wakeups.hear(news(BOT))

    async def meanwhile() -> None:
        for user in (ALICE, BUILD):
            world.wakeups.hear(news(changed=frozenset({user})))
            before = len(refused)
            while len(refused) < before + 2:
                await asyncio.sleep(0)
        raise InterruptedError

    world.meanwhile = meanwhile
    with pytest.raises(BaseExceptionGroup):
        await world.wakeups.run()
    assert refused == [[ALICE]] * 2 + [[BUILD]] * 2
