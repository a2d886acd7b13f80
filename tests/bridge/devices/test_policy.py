"""Sessions stay only as long as their devices would be let in, by what the homeserver answers now.

It can lie; each test says what it needs: the truth, silence, or a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mxrtc_bridge.bridge.devices.lookups import DeviceLookups
from mxrtc_bridge.bridge.devices.policy import CHANGED, EVERY_S, GONE, UNTRUSTED, DevicePolicy
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from tests.fakes import DeviceConfig
from tests.honesty import LIES, Honesty
from tests.matrix.crypto.key_homeserver import KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore

ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:far.test")
PEER, OTHER = UserId("@rtc_build:example.org"), UserId("@rtc_other:example.org")


@dataclass(eq=False)
class Session:
    device: CallerDevice | None
    remote: UserId = ALICE
    local: UserId = PEER


class World:
    """The sessions, the peer's device, and the homeserver."""

    def __init__(self) -> None:
        self.server = KeyHomeserver()
        lists = {
            local: DeviceLists(self.server, MemoryStore(), wall_ms=lambda: 10**9)  # type: ignore[arg-type]
            for local in (PEER, OTHER)
        }
        self.lists = lists
        self.config = DeviceConfig(Trust.CROSS_SIGNED)
        self.lookups = DeviceLookups(lists.get, self.config, sleep=self.at_once)
        self.sessions: tuple[Session, ...] = ()
        self.ended: list[tuple[Session, str]] = []
        self.pauses: list[float] = []
        self.policy = DevicePolicy(self.lookups, self, self.sleep)  # type: ignore[arg-type]

    async def at_once(self, _pause: float) -> None: ...

    async def sleep(self, pause: float) -> None:
        self.pauses.append(pause)
        if len(self.pauses) > 3:
            raise InterruptedError

    def end_sessions(self, which: Callable[[Session], bool], message: str) -> int:
        chosen = [session for session in self.sessions if which(session)]
        self.ended += [(session, message) for session in chosen]
        self.sessions = tuple(session for session in self.sessions if session not in chosen)
        return len(chosen)

    async def call(self, user: UserId = ALICE, name: str = "PHONE", local: UserId = PEER) -> Session:
        """A new device of the user, signed by a new identity, that is let in."""
        self.server.make_identity(user)
        self.device = device = self.server.log_in(user, name)
        caller = (await self.lookups.judge(local, device)).device
        session = Session(caller, user, local)
        self.sessions = (*self.sessions, session)
        return session

    def why(self) -> list[str]:
        return [why for _, why in self.ended]


@pytest.fixture
def world() -> World:
    return World()


def another_identity(world: World) -> None:
    world.server.make_identity(ALICE, "second")


def another_identity_that_has_signed_it(world: World) -> None:
    world.server.make_identity(ALICE, "second")
    world.server.sign(ALICE, "PHONE")


def no_identity(world: World) -> None:
    del world.server.identities[ALICE]


def one_device_less(world: World) -> None:
    world.server.log_in(ALICE, "OTHER")
    world.server.log_out(ALICE, "PHONE")


def no_device(world: World) -> None:
    world.server.log_out(ALICE)


def left_out(world: World) -> None:
    world.server.forgets = {ALICE}


