"""Verifications at the bridge: what waits for the admin, what an answer does, and for whom it counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mxrtc_bridge.bridge.admin.numbers import Numbers
from mxrtc_bridge.bridge.devices.verification import MAX_WAITING, BridgeVerifications
from mxrtc_bridge.core.crypto.sas import TIMEOUT_S
from mxrtc_bridge.core.crypto.sas_codes import EMOJI
from mxrtc_bridge.core.crypto.sas_values import Compare, Effect
from mxrtc_bridge.core.errors import AdminError, HomeserverError
from mxrtc_bridge.core.ids import EventId, LocalAdmin, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent, UserDevices
from mxrtc_bridge.matrix.crypto.verification import MAX_OPEN, Exchange, Verifications
from mxrtc_bridge.storage.counters import CounterStore
from mxrtc_bridge.storage.database import Database
from tests.matrix.crypto.verification_world import ALICE, BUILD, MASTERS, PEER, PHONE, Device

ADMIN = LocalAdmin("root")
NOW_MS = 1_000_000_000


class World:
    """Everything around them; also the rules, the clock, the audit and who sends in rooms."""

    def __init__(self, numbers: Numbers | None = None) -> None:
        self.now = 0.0
        self._counted = 0
        self.allowed = True
        self.shown: str | None = MASTERS[ALICE]
        self.identities: dict[UserId, str] = {}
        self.in_force = self.encryption = self
        self.accepted: list[tuple[UserId, str | None]] = []
        self.vouched: list[tuple[UserId, str]] = []
        self.audit: list[tuple[object, ...]] = []
        self.told: list[str] = []
        self.in_room: list[tuple[RoomId, UserId, str]] = []
        self.device = Device(PEER, BUILD)
        self.bridge = BridgeVerifications(
            self,
            self,
            rights=self,  # type: ignore[arg-type]
            config=self,  # type: ignore[arg-type]
            audited=self,  # type: ignore[arg-type]
            tell_admins=self.told.append,
            new_number=(numbers or Numbers(self, "verification")).next,
            clock=self,  # type: ignore[arg-type]
            sleep=self.sleep,
        )
        self.slept = 0

    async def reserve(self, _name: str, count: int) -> int:
        self._counted += count
        return self._counted - count + 1

    def monotonic(self) -> float:
        """Stands still while the machine sleeps, as it does in these tests."""
        return 0.0

    def elapsed_ms(self) -> int:
        return round(self.now * 1000)

    def wall_ms(self) -> int:
        return NOW_MS

    async def sleep(self, _seconds: float) -> None:
        self.slept += 1
        if self.slept > 1:
            raise InterruptedError

    def allows(self, user: UserId, local: UserId) -> bool:
        return self.allowed

    async def vouch_for(self, user: UserId, master: str) -> None:
        self.vouched.append((user, master))

    async def accept_identity(self, user: UserId, key: str | None) -> UserDevices:
        if key in (None, self.shown):
            self.accepted.append((user, key))
        return UserDevices(user, (), self.shown, "before")

    def verified(self, *values: object) -> None:
        self.audit.append(values)

    async def send_event(
        self, room: RoomId, sender: UserId, event_type: str, content: Mapping[str, object], *, key: str
    ) -> EventId:
        self.in_room.append((room, sender, event_type))
        return EventId("$sent")


class User:
    """A user with a device who verifies the peer."""

    def __init__(self, world: World, user: UserId = ALICE, *, identity: bool = True) -> None:
        self.world = world
        self.device = Device(user, PHONE, identity=identity)
        self.codes: list[Compare] = []
        self.verifications = Verifications(
            self.device,  # type: ignore[arg-type]
            admits=lambda _user: True,
            changed=self._changed,
            monotonic=lambda: world.now,
            wall_ms=world.wall_ms,
        )

    async def _changed(self, _exchange: Exchange, effect: Effect) -> None:
        if isinstance(effect, Compare):
            self.codes.append(effect)

    async def ask(self) -> None:
        await self.verifications.ask(self.world.device.user)
        await self.pump()

    async def pump(self) -> None:
        """Deliver everything between the user's device and the peer's."""
        while True:
            out, back = self.device.take(BUILD), self.world.device.take(PHONE)
            for event in out:
                assert await self.world.bridge.handle(self.world.device, event)  # type: ignore[arg-type]
            for event in back:
                await self.verifications.receive(event)
            if not out and not back:
                return

    async def agrees(self) -> None:
        (exchange,) = self.verifications.open
        await self.verifications.compared(exchange, same=True)
        await self.pump()


@pytest.fixture
def world() -> World:
    return World()


async def test_the_admin_sees_what_the_user_sees_and_both_agree(world: World) -> None:
    user = User(world)
    await user.ask()
    (row,) = world.bridge.rows()
    (code,) = user.codes
    assert (row["user"], row["peer"], row["device"], row["number"]) == (ALICE, PEER, PHONE, 1)
    assert row["emoji"] == [EMOJI[each][1] for each in code.code.emoji]
    assert row["numbers"] == list(code.code.decimals)
    assert len(world.told) == 1
    assert not any(name in world.told[0] for name in code.code.names), "what is compared is in no room"
    said = await world.bridge.decide(1, same=True, by=ADMIN)
    assert "has still to say" in said
    assert (world.vouched, world.bridge.rows()[0]["answered"]) == ([], True)
    await user.agrees()
    assert (world.vouched, world.bridge.rows()) == ([(ALICE, MASTERS[ALICE])], [])
    assert world.audit == [(ADMIN, ALICE, PEER, PHONE, "both show the same")]


async def test_the_user_may_be_the_first_to_agree(world: World) -> None:
    user = User(world)
    await user.ask()
    await user.agrees()
    assert world.vouched == []
    said = await world.bridge.decide(1, same=True, by=ADMIN)
    assert f"known by the identity {MASTERS[ALICE]}" in said
    assert world.vouched == [(ALICE, MASTERS[ALICE])]


async def test_without_an_identity_nothing_is_remembered(world: World) -> None:
    user = User(world, identity=False)
    await user.ask()
    await user.agrees()
    assert "remembers nothing" in await world.bridge.decide(1, same=True, by=ADMIN)
    assert world.vouched == []


async def test_what_differs_ends_it_and_is_written_down(world: World) -> None:
    user = User(world)
    await user.ask()
    await user.agrees()
    assert "someone may be intercepting the connection" in await world.bridge.decide(1, same=False, by=ADMIN)
    await user.pump()
    assert (world.vouched, world.bridge.rows(), user.verifications.open) == ([], [], ())
    assert world.audit == [(ADMIN, ALICE, PEER, PHONE, "they differ")]


async def test_a_right_that_is_gone_ends_it_whatever_the_admin_says(world: World) -> None:
    user = User(world)
    await user.ask()
    await user.agrees()
    world.allowed = False
    with pytest.raises(AdminError, match="no right"):
        await world.bridge.decide(1, same=True, by=ADMIN)
    await user.pump()
    assert (world.vouched, world.bridge.rows(), user.verifications.open, world.audit) == ([], [], (), [])


async def test_who_may_not_call_is_not_answered(world: World) -> None:
    world.allowed = False
    await User(world).ask()
    assert (world.bridge.rows(), world.told, world.device.sent) == ([], [], [])


@pytest.mark.parametrize("number", [0, 2])
async def test_there_is_no_answer_to_what_does_not_wait(world: World, number: int) -> None:
    await User(world).ask()
    with pytest.raises(AdminError, match="No verification"):
        await world.bridge.decide(number, same=True, by=ADMIN)


async def test_an_answer_counts_once(world: World) -> None:
    await User(world).ask()
    await world.bridge.decide(1, same=True, by=ADMIN)
    with pytest.raises(AdminError, match="No verification"):
        await world.bridge.decide(1, same=False, by=ADMIN)


async def test_there_is_a_limit_and_the_oldest_makes_room(world: World) -> None:
    for number in range(MAX_WAITING + 1):
        if number % MAX_OPEN == 0:
            # One peer has a lower limit of its own.
            world.device = Device(UserId(f"@rtc_{number}:example.org"), BUILD)
        await User(world, UserId(f"@user{number}:example.org")).ask()
    assert [row["number"] for row in world.bridge.rows()] == list(range(2, MAX_WAITING + 2))


async def test_time_ends_what_waits(world: World) -> None:
    user = User(world)
    await user.ask()
    world.now = TIMEOUT_S
    with pytest.raises(InterruptedError):
        await world.bridge.run()
    assert (world.bridge.rows(), world.slept) == ([], 2)


@pytest.mark.parametrize("same", [True, False])
async def test_an_answer_that_was_given_after_a_sleep_is_too_late(world: World, same: bool) -> None:
    """Nothing has had a chance to run before it."""
    user = User(world)
    await user.ask()
    await user.agrees()
    world.now = TIMEOUT_S
    with pytest.raises(AdminError, match="more than ten minutes"):
        await world.bridge.decide(1, same=same, by=ADMIN)
    assert (world.vouched, world.bridge.rows(), world.audit) == ([], [], [])


async def test_a_homeserver_that_is_away_stops_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    user = User(world)
    await user.verifications.ask(PEER)
    world.device.fails = HomeserverError("away")
    await user.pump()
    assert "a verification with @alice:example.org has failed: away" in caplog.text
    assert "Traceback" not in caplog.text


async def test_one_in_a_room_is_answered_there_by_the_peer(world: World) -> None:
    content = {"msgtype": "m.key.verification.request", "to": PEER, "from_device": PHONE, "methods": ["m.sas.v1"]}
    room = RoomId("!room:example.org")
    event = RoomEvent(EventId("$r"), room, "m.room.message", ALICE, NOW_MS, content)
    assert await world.bridge.handle_in_room(world.device, event)  # type: ignore[arg-type]
    assert world.in_room == [(room, PEER, "m.key.verification.ready")]
    other = RoomEvent(EventId("$t"), room, "m.room.message", ALICE, NOW_MS, {"msgtype": "m.text"})
    assert not await world.bridge.handle_in_room(world.device, other)  # type: ignore[arg-type]


async def test_other_messages_to_a_device_are_for_others(world: World) -> None:
    other = ToDeviceEvent("io.mxrtc.signal", ALICE, {}, None)
    assert not await world.bridge.handle(world.device, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [None, MASTERS[ALICE]])
async def test_a_new_identity_is_accepted_on_purpose_and_that_is_written_down(world: World, key: str | None) -> None:
    said = await world.bridge.trust(ALICE, key, by=ADMIN)
    assert said == f"{ALICE} is known by the identity {MASTERS[ALICE]} now, before before" + (
        ", verified." if key else "."
    )
    assert world.accepted == [(ALICE, key)]
    how = "compared by its key" if key else "accepted unseen"
    assert world.audit == [(ADMIN, ALICE, None, None, f"the identity {MASTERS[ALICE]} is {how}")]


async def test_another_identity_than_the_given_one_or_none_is_not_accepted(world: World) -> None:
    with pytest.raises(AdminError, match="not the one that you gave"):
        await world.bridge.trust(ALICE, MASTERS[PEER], by=ADMIN)
    world.shown = None
    with pytest.raises(AdminError, match="no identity"):
        await world.bridge.trust(ALICE, MASTERS[PEER], by=ADMIN)
    assert (world.accepted, world.audit) == ([], [])


async def test_what_the_configuration_says_of_an_identity_is_not_overruled(world: World) -> None:
    world.identities[ALICE] = MASTERS[ALICE]
    with pytest.raises(AdminError, match="The configuration says"):
        await world.bridge.trust(ALICE, None, by=ADMIN)
    assert world.accepted == []


async def test_an_answer_that_is_typed_after_a_restart_is_nobody_elses(tmp_path: Path) -> None:
    """The number was given before; after it another user asks, whom the admin has not compared anything with."""
    url = f"sqlite:///{tmp_path}/bridge.db"
    async with await Database.open(url) as database:
        before = World(Numbers(CounterStore(database), "verification"))
        await User(before).ask()
        (row,) = before.bridge.rows()
    async with await Database.open(url) as database:
        after = World(Numbers(CounterStore(database), "verification"))
        await User(after, UserId("@user1:example.org")).ask()
        with pytest.raises(AdminError, match="No verification"):
            await after.bridge.decide(int(str(row["number"])), same=True, by=ADMIN)
        (other,) = after.bridge.rows()
        assert int(str(other["number"])) > int(str(row["number"]))
    assert (after.vouched, after.audit) == ([], [])
