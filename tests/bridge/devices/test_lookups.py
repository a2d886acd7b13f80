"""Devices of callers, asked for now: what is believed when, who waits for whom, and who is asked together.

The homeserver answers with real keys, and can lie; each test says which lie it needs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices.lookups import (
    FRESH_S,
    LOOKS,
    LOOKS_A_MINUTE,
    LOOKS_A_MINUTE_OF_SERVER,
    NEW_AT_A_TIME,
    SILENT_S,
    UNLISTED_PAUSE_S,
    USERS_PER_REQUEST,
    YOUNG_MS,
    DeviceLookups,
    Standing,
)
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, UserDevices
from tests.fakes import DeviceConfig
from tests.honesty import LIES, NO_ANSWERS, Honesty
from tests.matrix.crypto.key_homeserver import KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore
from tests.waiting import until

pytestmark = pytest.mark.virtual_time

BUILD, WEB = UserId("@rtc_build:example.org"), UserId("@rtc_web:example.org")
ALICE, BOB, FAR = UserId("@alice:example.org"), UserId("@bob:example.org"), UserId("@carol:far.test")


class World:
    """Two peers, their homeserver and databases, and a clock."""

    def __init__(self, **limits: Any) -> None:
        self.server = KeyHomeserver()
        self.now_s = 1000.0
        self.pauses: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """Done while it is waited for a device to be listed."""
        self.config = DeviceConfig()
        self.stores = {local: MemoryStore() for local in (BUILD, WEB)}
        self.lists = {local: self.made(self.stores[local]) for local in (BUILD, WEB)}
        self.lookups = DeviceLookups(self.lists.get, self.config, monotonic=self.monotonic, sleep=self.sleep, **limits)

    def made(self, store: MemoryStore) -> DeviceLists:
        wall_ms = lambda: round(self.now_s * 1000)  # noqa: E731 - it is this clock
        return DeviceLists(self.server, store, wall_ms=wall_ms, monotonic=self.monotonic)  # type: ignore[arg-type]

    def monotonic(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    async def sleep(self, pause: float) -> None:
        self.pauses.append(pause)
        self.now_s += pause
        self.meanwhile()

    async def judge(self, device: DeviceIdentity, least: Trust = Trust.UNSIGNED, local: UserId = BUILD) -> Standing:
        self.config.least = least
        return (await self.lookups.judge(local, device)).standing

    async def look_all(self, *pairs: tuple[UserId, UserId]) -> dict[tuple[UserId, UserId], list[str]]:
        found: dict[tuple[UserId, UserId], list[str]] = {}

        def heard(pair: tuple[UserId, UserId], seen: UserDevices) -> None:
            found[pair] = [each.device for each in seen.devices]

        await self.lookups.look_all(pairs, heard)
        return found


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> DeviceIdentity:
    world.server.make_identity(ALICE)
    return world.server.log_in(ALICE, "PHONE")


# --- one caller


async def test_a_device_is_good_if_it_is_listed_with_its_keys_and_trusted_enough(
    world: World, phone: DeviceIdentity
) -> None:
    world.config.least = Trust.CROSS_SIGNED
    caller = await world.lookups.judge(BUILD, phone)
    assert caller.device is not None
    assert (caller.standing, caller.device.trust) == (Standing.GOOD, Trust.CROSS_SIGNED)
    assert caller.device.master == world.server.identities[ALICE].master.public
    assert await world.judge(phone, Trust.VERIFIED) is Standing.UNTRUSTED


async def test_a_policy_that_asks_for_more_while_it_is_asked_counts(world: World, phone: DeviceIdentity) -> None:
    """Who is asked takes seconds; what an admin has put in force meanwhile is the policy."""
    ask = world.server.query_keys

    async def changed(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        world.config.least = Trust.VERIFIED
        return await ask(users)

    world.config.least = Trust.CROSS_SIGNED
    world.server.query_keys = changed  # type: ignore[method-assign]
    caller = await world.lookups.judge(BUILD, phone)
    assert (caller.standing, caller.identity and caller.identity.trust) == (Standing.UNTRUSTED, Trust.CROSS_SIGNED)
    assert world.lookups.judge_by_message(phone).standing is Standing.UNTRUSTED
    world.config.least = phone.trust
    assert world.lookups.judge_by_message(phone).is_good


async def test_nothing_that_was_known_before_lets_a_device_in(world: World, phone: DeviceIdentity) -> None:
    """Nobody has announced that the user has another identity: none of our users shares a room with this one."""
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.GOOD
    world.server.make_identity(ALICE, "second")
    world.now_s += FRESH_S + 0.1
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.CHANGED
    world.server.sign(ALICE, "PHONE")
    world.now_s += FRESH_S + 0.1
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.CHANGED, "also when the new one has signed it"


@pytest.mark.parametrize("change", ["deleted", "replaced", "all", "never"])
@pytest.mark.parametrize("least", list(Trust))
async def test_a_device_that_is_not_there_with_its_key_is_unlisted_whatever_the_policy(
    world: World, phone: DeviceIdentity, change: str, least: Trust
) -> None:
    await world.judge(phone)
    world.now_s += FRESH_S + 0.1
    if change == "deleted":
        world.server.log_in(ALICE, "OTHER")
        world.server.log_out(ALICE, "PHONE")
    elif change == "replaced":
        world.server.log_in(ALICE, "PHONE")
    elif change == "all":
        world.server.log_out(ALICE)
    else:
        phone = replace(phone, ed25519="e" * 43)
    assert await world.judge(phone, least) is Standing.UNLISTED


async def test_a_device_that_is_listed_a_moment_later_is_let_in(world: World, phone: DeviceIdentity) -> None:
    """The homeserver of a new device is stale for a moment."""
    world.server.log_out(ALICE)
    keys = KeyHomeserver()
    late = keys.log_in(ALICE, "NEW")

    world.meanwhile = lambda: world.server.listed.update({ALICE: keys.listed[ALICE]})
    assert await world.judge(late) is Standing.GOOD
    assert (world.pauses, len(world.server.asked)) == ([UNLISTED_PAUSE_S], 2)
    # One that never is costs some questions more.
    world.now_s += FRESH_S + 0.1
    assert await world.judge(phone) is Standing.UNLISTED
    assert len(world.server.asked) == 2 + LOOKS


@pytest.mark.parametrize("lie", ["silent", "failures", "wrong"])
async def test_without_an_answer_only_what_is_young_counts(world: World, phone: DeviceIdentity, lie: str) -> None:
    setattr(world.server, lie, {"silent": "away", "failures": {"example.org"}, "wrong": {}}[lie])
    assert await world.judge(phone) is Standing.UNKNOWN
    setattr(world.server, lie, {"silent": None, "failures": set(), "wrong": None}[lie])
    world.now_s += SILENT_S
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.GOOD
    began_s = world.now_s
    setattr(world.server, lie, {"silent": "away", "failures": {"example.org"}, "wrong": {}}[lie])
    world.now_s += YOUNG_MS / 1000 - 1
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.GOOD
    assert await world.judge(phone, Trust.VERIFIED) is Standing.UNTRUSTED
    world.now_s = began_s + YOUNG_MS / 1000 + 1
    assert await world.judge(phone) is Standing.UNKNOWN


async def test_after_an_outage_of_our_homeserver_the_first_call_asks_it_again(
    world: World, phone: DeviceIdentity
) -> None:
    world.server.silent = "away"
    assert await world.look_all((BUILD, ALICE)) == {}
    world.server.silent = None
    assert await world.judge(phone) is Standing.GOOD


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("least", [Trust.UNSIGNED, Trust.CROSS_SIGNED])
async def test_device_that_was_seen_to_be_gone_is_let_in_by_no_lie(
    world: World, phone: DeviceIdentity, lie: Honesty, least: Trust
) -> None:
    """However young the answer is that told of it before."""
    assert await world.judge(phone, least) is Standing.GOOD
    world.server.log_out(ALICE)
    world.now_s += FRESH_S + 0.1
    assert await world.judge(phone, least) is Standing.UNLISTED
    world.server.honesty = lie
    for passed_s in (0.0, FRESH_S + 0.1, YOUNG_MS / 1000 + 1):
        world.now_s += passed_s
        assert await world.judge(phone, least) in (Standing.UNLISTED, Standing.UNKNOWN)


@pytest.mark.parametrize("lie", LIES)
async def test_identity_that_was_seen_to_be_another_is_let_in_by_no_lie(
    world: World, phone: DeviceIdentity, lie: Honesty
) -> None:
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.GOOD
    world.server.make_identity(ALICE, "second")
    world.server.sign(ALICE, "PHONE")
    world.now_s += FRESH_S + 0.1
    assert await world.judge(phone, Trust.CROSS_SIGNED) is Standing.CHANGED
    world.server.honesty = lie
    for passed_s in (0.0, FRESH_S + 0.1, YOUNG_MS / 1000 + 1):
        world.now_s += passed_s
        assert await world.judge(phone, Trust.CROSS_SIGNED) in (Standing.CHANGED, Standing.UNKNOWN)


@pytest.mark.parametrize("lie", NO_ANSWERS)
async def test_device_of_which_the_database_cannot_tell_is_not_let_in(
    world: World, phone: DeviceIdentity, lie: Honesty
) -> None:
    """It hangs or refuses, so nobody knows whether the identity is the one of before."""
    world.stores[BUILD].honesty = lie
    assert await world.judge(phone, Trust.CROSS_SIGNED) in (Standing.UNKNOWN, Standing.UNTRUSTED)


async def test_what_is_young_does_not_count_once_a_change_was_announced(world: World, phone: DeviceIdentity) -> None:
    await world.judge(phone)
    await world.lists[BUILD].mark_outdated([ALICE])
    world.server.silent = "away"
    world.now_s += FRESH_S + 0.1
    assert await world.judge(phone) is Standing.UNKNOWN


async def test_an_identity_that_is_replaced_while_it_is_asked_for_is_not_missed(
    world: World, phone: DeviceIdentity
) -> None:
    """The answer is the old one, and the change is announced before it comes."""
    gate = world.server.gate = asyncio.Event()
    judging = asyncio.create_task(world.judge(phone, Trust.CROSS_SIGNED))
    await until(lambda: len(world.server.asked) >= 1)
    world.server.make_identity(ALICE, "second")
    await world.lists[BUILD].receive({"changed": [ALICE]})
    gate.set()
    assert await judging is Standing.CHANGED
    assert len(world.server.asked) == 2


async def test_a_user_whose_devices_change_all_the_time_is_refused(world: World, phone: DeviceIdentity) -> None:
    truth = world.server.query_keys

    async def restless(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        answer = await truth(users)
        await world.lists[BUILD].mark_outdated([ALICE])
        return answer

    world.server.query_keys = restless  # type: ignore[method-assign]
    assert await world.judge(phone) is Standing.UNKNOWN


async def test_callers_of_one_user_at_one_time_cost_one_question(world: World, phone: DeviceIdentity) -> None:
    world.server.gate = asyncio.Event()
    judging = [asyncio.create_task(world.judge(phone, local=local)) for local in (BUILD, WEB, BUILD, WEB)]
    await until(lambda: len(world.server.asked) >= 1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.server.asked == [(ALICE,)]
    world.server.gate.set()
    assert await asyncio.gather(*judging) == [Standing.GOOD] * 4
    assert world.server.asked == [(ALICE,)]
    assert world.lookups.status().users == 0


async def test_an_answer_that_was_asked_for_too_early_does_not_serve(world: World, phone: DeviceIdentity) -> None:
    """The homeserver hangs with an old answer."""
    gate = world.server.gate = asyncio.Event()
    first = asyncio.create_task(world.judge(phone))
    await until(lambda: len(world.server.asked) >= 1)
    world.now_s += FRESH_S + 0.1
    world.server.log_out(ALICE)
    second = asyncio.create_task(world.judge(phone))
    gate.set()
    assert await first is Standing.GOOD
    assert await second is Standing.UNLISTED


async def test_an_answer_about_a_user_whom_the_asker_may_not_see_does_not_serve_others(
    world: World, phone: DeviceIdentity
) -> None:
    """A homeserver may answer about those only who share a room."""
    world.server.forgets = {ALICE}
    assert await world.judge(phone, local=WEB) is Standing.UNLISTED
    world.server.forgets = set()
    assert await world.judge(phone, local=BUILD) is Standing.GOOD


async def test_a_caller_makes_us_ask_only_so_often(world: World, phone: DeviceIdentity) -> None:
    for _ in range(300):
        world.now_s += 0.1
        await world.judge(replace(phone, ed25519="e" * 43))
    assert len(world.server.asked) <= LOOKS_A_MINUTE * 16


async def test_a_server_that_hangs_is_left_alone_for_a_while_and_holds_up_only_its_own(
    world: World, phone: DeviceIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    truth, hanging = world.server.query_keys, 0

    async def query(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        nonlocal hanging
        if any(user.endswith(".test") for user in users):
            hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                hanging -= 1
        return await truth(users)

    world.server.query_keys = query  # type: ignore[method-assign]
    strangers = [DeviceIdentity(UserId(f"@u{n}:s{n}.test"), phone.device, "e", "c") for n in range(20)]
    judging = [asyncio.create_task(world.judge(each)) for each in strangers]
    for _ in range(50):
        await asyncio.sleep(0)
    assert hanging == NEW_AT_A_TIME
    assert await world.judge(phone) is Standing.GOOD
    assert set(await asyncio.gather(*judging)) == {Standing.UNKNOWN}
    assert caplog.text.count("of s0.test cannot be asked for") == 1
    assert await world.judge(strangers[0]) is Standing.UNKNOWN
    assert caplog.text.count("of s0.test cannot be asked for") == 1


async def test_a_server_that_was_not_asked_because_others_hang_does_not_count_as_silent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    truth = world.server.query_keys

    async def query(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        if FAR not in users:
            await asyncio.Event().wait()
        return await truth(users)

    world.server.query_keys = query  # type: ignore[method-assign]
    far = world.server.log_in(FAR, "PHONE")
    strangers = [replace(far, user=UserId(f"@u{n}:s{n}.test")) for n in range(NEW_AT_A_TIME)]
    judging = [asyncio.create_task(world.judge(each)) for each in strangers]
    for _ in range(50):
        await asyncio.sleep(0)
    # In virtual time its limit is over in the very moment in which those of the others are.
    assert await world.judge(far) is Standing.UNKNOWN, "it waits behind the others, and is not asked for"
    await asyncio.gather(*judging)
    assert "of far.test cannot be asked for" not in caplog.text
    assert await world.judge(far) is Standing.GOOD, "at once, and not after the pause of those that hang"


async def test_accounts_that_call_all_the_time_take_no_look_ups_from_others_of_our_homeserver(
    world: World, phone: DeviceIdentity
) -> None:
    for n in range(LOOKS_A_MINUTE_OF_SERVER + 10):
        greedy = world.server.log_in(UserId(f"@greedy{n}:example.org"), "PHONE")
        await world.judge(greedy)
    assert len(world.server.asked) > LOOKS_A_MINUTE_OF_SERVER
    assert await world.judge(phone) is Standing.GOOD


async def test_a_peer_without_a_device_lets_nobody_in(world: World, phone: DeviceIdentity) -> None:
    assert await world.judge(phone, local=UserId("@rtc_gone:example.org")) is Standing.UNKNOWN


# --- all who are in


async def test_all_callers_of_the_homeserver_are_asked_for_together(world: World, phone: DeviceIdentity) -> None:
    world.server.log_in(BOB, "LAPTOP")
    found = await world.look_all((BUILD, ALICE), (WEB, ALICE), (WEB, BOB))
    assert found == {(BUILD, ALICE): ["PHONE"], (WEB, ALICE): ["PHONE"], (WEB, BOB): ["LAPTOP"]}
    assert world.server.asked == [(ALICE, BOB)]
    many = [(BUILD, UserId(f"@u{n}:example.org")) for n in range(USERS_PER_REQUEST + 1)]
    world.server.asked.clear()
    assert set(await world.look_all(*many)) == set(many)
    assert sorted(map(len, world.server.asked)) == [1, USERS_PER_REQUEST]


@pytest.mark.parametrize("lie", ["silent", "failures", "wrong"])
async def test_no_answer_is_heard_by_nobody_and_logged_once(
    world: World, phone: DeviceIdentity, lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    setattr(world.server, lie, {"silent": "429", "failures": {"example.org"}, "wrong": {"device_keys": 5}}[lie])
    world.server.log_out(ALICE)
    for _ in range(4):
        assert await world.look_all((BUILD, ALICE)) == {}
    assert caplog.text.count("cannot be asked for") == 1
    setattr(world.server, lie, {"silent": None, "failures": set(), "wrong": None}[lie])
    caplog.set_level("INFO")
    assert await world.look_all((BUILD, ALICE)) == {(BUILD, ALICE): []}
    assert "are answered for again" in caplog.text


async def test_a_server_that_hangs_keeps_nobody_else_from_being_heard(world: World, phone: DeviceIdentity) -> None:
    truth = world.server.query_keys

    async def query(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        if FAR in users:
            await asyncio.Event().wait()
        return await truth(users)

    world.server.query_keys = query  # type: ignore[method-assign]
    assert await world.look_all((BUILD, FAR), (BUILD, ALICE)) == {(BUILD, ALICE): ["PHONE"]}


async def test_servers_that_hang_in_turns_do_not_keep_another_one_from_being_asked() -> None:
    """Each has answered in the round before, so that it does not count as silent."""
    world = World(request_s=0.1, all_s=0.16, servers_at_a_time=1)
    truth = world.server.query_keys
    evil = [UserId(f"@m{n}:evil{n}.test") for n in range(6)]
    hanging: set[UserId] = set()

    async def query(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        if hanging.intersection(users):
            await asyncio.Event().wait()
        return await truth(users)

    world.server.query_keys = query  # type: ignore[method-assign]
    world.server.log_in(FAR, "PHONE")
    pairs = [*((BUILD, each) for each in evil), (BUILD, FAR)]
    heard = []
    for turn in range(6):
        hanging = set(evil[turn % 2 :: 2])
        heard.append((BUILD, FAR) in await world.look_all(*pairs))
    assert not all(heard), "there is no time for all"
    assert all(one or other for one, other in itertools.pairwise(heard[1:])), heard


async def test_a_user_whom_one_of_ours_may_not_see_is_asked_for_by_the_one_that_was_called(
    world: World, phone: DeviceIdentity
) -> None:
    truth = world.server.query_keys
    hidden = DeviceLists(
        world.server,
        MemoryStore(),
        wall_ms=lambda: round(world.now_s * 1000),
        monotonic=world.monotonic,  # type: ignore[arg-type]
    )

    async def blind(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        return {**await truth(()), "device_keys": {}}

    hidden.ask = blind  # type: ignore[method-assign,assignment]
    world.lists[BUILD] = hidden
    found = await world.look_all((BUILD, BOB), (WEB, ALICE))
    assert found[(WEB, ALICE)] == ["PHONE"]


async def test_nobody_is_asked_for_a_peer_without_a_device(world: World) -> None:
    assert await world.look_all((UserId("@rtc_gone:example.org"), ALICE)) == {}
    assert world.server.asked == []
