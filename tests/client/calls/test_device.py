"""The client's end of calls between devices: only the device that was called is heard."""

from __future__ import annotations

import asyncio
import os
import resource
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.client.calls import device as module
from mxrtc_bridge.client.calls.device import (
    APPEARS_AGAIN_S,
    APPEARS_S,
    DEVICE_ANSWER_S,
    LOOK_AGAIN_S,
    SLOW_LINE_TIMES,
    DeviceCalls,
    NoDeviceError,
    NoOwnDeviceError,
    SilentPeerError,
    UnreadableAnswerError,
    appearing_device,
    no_call_by_device,
)
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.waiting import HOMESERVER
from mxrtc_bridge.core.call.events import Answer, CallMessage, Hangup, Invite, Version
from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE, CallToDevice, call_to_device_content, parse_call_to_device
from mxrtc_bridge.core.crypto.records import Changes, Trust, UserRecord
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import CallId, DeviceId, PartyId, UserId
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent, UserDevices
from mxrtc_bridge.storage.crypto import CryptoStore
from mxrtc_bridge.storage.database import Database
from tests.virtual_time import run
from tests.waiting import turns

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")
BUILD = DeviceIdentity(PEER, DeviceId("BUILD"), "ed", "curve", Trust.CROSS_SIGNED)
CALL, PARTY = CallId("call"), PartyId("party")
INVITE, HANGUP = Invite(CALL, PARTY, Version.V1, "v=0\r\n", 60_000), Hangup(CALL, PARTY, Version.V1)
ANSWER = Answer(CALL, PARTY, Version.V1, "v=0\r\n")


@dataclass
class Own:
    user: UserId = ALICE
    sent: list[CallToDevice] = field(default_factory=list)
    to: list[DeviceIdentity] = field(default_factory=list)
    """Who was sent each of them."""
    listed: tuple[DeviceIdentity, ...] = (BUILD,)
    master: str = "master"
    anew: list[DeviceIdentity] = field(default_factory=list)
    """With whom new sessions were begun."""
    takes_s: float = 0.0
    """How long the homeserver takes with what is sent."""

    @property
    def sender(self) -> Own:
        """What is sent with it is kept here as well."""
        return self

    async def send(self, devices: list[DeviceIdentity], event_type: str, content: dict[str, Any]) -> None:
        assert event_type == SIGNAL_TYPE
        await asyncio.sleep(self.takes_s)
        self.to += devices
        self.sent.append(parse_call_to_device(content))

    async def devices_of(self, user: UserId, *, fresh: bool) -> UserDevices:
        assert fresh
        return UserDevices(user, self.listed, self.master, "master")

    async def begin_anew(self, device: DeviceIdentity) -> None:
        self.anew.append(device)


class World:
    def __init__(self) -> None:
        self.own = Own()
        self.calls = DeviceCalls(self.own, BUILD)  # type: ignore[arg-type]
        self.heard: list[CallMessage] = []
        self.calls.listener = lambda _user, message: self.heard.append(message)

    async def come(
        self,
        message: CallMessage = ANSWER,
        device: DeviceIdentity | None = BUILD,
        sender: UserId = PEER,
        kind: str = SIGNAL_TYPE,
        **changes: Any,
    ) -> None:
        content = {**call_to_device_content(CallToDevice(0, 5, message)), **changes}
        await self.calls.handle(self.own, ToDeviceEvent(kind, sender, content, device))  # type: ignore[arg-type]


async def test_what_we_say_is_numbered_and_ends_with_the_device() -> None:
    world = World()
    assert not world.calls.invited.is_set()
    await world.calls.send(ALICE, INVITE, "invite")
    assert world.calls.invited.is_set()
    await world.calls.send(ALICE, HANGUP, "hangup")
    await world.calls.close()
    await world.calls.send(ALICE, HANGUP, "hangup")
    assert [(signal.seq, type(signal.message)) for signal in world.own.sent] == [(0, Invite), (1, Hangup)]