def another_key(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")


ENDS = [
    (another_identity, CHANGED),
    (another_identity_that_has_signed_it, CHANGED),
    (no_identity, CHANGED),
    (one_device_less, GONE),
    (no_device, GONE),
    (left_out, GONE),
    (another_key, GONE),
]


@pytest.mark.parametrize(("change", "why"), ENDS)
@pytest.mark.parametrize("least", [Trust.UNSIGNED, Trust.CROSS_SIGNED])
async def test_what_the_homeserver_says_of_the_device_ends_a_session_under_every_policy(
    world: World, change: Callable[[World], None], why: str, least: Trust
) -> None:
    """It announces nothing, and is asked."""
    world.config.least = least
    await world.call()
    await world.policy.judge_again()
    assert world.ended == []
    change(world)
    await world.policy.judge_again()
    assert world.why() == [why]


async def test_a_device_that_is_not_signed_any_more_ends_it_where_that_is_asked_for(world: World) -> None:
    await world.call()
    keys = world.server.listed[ALICE]["PHONE"]  # type: ignore[index]
    keys["signatures"][ALICE] = {
        name: each for name, each in keys["signatures"][ALICE].items() if name == "ed25519:PHONE"
    }
    world.config.least = Trust.UNSIGNED
    await world.policy.judge_again()
    assert world.ended == []
    world.config.least = Trust.CROSS_SIGNED
    await world.policy.judge_again()
    assert world.why() == [UNTRUSTED]


@pytest.mark.parametrize("least", [Trust.UNSIGNED, Trust.CROSS_SIGNED])
@pytest.mark.parametrize("lie", ["silent", "failures", "wrong", "stale"])
async def test_a_homeserver_that_does_not_answer_ends_nothing_however_long(
    world: World, lie: str, least: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    world.config.least = least
    await world.call()
    if lie == "stale":
        world.server.grow_stale()
    else:
        setattr(world.server, lie, {"silent": "503", "failures": {"example.org"}, "wrong": {"device_keys": []}}[lie])
    no_device(world)
    for _ in range(10):
        await world.policy.judge_again()
    assert world.ended == []
    assert caplog.text.count("cannot be asked for") == (lie != "stale")


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("change", "why"), ENDS)
async def test_what_was_said_of_the_device_once_ends_the_session_and_no_lie_lets_it_call_again(
    world: World, change: Callable[[World], None], why: str, lie: Honesty
) -> None:
    session = await world.call()
    assert session.device is not None
    device = world.device
    change(world)
    await world.policy.judge_again()
    world.server.honesty = lie
    await world.policy.judge_again()
    assert world.why() == [why]
    assert not (await world.lookups.judge(PEER, device)).is_good


async def test_a_first_identity_ends_nothing(world: World) -> None:
    world.config.least = Trust.UNSIGNED
    device = world.server.log_in(ALICE, "PHONE")
    caller = (await world.lookups.judge(PEER, device)).device
    world.sessions = (Session(caller),)
    world.server.make_identity(ALICE)
    await world.policy.judge_again()
    assert world.ended == []


async def test_sessions_of_others_and_of_other_devices_go_on(world: World) -> None:
    first = await world.call()
    second = Session((await world.call(local=OTHER, name="TABLET")).device)
    await world.call(BOB)
    world.server.log_out(ALICE, "PHONE")
    await world.policy.judge_again()
    assert world.ended == [(first, GONE)]
    assert second not in world.sessions
    assert len(world.sessions) == 2


async def test_a_policy_that_asks_for_more_ends_at_once_who_has_called_without_a_device(world: World) -> None:
    """Nobody is asked for that, and nobody need answer."""
    plain, good = Session(None), await world.call()
    world.sessions = (plain, good)
    world.server.silent = "away"
    asked = len(world.server.asked)
    world.policy.policy_changed()
    assert (world.ended, len(world.server.asked)) == ([(plain, UNTRUSTED)], asked)
    world.config.least = Trust.VERIFIED
    await world.policy.judge_again()
    assert world.ended == [(plain, UNTRUSTED), (good, UNTRUSTED)], "it was never known to be so much"


async def test_a_policy_for_all_lets_those_stay_who_have_called_without_a_device(world: World) -> None:
    world.config.least, world.sessions = Trust.UNSIGNED, (Session(None),)
    await world.policy.judge_again()
    assert (world.ended, world.server.asked) == ([], [])


async def test_a_peer_whose_device_is_gone_ends_nothing(world: World) -> None:
    await world.call()
    del world.lists[PEER]
    no_device(world)
    await world.policy.judge_again()
    assert world.ended == []


async def test_they_are_judged_again_and_again_whatever_goes_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    async def look_all(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise RuntimeError("a defect")

    await world.call()
    monkeypatch.setattr(world.lookups, "look_all", look_all)
    with pytest.raises(InterruptedError):
        await world.policy.run()
    assert (asked, world.pauses) == (3, [EVERY_S] * 4)
    assert "were not judged" in caplog.text
