"""Sessions stay only as long as their devices would be let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from mxrtc_bridge.app.device_policy import EVERY_S, DevicePolicy
from mxrtc_bridge.core.encryption import CallerDevice, DeviceId, Trust
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, UserDevices

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")
PHONE = DeviceIdentity(ALICE, DeviceId("PHONE"), "ed", "curve", Trust.CROSS_SIGNED)
CALLER = CallerDevice(PHONE.device, PHONE.ed25519, Trust.CROSS_SIGNED)


@dataclass(eq=False)
class Session:
    device: CallerDevice | None = CALLER
    remote: UserId = ALICE
    local: UserId = PEER


class World:
    """The sessions, and the device of the peer."""

    def __init__(self) -> None:
        self.sessions: tuple[Session, ...] = (Session(),)
        self.listed: tuple[DeviceIdentity, ...] = (PHONE,)
        self.least = Trust.CROSS_SIGNED
        self.up, self.away = True, False
        self.ended: list[Session] = []
        self.asked = 0
        self.pauses: list[float] = []
        self.policy = DevicePolicy(
            lambda _user: self if self.up else None,  # type: ignore[arg-type,return-value]
            self,  # type: ignore[arg-type]
            lambda: self.least,
            self.sleep,
        )

    async def sleep(self, pause: float) -> None:
        self.pauses.append(pause)
        if len(self.pauses) > 2:
            raise InterruptedError

    def end_sessions(self, which: Callable[[Session], bool], message: str) -> int:
        assert "verified devices" in message
        self.ended += [session for session in self.sessions if which(session)]
        return len(self.ended)

    async def devices_of(self, user: UserId) -> UserDevices:
        assert user == ALICE
        self.asked += 1
        if self.away:
            raise HomeserverError("away")
        return UserDevices(user, self.listed, "m", "m")


@pytest.fixture
def world() -> World:
    return World()


async def test_what_would_be_let_in_stays(world: World) -> None:
    await world.policy.judge_again()
    assert world.ended == []


@pytest.mark.parametrize(
    "listed",
    [
        (),
        (replace(PHONE, trust=Trust.UNSIGNED),),
        (replace(PHONE, ed25519="other"),),
        (replace(PHONE, device=DeviceId("OTHER")),),
    ],
)
async def test_a_device_that_is_gone_or_trusted_less_than_before_ends_it(
    world: World, listed: tuple[DeviceIdentity, ...]
) -> None:
    world.listed = listed
    await world.policy.judge_again()
    assert world.ended == list(world.sessions)


async def test_a_policy_that_asks_for_more_ends_those_who_have_less(world: World) -> None:
    plain, good = Session(None), Session()
    world.sessions = (plain, good)
    await world.policy.judge_again()
    assert world.ended == [plain]
    world.least = Trust.VERIFIED
    world.sessions = (good,)
    await world.policy.judge_again()
    assert world.ended == [plain, good]


async def test_a_policy_for_all_asks_nobody(world: World) -> None:
    world.least, world.listed, world.sessions = Trust.UNSIGNED, (), (Session(None),)
    await world.policy.judge_again()
    assert (world.ended, world.asked) == ([], 0)


@pytest.mark.parametrize("what", ["up", "away"])
async def test_what_cannot_be_found_out_ends_nothing(world: World, what: str) -> None:
    world.listed = ()
    setattr(world, what, what == "away")
    await world.policy.judge_again()
    assert world.ended == []


async def test_they_are_judged_again_and_again(world: World) -> None:
    with pytest.raises(InterruptedError):
        await world.policy.run()
    assert (world.asked, world.pauses) == (2, [EVERY_S] * 3)
