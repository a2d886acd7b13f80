"""Encryption as a part of the bridge: when it is on, what is said when it is off, and events whose keys are late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from mxrtc_bridge.bridge.build import Pace
from mxrtc_bridge.bridge.check import _check_encryption
from mxrtc_bridge.bridge.devices import devices as encryption_module
from mxrtc_bridge.bridge.devices import identity_key
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.config.problems import Level
from mxrtc_bridge.core.crypto.records import Changes, UserRecord
from mxrtc_bridge.core.errors import HomeserverError, LocalError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent, UserDevices
from mxrtc_bridge.storage.crypto import CryptoStore
from mxrtc_bridge.storage.tables import open_stores
from tests.bridge.homeserver import ALICE, PEER, FakeHomeserver
from tests.bridge.test_bridge import running
from tests.long import size
from tests.waiting import turns, until

USER = UserId(PEER)


class KeyServerDouble(FakeHomeserver):
    """Answers what devices ask; ``refuse`` and ``away_for_devices`` say how it fails."""

    refuse = False
    away_for_devices = False
    in_trouble: frozenset[str] = frozenset()
    """Users whose keys it does not take."""

    def _authorized(self, parts: list[str], user: str, body: dict[str, Any]) -> web.Response:
        match parts:
            case ["devices", _] if self.refuse:
                return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "unknown"}, status=404)
            case ["devices", _] if self.away_for_devices:
                return web.json_response({"errcode": "M_FORBIDDEN", "error": "busy"}, status=429)
            case ["keys", "query"]:
                return web.json_response({"device_keys": {each: {} for each in body["device_keys"]}})
            case ["keys", "upload"] if user in self.in_trouble:
                return web.json_response({"errcode": "M_UNKNOWN", "error": "key exists"}, status=400)
            case ["keys", "upload"]:
                return web.json_response({"one_time_key_counts": {"signed_curve25519": 50}})
            case ["sync"]:
                return web.json_response({"next_batch": "s1"})
        return super()._authorized(parts, user, body)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[KeyServerDouble]:
    async with KeyServerDouble(tmp_path) as homeserver:
        yield homeserver


async def ignore(_: CryptoDevice, __: ToDeviceEvent) -> None:
    pass


@asynccontextmanager
async def made(
    server: FakeHomeserver,
    sleep: Any = asyncio.sleep,
    is_other: Callable[[UserId], bool] = lambda _user: False,
    identity_changed: Callable[[], None] = lambda: None,
    **section: Any,
) -> AsyncIterator[Encryption]:
    config = server.config(encryption=section)
    async with open_stores(config.database) as stores:
        encryption = Encryption(
            config,
            stores.crypto,
            wall_ms=lambda: 10**12,
            sleep=sleep,
            is_other=is_other,
            identity_changed=identity_changed,
        )
        try:
            yield encryption
        finally:
            await encryption.close()


async def start(encryption: Encryption, users: Iterable[UserId]) -> None:
    await encryption.begin(users, ignore)
    await encryption.bring_up()


async def test_a_device_that_is_brought_up_while_nobody_listens_is_listened_for_by_the_next_who_does(
    server: KeyServerDouble,
) -> None:
    other = UserId(f"@rtc_other:{USER.split(':')[1]}")
    async with made(server) as encryption:
        await start(encryption, [USER])
        for users in ([USER, other], [USER, other]):
            running = asyncio.create_task(encryption.run())
            await until(lambda: encryption.device_of(USER) is not None and "v3/sync" in server.asked)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await encryption.serve(users)
            server.asked.clear()
        assert encryption.device_of(other) is not None


async def test_identities_that_were_compared_count_for_every_peer_also_for_new_ones(server: KeyServerDouble) -> None:
    alice, other = UserId(ALICE), UserId(f"@rtc_other:{USER.split(':')[1]}")

    async def verified(encryption: Encryption, user: UserId) -> str | None:
        lists = encryption.lists_of(user)
        assert lists is not None
        return (await lists.of([alice], fresh=True))[alice].pinned

    async with made(server) as encryption:
        await start(encryption, [USER])
        await encryption.vouch_for(alice, "m" * 43)
        assert await verified(encryption, USER) == "m" * 43
        await encryption.serve([USER, other])
        assert await verified(encryption, other) == "m" * 43
    async with made(server) as encryption:
        await start(encryption, [USER, other])
        assert await verified(encryption, other) == "m" * 43, "also after a restart"


async def test_identities_that_were_compared_are_kept_once_however_many_devices_there_are(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [USER, *(UserId(f"@rtc_more{number}:{USER.split(':')[1]}") for number in range(5))]
    people = {UserId(f"@u{number}:{USER.split(':')[1]}"): f"{number:x}".rjust(43, "k") for number in range(200)}
    database = server.config().database
    async with open_stores(database) as stores:
        for user, master in people.items():
            await stores.crypto.of(USER).save(
                Changes(users=[UserRecord(user, "", 0, outdated=True, pinned_master=master, verified_master=master)])
            )
    async with made(server) as encryption:
        asked: list[int] = []
        vouched = CryptoStore.vouched

        async def ask(store: CryptoStore) -> dict[UserId, str]:
            asked.append(1)
            return await vouched(store)

        monkeypatch.setattr(CryptoStore, "vouched", ask)
        await start(encryption, users)
        assert asked == [1]
        for user in users:
            lists = encryption.lists_of(user)
            assert lists is not None
            assert (await lists.of(list(people)[7:8]))[list(people)[7]].pinned == people[list(people)[7]]
    async with open_stores(database) as stores:
        rows = [1 for user in users for each in people if await stores.crypto.of(user).user(each) is not None]
        assert len(rows) == len(people) + len(users) - 1, "a row of each device for whom it has asked for, and no more"


@pytest.mark.parametrize("knows", ["first", "second"])
async def test_the_identity_of_before_is_told_whichever_device_has_known_it(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch, knows: str
) -> None:
    alice, other = UserId(ALICE), UserId(f"@rtc_other:{USER.split(':')[1]}")
    async with made(server) as encryption:
        await start(encryption, [USER, other])
        first, second = (end.rooms.device for end in encryption._ends.values())
        accepted: list[UserId] = []
        for device in (first, second):
            pinned = "old" if device is (first if knows == "first" else second) else "new"

            async def devices_of(user: UserId, *, fresh: bool = False, pinned: str = pinned) -> UserDevices:
                return UserDevices(user, (), "new", pinned)

            async def accept(user: UserId, *, verified: str | None, owner: UserId = device.user) -> None:
                accepted.append(owner)

            monkeypatch.setattr(device, "devices_of", devices_of)
            monkeypatch.setattr(device.lists, "accept_identity", accept)
        assert (await encryption.accept_identity(alice, None)).pinned == "old"
        assert set(accepted) == {USER, other}


async def test_a_reload_tells_all_devices_whom_the_admin_knows(server: KeyServerDouble) -> None:
    async with made(server) as encryption:
        await start(encryption, [USER])
        device = encryption.device_of(USER)
        assert device is not None
        encryption.configure(server.config(encryption={"identities": {ALICE: "A" * 43}, "receive": "transactions"}))
        assert device.lists._known == {ALICE: "A" * 43}


async def test_it_is_on_by_itself_and_the_key_is_made_once(server: KeyServerDouble) -> None:
    async with made(server) as encryption:
        await start(encryption, [USER])
        assert encryption.is_on
        device = encryption.device_of(USER)
        assert device is not None
        first = (server.folder / "encryption.key").read_text()
        assert (server.folder / "encryption.key").stat().st_mode & 0o777 == 0o600
    async with made(server) as encryption:
        await start(encryption, [USER])
        again = encryption.device_of(USER)
        assert again is not None
        assert again.master_key == device.master_key
        assert (server.folder / "encryption.key").read_text() == first


@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_homeserver_that_cannot_do_it_is_said(
    server: KeyServerDouble, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuse = True
    async with made(server, enabled=mode) as encryption:
        if mode == "on":
            with pytest.raises(HomeserverError, match="make a device"):
                await start(encryption, [USER])
        else:
            await start(encryption, [USER])
            assert not encryption.is_on
            assert "encryption is off: could not make a device" in caplog.text


@pytest.mark.parametrize(("mode", "level"), [("auto", Level.WARN), ("on", Level.FAIL)])
async def test_missing_library_is_said(
    server: KeyServerDouble, mode: str, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_key, "available", lambda: False)
    finding = _check_encryption(server.config(encryption={"enabled": mode}))
    assert (finding.level, "vodozemac" in finding.what) == (level, True)
    async with made(server, enabled=mode) as encryption:
        if mode == "on":
            with pytest.raises(LocalError, match="vodozemac"):
                await start(encryption, [USER])
        else:
            await start(encryption, [USER])
            assert encryption.why_off is not None


@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_the_trouble_of_one_device_is_its_own_and_is_over_when_the_homeserver_takes_its_keys(
    server: KeyServerDouble, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = [UserId(PEER.replace("build", f"p{number}")) for number in range(3)]
    server.in_trouble = frozenset({USER})
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        server.in_trouble = frozenset()
        await asyncio.sleep(0)

    async with made(server, enabled=mode, sleep=sleep) as encryption:
        await start(encryption, [USER, *others])
        assert encryption.is_on
        assert [encryption.device_of(user) is not None for user in (USER, *others)] == [False, True, True, True]
        assert f"the device of {USER} comes up later" in caplog.text
        task = asyncio.create_task(encryption.run())
        async with asyncio.timeout(10):
            while encryption.device_of(USER) is None:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert pauses[0] <= encryption_module.FIRST_RESTART_S


async def test_devices_that_the_homeserver_has_failed_have_it_pinged_and_go_on_when_it_is_back(
    server: KeyServerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(server, Pace(ping_retry_s=0.05), encryption={"enabled": "on"}) as (bridge, _, _):
        await until(lambda: bridge.devices.encryption.device_of(USER) and "reaches the bridge" in caplog.text)
        server.away = True
        # By itself it pings once a minute.
        await until(lambda: "does not reach the bridge" in caplog.text)
        waiting = asyncio.create_task(bridge.basis.homeserver_return.pause(1000))
        server.away = False
        await until(waiting.done)


async def test_defect_with_the_messages_of_one_device_leaves_the_others_listening(
    server: KeyServerDouble, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UserId(PEER.replace("build", "other"))
    pauses: list[float] = []
    again = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await again.wait()

    async def defective(_answer: object) -> tuple[ToDeviceEvent, ...]:
        raise RecursionError("a defect of ours")

    async with made(server, sleep=sleep) as encryption:
        await start(encryption, [USER, other])
        device = encryption.device_of(USER)
        with monkeypatch.context() as broken:
            broken.setattr(device, "receive_sync", defective)
            running = asyncio.create_task(encryption.run())
            await until(lambda: bool(pauses) or running.done())
        assert encryption.device_of(USER) is None
        assert encryption.device_of(other) is not None
        again.set()
        await until(lambda: encryption.device_of(USER) is not None)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "a defect of ours" in caplog.text
    assert len(pauses) == 1


async def test_a_database_that_is_busy_at_the_start_switches_nothing_off(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with made(server) as encryption:
        answers = [StorageError("busy")]

        async def vouched() -> dict[UserId, str]:
            if answers:
                raise answers.pop()
            return {UserId(ALICE): "m" * 43}

        monkeypatch.setattr(encryption._store, "vouched", vouched)
        await start(encryption, [USER])
        assert encryption.is_on
        task = asyncio.create_task(encryption.run())
        async with asyncio.timeout(10):
            while encryption.device_of(USER) is None:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        lists = encryption.lists_of(USER)
        assert lists is not None
        assert (await lists.of([UserId(ALICE)]))[UserId(ALICE)].pinned == "m" * 43


async def test_whether_messages_are_announced_is_found_out_when_the_devices_are_up(
    server: KeyServerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with made(server, receive="transactions") as encryption:
        await encryption.begin([USER], ignore)
        running = asyncio.create_task(encryption.run())
        await turns(100)
        assert "announced by transactions" not in caplog.text
        await encryption.bring_up()
        await until(lambda: any("/sendToDevice/" in each for each in server.asked))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_users_that_are_gone_from_the_configuration_are_not_listened_for(server: KeyServerDouble) -> None:
    other = UserId(PEER.replace("build", "web"))
    async with made(server) as encryption:
        await start(encryption, [USER, other])
        await encryption.serve([other])
        assert encryption.device_of(USER) is None
        assert encryption.device_of(other) is not None


async def test_devices_that_are_asked_for_twice_at_a_time_are_brought_up_once(server: KeyServerDouble) -> None:
    """As by a reload while the bridge starts: two devices of one user would delete each other."""
    others = [UserId(PEER.replace("build", f"p{number}")) for number in range(12)]
    async with made(server) as encryption:
        await start(encryption, [])
        await asyncio.gather(*(encryption.serve([*others, USER]) for _ in range(3)))
        devices = {user: encryption.device_of(user) for user in (*others, USER)}
        assert all(devices.values())
    for user, device in devices.items():
        assert device is not None
        made_here = {each for each in server.asked if each.startswith("v3/devices/")}
        assert f"v3/devices/{device.device_id}" in made_here, user
    assert len({each for each in server.asked if each.startswith("v3/devices/")}) == len(devices)


async def test_peers_that_come_and_go_open_no_connections_for_ever(
    server: KeyServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, plain = list[object](), encryption_module.Transport

    def counted(*args: Any, **options: Any) -> object:
        opened.append(made := plain(*args, **options))
        return made

    monkeypatch.setattr(encryption_module, "Transport", counted)
    domain = USER.split(":")[1]
    async with made(server) as encryption:
        await encryption.begin([USER], ignore)
        await encryption.bring_up()
        for number in range(size(80, 20)):
            await encryption.serve([USER, UserId(f"@rtc_more{number}:{domain}")])
        assert len(opened) == 2, "one for questions, one that the long polls share"