async def test_what_is_lost_as_the_device_is_given_back_in_a_hurry_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that is told to end closes the connection to the homeserver under what is being sent."""
    world, cut = World(), asyncio.Event()

    async def is_cut(*_: object) -> None:
        await cut.wait()
        raise HomeserverError("this connection to the homeserver has been closed")

    monkeypatch.setattr(world.own, "send", is_cut)
    sending = asyncio.create_task(world.calls.send(ALICE, INVITE, "invite"))
    await turns()
    closing = asyncio.create_task(world.calls.close())
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    cut.set()
    await sending
    await world.calls.send(ALICE, HANGUP, "hangup")


async def test_the_device_that_was_called_is_heard_and_nothing_else() -> None:
    world = World()
    await world.come(device=None)
    await world.come(device=replace(BUILD, device=DeviceId("OTHER")))
    await world.come(device=replace(BUILD, ed25519="forged"))
    await world.come(sender=ALICE)
    await world.come(kind="m.call.answer")
    await world.come(seq=-1)
    await world.come(content={"call_id": CALL})
    assert world.heard == []
    await world.come()
    await world.come()
    assert world.heard == [ANSWER]


NEW = DeviceIdentity(PEER, DeviceId("NEW"), "ed2", "curve2", Trust.CROSS_SIGNED)


class Story(World):
    """A call that was placed, in a loop whose time passes at once."""

    answered = False

    async def place(self, *, hears: bool = True) -> asyncio.Task[None]:
        if hears:
            self.calls.heard.set()
        await self.calls.send(ALICE, INVITE, "invite")
        task = asyncio.create_task(self.calls.see_through(CALL, lambda: not self.answered))
        await asyncio.sleep(0)
        return task

    def what(self) -> list[tuple[int, str]]:
        return [(signal.seq, device.device) for signal, device in zip(self.own.sent, self.own.to, strict=True)]


def test_silence_of_a_device_counts_from_when_we_hear_what_comes_for_ours() -> None:
    """On a bad line the connection that it comes by may take longer than the one that the invite went by."""

    async def story() -> float:
        call = Story()
        task = await call.place(hears=False)
        await asyncio.sleep(60)
        assert not task.done()
        call.calls.heard.set()
        began = asyncio.get_running_loop().time()
        with pytest.raises(SilentPeerError):
            await task
        return asyncio.get_running_loop().time() - began

    assert run(story()) == 60 * SLOW_LINE_TIMES


@pytest.mark.parametrize(("takes_s", "waits_s"), [(0.5, DEVICE_ANSWER_S), (3.0, 3.0 * SLOW_LINE_TIMES)])
def test_who_waits_long_for_the_homeserver_waits_longer_for_a_device(takes_s: float, waits_s: float) -> None:
    async def story() -> float:
        call = Story()
        call.own.takes_s = takes_s
        task = await call.place()
        began = asyncio.get_running_loop().time()
        with pytest.raises(SilentPeerError):
            await task
        return asyncio.get_running_loop().time() - began

    assert run(story()) >= waits_s


def test_an_invite_without_a_sign_is_said_again_by_a_new_session_and_then_given_up() -> None:
    async def story() -> None:
        world = Story()
        task = await world.place()
        await asyncio.sleep(LOOK_AGAIN_S - 0.1)
        assert world.what() == [(0, "BUILD")]
        await asyncio.sleep(0.2)
        assert (world.what(), world.own.anew) == ([(0, "BUILD"), (0, "BUILD")], [BUILD])
        with pytest.raises(SilentPeerError):
            await task
        assert asyncio.get_running_loop().time() == DEVICE_ANSWER_S

    run(story())


def test_a_peer_that_could_not_read_is_sent_it_again_at_once_by_its_new_session() -> None:
    async def story() -> None:
        world = Story()
        task = await world.place()
        world.calls.session_begun(BUILD, False)
        await asyncio.sleep(0.01)
        assert (world.what(), world.own.anew) == ([(0, "BUILD"), (0, "BUILD")], [])
        world.answered = True
        await asyncio.sleep(100)
        assert not task.done()
        task.cancel()

    run(story())


@pytest.mark.parametrize("told", [True, False])
def test_a_device_that_was_replaced_by_another_one_of_the_same_identity_is_called_in_its_place(told: bool) -> None:
    async def story() -> None:
        world = Story()
        task = await world.place()
        world.own.listed = (NEW,)
        if told:
            world.calls.session_begun(NEW, False)
        await asyncio.sleep(0.01 if told else LOOK_AGAIN_S + 0.01)
        assert world.what() == [(0, "BUILD"), (0, "NEW")]
        await world.come()
        assert world.heard == []
        await world.come(device=NEW)
        assert world.heard == [ANSWER]
        assert world.calls.peer == NEW
        task.cancel()

    run(story())


@pytest.mark.parametrize(
    "device", [replace(NEW, trust=Trust.UNSIGNED), replace(NEW, user=ALICE), replace(BUILD, trust=Trust.UNSIGNED)]
)
def test_a_device_that_the_peer_has_not_signed_takes_nobodys_place(device: DeviceIdentity) -> None:
    async def story() -> None:
        world = Story()
        task = await world.place()
        world.calls.session_begun(device, False)
        await asyncio.sleep(0.01)
        assert {name for _, name in world.what()} == {"BUILD"}
        assert world.calls.peer == BUILD
        task.cancel()

    run(story())


def test_an_identity_that_changes_meanwhile_ends_the_call() -> None:
    async def story() -> None:
        world = Story()
        task = await world.place()
        world.own.master = "another"
        with pytest.raises(ClientError, match="shows another identity than before"):
            await task
        assert world.what() == [(0, "BUILD")]

    run(story())


def test_an_answer_that_cannot_be_read_asks_for_another_call() -> None:
    async def story() -> None:
        world = Story()
        task = await world.place()
        world.calls.session_begun(BUILD, True)
        with pytest.raises(UnreadableAnswerError):
            await task
        assert not world.calls.invited.is_set()
        second = replace(INVITE, call_id=CallId("second"))
        await world.calls.send(ALICE, second, "invite")
        assert world.what() == [(0, "BUILD"), (0, "BUILD")], "each call has numbers of its own"
        await world.come(sent_ms=77)
        assert world.calls.clocks is not None
        assert world.calls.clocks[1] == 77

    run(story())


@pytest.mark.parametrize("at_first", [(), (replace(BUILD, trust=Trust.UNSIGNED),)])
def test_a_device_that_appears_a_moment_after_its_bridge_is_waited_for(at_first: tuple[DeviceIdentity, ...]) -> None:
    """It is listed before its identity has signed it."""

    async def story() -> None:
        own, told = Own(listed=at_first), list[float]()
        now = asyncio.get_running_loop().time

        def waits(what: str) -> None:
            assert what == module.NEW_DEVICE
            told.append(now())
            if len(told) == 3:
                own.listed = (BUILD,)

        assert await appearing_device(own, PEER, waits) == BUILD  # type: ignore[arg-type]
        assert now() == 3 * APPEARS_AGAIN_S
        own.listed = at_first
        with pytest.raises(NoDeviceError):
            await appearing_device(own, PEER, lambda _what: None)  # type: ignore[arg-type]
        assert now() == 3 * APPEARS_AGAIN_S + APPEARS_S
        with pytest.raises(NoDeviceError):
            await appearing_device(own, PEER, None)  # type: ignore[arg-type]
        assert now() == 3 * APPEARS_AGAIN_S + APPEARS_S

    run(story())


async def test_one_command_at_a_time_holds_the_device(tmp_path: Path) -> None:
    path = tmp_path / "state" / "crypto.lock"
    path.parent.mkdir()
    folder = os.open(path.parent, os.O_RDONLY)

    told: list[str] = []

    async def hold() -> None:
        async with module.device_lock(folder, path, wait_s=0.1, waits=told.append):
            pass

    async with module.device_lock(folder, path, wait_s=0.1):
        with pytest.raises(NoDeviceError, match="another mxrtc command"):
            await hold()
        waiting = asyncio.create_task(hold())
        await turns()
        assert not waiting.done()
    await waiting
    # Not for the homeserver, although a command that holds the device may wait for that.
    assert set(told) == {module.OTHER_COMMAND, HOMESERVER}
    assert told.index(HOMESERVER) == len(told) - 1
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(NoDeviceError, match="cannot be used"):
        await hold()
    os.close(folder)


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "crypto.key"
    folder = os.open(tmp_path, os.O_RDONLY)
    key = module.device_key(folder, path)
    assert len(key) >= 32
    assert module.device_key(folder, path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["crypto.key"]
    os.close(folder)


def test_a_key_that_cannot_be_written_is_a_device_that_cannot_be_used(tmp_path: Path) -> None:
    """As on a full disk: it is no reason for a call not to go by a room, which then says why."""
    folder = os.open(tmp_path, os.O_RDONLY)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(NoOwnDeviceError, match=r"crypto\.key cannot be used: File too large"):
            module.device_key(folder, tmp_path / "crypto.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.close(folder)
    assert os.listdir(tmp_path) == []


def test_an_empty_key_that_a_run_has_left_which_died_is_made_anew(tmp_path: Path) -> None:
    path, folder = tmp_path / "crypto.key", os.open(tmp_path, os.O_RDONLY)
    path.touch(mode=0o600)
    assert len(module.device_key(folder, path)) >= 32
    path.write_bytes(b"")
    (tmp_path / "crypto.db").touch()
    # Something may have been encrypted with the one that is lost.
    assert module.device_key(folder, path) == b""
    os.close(folder)


async def test_what_was_verified_is_known_also_where_nothing_can_be_written(tmp_path: Path) -> None:
    state, login = StateFolder(tmp_path / "state"), Login("https://hs", ALICE, "PHONE", "token")
    assert not await module.is_verified(state, login, PEER)
    with state.opened():
        pass
    path = state.path / "crypto.db"
    path.touch(mode=0o600)
    assert not await module.is_verified(state, login, PEER), "the first run was killed"
    for verified in (None, "master"):
        async with await Database.open(f"sqlite:///{path}") as database:
            record = UserRecord(PEER, "", 0, outdated=True, pinned_master="master", verified_master=verified)
            await CryptoStore(database).of(ALICE).save(Changes(users=[record]))
        assert await module.is_verified(state, login, PEER) is (verified is not None)
    assert not await module.is_verified(state, replace(login, user_id=PEER), PEER), "another user's"
    path.chmod(0o400)
    state.path.chmod(0o500)
    assert await module.is_verified(state, login, PEER)
    state.path.chmod(0o700)
    path.chmod(0o600)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ClientError, match="is damaged, remove it"):
        await module.is_verified(state, login, PEER)


async def test_who_cannot_do_without_a_device_reads_that_the_folder_is_at_fault(tmp_path: Path) -> None:
    state, login = StateFolder(tmp_path / "state"), Login("https://hs", ALICE, "PHONE", "token")
    with state.opened():
        (state.path / "crypto.lock").mkdir()  # nobody can open it, root neither
    with pytest.raises(ClientError, match=r"crypto\.lock") as caught:
        async with module.own_device(state, login):
            pass
    assert caught.value.code is Exit.LOCAL


async def test_who_waits_for_a_device_in_vain_may_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, login = StateFolder(tmp_path / "state"), Login("https://hs", ALICE, "PHONE", "token")
    monkeypatch.setattr(module, "take_lock", lambda _descriptor: False)
    monkeypatch.setattr(module.device_lock.__wrapped__, "__kwdefaults__", {"wait_s": 0.0})  # type: ignore[attr-defined]
    with pytest.raises(ClientError, match="another mxrtc command") as caught:
        async with module.own_device(state, login):
            pass
    assert caught.value.code is Exit.RETRY


async def test_connections_of_whoever_needs_a_device_are_used_and_stay_open(tmp_path: Path) -> None:
    state, login = StateFolder(tmp_path / "state"), Login("https://hs", ALICE, "PHONE", "token")
    transport = Transport("http://127.0.0.1:1", "token", RequestPolicy(RetryPolicy(0)))
    for _ in range(2):
        with pytest.raises(HomeserverError, match="refused"):
            async with module.own_device(state, login, transport=transport):
                pass
    await transport.close()


def test_call_that_no_device_can_take_says_what_is_missing_and_not_to_try_again() -> None:
    none = NoDeviceError(Exit.RETRY, "it has no device with a signed identity")
    never = no_call_by_device("build", none, deviceless=True)
    assert never.code is Exit.USAGE
    assert "build has none" in str(never)
    assert "leave out --signal device" in str(never)
    later = no_call_by_device("build", none, deviceless=False)
    assert (later.code, str(later)) == (Exit.RETRY, f"no call to build by a device: {none}")
    ours = no_call_by_device("build", NoOwnDeviceError("no folder"), deviceless=True)
    assert (ours.code, str(ours)) == (Exit.LOCAL, "no call to build by a device: no folder")
