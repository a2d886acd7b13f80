"""What our device is asked for is done by the command that has it, for the person in front of any other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.sharing import device_work as module
from mxrtc_bridge.client.sharing.device_work import DeviceWork, accept_identity, list_devices
from mxrtc_bridge.client.sharing.guest import HolderGoneError
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.sharing.messages import DeviceRequest, DeviceTask
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, UserDevices
from tests.client.sharing.bench import LOGIN, PEER, Bench, Heard, Network
from tests.waiting import until

LIST = DeviceRequest(DeviceTask.LIST, PEER, None, 5.0)
VERIFY = DeviceRequest(DeviceTask.VERIFY, PEER, None, 5.0)
CODE = ShortCode((0, 1, 2, 3, 4, 5, 63), (1000, 5000, 9191))


async def test_what_the_device_gives_reaches_the_guest_as_it_was_given(tmp_path: Path) -> None:
    person = Heard()
    async with Bench(tmp_path, Network()) as bench:
        bench.device.lines = ["LAPTOP\tkey", "PHONE\tother"]
        await asyncio.wait_for((await bench.reach()).ask_device(LIST, person), 10)
        assert bench.device.asked == [LIST]
        assert person.given == [("device", each, {"user": PEER, "own": True}) for each in bench.device.lines]
        await until(lambda: bench.holder.guests == 0)


@pytest.mark.parametrize("same", [True, False])
async def test_the_person_in_front_of_the_guest_compares(tmp_path: Path, same: bool) -> None:
    person = Heard()
    async with Bench(tmp_path, Network()) as bench:
        bench.device.code = CODE
        person.answers.put_nowait(same)
        await asyncio.wait_for((await bench.reach()).ask_device(VERIFY, person), 10)
        assert person.shown == [(PEER, "PHONE", CODE)]
        assert bench.device.same is same
        assert person.said[-1] == ("verified", "verified", {"signed": True})


async def test_who_gives_no_answer_ends_the_verification_at_the_device(tmp_path: Path) -> None:
    person = Heard()
    async with Bench(tmp_path, Network()) as bench:
        bench.device.code = CODE
        person.answers.put_nowait(ClientError(Exit.USAGE, "there was no answer"))
        with pytest.raises(ClientError, match="there was no answer"):
            await asyncio.wait_for((await bench.reach()).ask_device(VERIFY, person), 10)
        await until(lambda: bench.device.ended)
        assert bench.device.same is None


async def test_a_guest_that_is_interrupted_ends_what_it_has_asked_for(tmp_path: Path) -> None:
    async with Bench(tmp_path, Network()) as bench:
        bench.device.code = CODE
        person = Heard()
        asking = asyncio.create_task((await bench.reach()).ask_device(VERIFY, person))
        await until(lambda: person.shown)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: bench.device.ended)


@pytest.mark.parametrize(
    "error",
    [ClientError(Exit.DENIED, "another identity than before"), HomeserverError("too often", 429, "M_LIMIT", 2.5)],
)
async def test_what_fails_fails_for_the_guest_in_the_same_way(tmp_path: Path, error: Exception) -> None:
    async with Bench(tmp_path, Network()) as bench:
        bench.device.failure = error
        with pytest.raises(type(error)) as failed:
            await asyncio.wait_for((await bench.reach()).ask_device(LIST, Heard()), 10)
        assert str(failed.value) == str(error)


async def test_of_a_holder_that_ends_before_anything_is_given_somebody_else_can_be_asked(tmp_path: Path) -> None:
    """Afterwards not, as the person would see it twice."""
    async with Bench(tmp_path, Network()) as bench:
        bench.device.code = CODE
        person = Heard()
        asking = asyncio.create_task((await bench.reach()).ask_device(VERIFY, person))
        await until(lambda: person.shown)
        await bench.holder.close()
        with pytest.raises(ClientError, match="has ended") as ended:
            await asyncio.wait_for(asking, 10)
        assert not isinstance(ended.value, HolderGoneError)
    async with Bench(tmp_path, Network()) as bench:
        link = await bench.reach()
        bench.holder.turn_away()
        with pytest.raises(HolderGoneError):
            await asyncio.wait_for(link.ask_device(LIST, Heard()), 10)


class Lists:
    """What the device knows of one user."""

    device_id = DeviceId("LAPTOP")
    user = LOGIN.user_id

    def __init__(self, master: str | None = "now", pinned: str | None = "now") -> None:
        self.lists = self
        self.master, self.pinned = master, pinned
        self.accepted: list[tuple[UserId, str | None]] = []

    async def devices_of(self, user: UserId, *, fresh: bool) -> UserDevices:
        assert fresh
        mine = [DeviceIdentity(user, DeviceId(each), f"key{each}", "", Trust.UNSIGNED) for each in ("A", "LAPTOP")]
        return UserDevices(user, tuple(mine), self.master, self.pinned)

    async def accept_identity(self, user: UserId, *, verified: str | None) -> UserDevices:
        self.accepted.append((user, verified))
        return UserDevices(user, (), self.master, self.master)


async def test_devices_are_listed_our_own_first() -> None:
    person = Heard()
    await list_devices(cast(Any, Lists()), LOGIN.user_id, person)
    assert person.said == [
        ("identity", f"identity of {LOGIN.user_id}: now", {"user": LOGIN.user_id, "identity": "now"})
    ]
    assert [(line, fields["own"]) for _, line, fields in person.given] == [
        ("LAPTOP\tkeyLAPTOP\tany, this one", True),
        ("A\tkeyA\tany", False),
    ]


async def test_an_identity_that_has_changed_is_listed_and_refused() -> None:
    person = Heard()
    with pytest.raises(ClientError, match="another identity than before") as refused:
        await list_devices(cast(Any, Lists(pinned="before")), PEER, person)
    assert refused.value.code is Exit.DENIED
    assert len(person.given) == 2


@pytest.mark.parametrize(("key", "verified"), [(None, None), ("now", "now"), ("now=", "now")])
async def test_the_identity_that_is_shown_is_accepted(key: str | None, verified: str | None) -> None:
    device, person = Lists(pinned="before"), Heard()
    await accept_identity(cast(Any, device), PEER, key, person)
    assert device.accepted == [(PEER, verified)]
    assert person.said[0][2] == {"user": PEER, "identity": "now", "before": "before"}


@pytest.mark.parametrize(("device", "key"), [(Lists(), "another"), (Lists(None, None), None)])
async def test_no_other_identity_is_accepted(device: Lists, key: str | None) -> None:
    with pytest.raises(ClientError) as refused:
        await accept_identity(cast(Any, device), PEER, key, Heard())
    assert (refused.value.code, device.accepted) == (Exit.DENIED, [])


async def test_the_device_is_open_for_as_long_as_the_work_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shared:
        """Gives a device, and notes when."""

        def __init__(self) -> None:
            self.told: list[str] = []
            self.device = Lists()

        def opened(self, _transport: object, **_: object) -> Shared:
            return self

        async def __aenter__(self) -> Shared:
            self.told.append("opened")
            return self

        async def __aexit__(self, *_: object) -> None:
            self.told.append("put away")

        async def done_with(self, transport: Any) -> None:
            self.told.append("left")
            await transport.close()

    async def verify_with(opened: Shared, whose: UserId, *_: object) -> None:
        opened.told.append(f"verified {whose}")

    monkeypatch.setattr(module, "verify_with", verify_with)
    shared = Shared()
    work = DeviceWork(cast(Any, shared), StateFolder(tmp_path), LOGIN)
    person = Heard()
    for task in DeviceTask:
        await work.do(DeviceRequest(task, PEER, None, 5.0), person)
    once = ["opened", "put away", "left"]
    assert shared.told == [*once, *once, "opened", f"verified {PEER}", "put away", "left"]
    assert shared.device.accepted == [(PEER, None)]
    assert len(person.given) == 2
