"""Devices are brought up each for itself, and whatever becomes of those who have asked for them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.cross_signing import OtherIdentityError
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from tests.bridge.devices.test_devices import USER, KeyServerDouble, ignore, made, server, start
from tests.bridge.homeserver import PEER
from tests.waiting import turns, until

__all__ = ["server"]


async def test_defect_in_the_start_of_one_device_leaves_the_others_up_and_is_tried_again(
    server: KeyServerDouble, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, starts, pauses = UserId(PEER.replace("build", "other")), CryptoDevice.start, list[float]()

    async def defective(device: CryptoDevice) -> None:
        if device.user == USER and len(pauses) < 3:
            raise RecursionError("a defect of ours")
        await starts(device)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(CryptoDevice, "start", defective)
    async with made(server, enabled="on", sleep=sleep) as encryption:
        await start(encryption, [USER, other])
        assert [encryption.device_of(user) is not None for user in (USER, other)] == [False, True]
        running = asyncio.create_task(encryption.run())
        await until(lambda: encryption.device_of(USER) is not None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert pauses == [1.0, 2.0, 4.0]
    assert caplog.text.count("RecursionError: a defect of ours") == 1


async def test_another_identity_is_the_trouble_of_one_user_which_is_served_when_the_right_one_is_shown_again(
    server: KeyServerDouble, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, starts, shown, told = UserId(PEER.replace("build", "other")), CryptoDevice.start, ["another"], list[bool]()

    async def strange(device: CryptoDevice) -> None:
        if device.user == USER and shown[-1] == "another":
            raise OtherIdentityError("it shows another identity")
        await starts(device)

    async def sleep(_seconds: float) -> None:
        assert not encryption.shows_other(other)
        shown.append("another" if len(shown) < 3 else "ours")
        await asyncio.sleep(0)

    monkeypatch.setattr(CryptoDevice, "start", strange)
    encryption: Encryption
    changed = lambda: told.append(encryption.shows_other(USER))  # noqa: E731
    async with made(server, sleep=sleep, is_other=lambda user: user == USER, identity_changed=changed) as encryption:
        await encryption.begin([USER, other], ignore)
        assert encryption.shows_other(USER), "no call is taken unsaid before it was tried"
        await encryption.bring_up()
        assert [encryption.device_of(user) is not None for user in (USER, other)] == [False, True]
        assert encryption.shows_other(USER)
        running = asyncio.create_task(encryption.run())
        await until(lambda: encryption.device_of(USER) is not None)
        assert not encryption.shows_other(USER)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (told[0], told[-1]) == (True, False)
    (line,) = [each for each in caplog.records if "takes no calls" in each.message and each.levelno >= logging.WARNING]
    assert (line.levelname, "it shows another identity; mxrtc-bridge check" in line.message) == ("WARNING", True)


async def test_other_identities_of_all_users_end_the_start(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def strange(device: CryptoDevice) -> None:
        raise OtherIdentityError(f"{device.user} shows another identity")

    monkeypatch.setattr(CryptoDevice, "start", strange)
    async with made(server) as encryption:
        with pytest.raises(OtherIdentityError):
            await start(encryption, [USER, UserId(PEER.replace("build", "other"))])


async def test_user_whom_the_homeserver_has_forgotten_is_registered_before_its_device_is_tried_again(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, starts, story = UserId(PEER.replace("build", "other")), CryptoDevice.start, list[str]()

    async def forgotten(device: CryptoDevice) -> None:
        if device.user == USER:
            story.append("start")
            if "registered" not in story:
                raise HomeserverError("the user is not registered", 403, "M_FORBIDDEN")
        await starts(device)

    async def register(user: UserId) -> None:
        assert user == USER, "nobody else is missing"
        story.append("registered")

    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(CryptoDevice, "start", forgotten)
    async with made(server, sleep=sleep) as encryption:
        await encryption.begin([USER, other], ignore, register)
        await encryption.bring_up()
        running = asyncio.create_task(encryption.run())
        await until(lambda: encryption.device_of(USER) is not None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert story == ["start", "start", "registered", "start"]


async def test_devices_come_up_although_the_reload_that_asked_was_ended_and_not_those_that_a_newer_one_left_out(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = UserId(PEER.replace("build", "kept")), UserId(PEER.replace("build", "gone"))
    starts, gate = CryptoDevice.start, asyncio.Event()

    async def slow(device: CryptoDevice) -> None:
        await gate.wait()
        await starts(device)

    monkeypatch.setattr(CryptoDevice, "start", slow)
    async with made(server) as encryption:
        await encryption.begin([USER], ignore)
        running = asyncio.create_task(encryption.run())
        first = asyncio.create_task(encryption.bring_up())
        await turns()
        reload = asyncio.create_task(encryption.serve([USER, kept, gone]))
        await turns()
        reload.cancel()
        newer = asyncio.create_task(encryption.serve([USER, kept]))
        await turns()
        newer.cancel()
        gate.set()
        await until(lambda: encryption.device_of(USER) is not None and encryption.device_of(kept) is not None)
        await first
        assert encryption.device_of(gone) is None
        assert encryption.lists_of(gone) is None
        running.cancel()
        await asyncio.gather(running, reload, newer, return_exceptions=True)


async def test_what_keeps_a_device_from_coming_up_is_said_although_nobody_waits_any_more(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate, starts = asyncio.Event(), CryptoDevice.start

    async def strange(device: CryptoDevice) -> None:
        if device.user == USER:
            return await starts(device)
        await gate.wait()
        raise OtherIdentityError("it shows another identity")

    monkeypatch.setattr(CryptoDevice, "start", strange)
    async with made(server) as encryption:
        await start(encryption, [USER])
        reload = asyncio.create_task(encryption.serve([USER, UserId(PEER.replace("build", "other"))]))
        await turns()
        reload.cancel()
        await asyncio.gather(reload, return_exceptions=True)
        gate.set()
        await until(lambda: "! not all devices of peers are up: it shows another identity" in caplog.text)
