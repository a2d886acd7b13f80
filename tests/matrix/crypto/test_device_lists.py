"""What is known of others' devices, when it is asked for, and what becomes of answers that come late or cannot be kept.

The homeserver here can lie: each test says which lie it is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mxrtc_bridge.core.crypto.records import Changes, Trust
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.device_lists import (
    ASK_AGAIN_MS,
    FILLS,
    FINDS_A_MINUTE,
    MAX_AGE_MS,
    MAX_CACHED,
    DeviceLists,
)
from tests.matrix.crypto.key_homeserver import KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore
from tests.waiting import until

ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:example.org")


class Store(MemoryStore):
    """A database that can be away for what is said of users; ``honesty`` is for all of it."""

    away = False

    async def user(self, user: UserId):  # type: ignore[no-untyped-def]
        if self.away:
            raise StorageError("the disk is full")
        return await super().user(user)

    async def save(self, changes: Changes) -> None:
        if self.away:
            raise StorageError("the disk is full")
        await super().save(changes)


class World:
    """One device of ours and its homeserver; time passes when a test says so."""

    def __init__(self) -> None:
        self.server, self.store = KeyHomeserver(), Store()
        self.now_s = 1000.0
        self.compared: dict[UserId, str] = {}
        self.lists = self.made()

    def made(self) -> DeviceLists:
        return DeviceLists(
            self.server,  # type: ignore[arg-type]
            self.store,
            wall_ms=lambda: round(self.now_s * 1000),
            monotonic=self.monotonic,
            compared=self.compared,
        )

    def monotonic(self) -> float:
        # Each look at the clock is a little later than the one before.
        self.now_s += 1e-6
        return self.now_s

    async def names(self, *users: UserId, fresh: bool = False) -> list[list[str]]:
        found = await self.lists.of(users, fresh=fresh)
        return [[each.device for each in found[user].devices] for user in users]

    async def trust(self, user: UserId = ALICE, *, fresh: bool = False) -> list[Trust]:
        return [each.trust for each in (await self.lists.of([user], fresh=fresh))[user].devices]

    async def learn(self, *users: UserId) -> dict[UserId, list[str]]:
        began_s = self.monotonic()
        found = await self.lists.learn(users, await self.lists.ask(users), began_s)
        return {user: [each.device for each in seen.devices] for user, seen in found.items()}


@pytest.fixture
def world() -> World:
    return World()


async def test_a_member_whose_devices_change_while_others_are_asked_for_gets_the_new_ones(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    world.server.log_in(BOB, "LAPTOP")
    assert await world.names(ALICE) == [["PHONE"]]
    world.server.gate = asyncio.Event()
    asking = asyncio.create_task(world.names(ALICE, BOB))
    await until(lambda: len(world.server.asked) >= 2)
    world.server.log_in(ALICE, "TABLET")
    await world.lists.receive({"changed": [ALICE]})
    world.server.gate.set()
    assert await asking == [["PHONE", "TABLET"], ["LAPTOP"]]


async def test_a_list_that_always_changes_while_it_is_asked_for_is_answered_all_the_same(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    truth = world.server.query_keys

    async def restless(users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        answer = await truth(users)
        await world.lists.mark_outdated([ALICE])
        return answer

    world.server.query_keys = restless  # type: ignore[method-assign]
    assert await world.names(ALICE) == [["PHONE"]]
    assert len(world.server.asked) == FILLS
    # What may be an old answer does not serve the next one.
    await world.names(ALICE)
    assert len(world.server.asked) == 2 * FILLS


async def test_two_who_ask_for_the_same_user_ask_once_and_others_do_not_wait_for_them(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    gate = world.server.gate = asyncio.Event()
    both = [asyncio.create_task(world.names(ALICE)) for _ in range(2)]
    await until(lambda: len(world.server.asked) >= 1)
    world.server.gate = None
    assert await world.names(BOB) == [[]]
    gate.set()
    assert await asyncio.gather(*both) == [[["PHONE"]], [["PHONE"]]]
    assert world.server.asked == [(ALICE,), (BOB,)]


async def test_whoever_is_cancelled_while_asking_leaves_the_question_to_the_next(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    gate = world.server.gate = asyncio.Event()
    first, second = (asyncio.create_task(world.names(ALICE)) for _ in range(2))
    await until(lambda: len(world.server.asked) >= 1)
    first.cancel()
    gate.set()
    assert await second == [["PHONE"]]
    assert first.cancelled() or (await asyncio.gather(first, return_exceptions=True))


async def test_a_user_who_shares_no_room_any_more_is_asked_for_again(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    await world.names(ALICE)
    assert await world.lists.receive({"changed": "x", "left": [ALICE, 5, "nobody"]}) == {ALICE}
    await world.names(ALICE)
    assert world.server.asked == [(ALICE,)] * 2


async def test_a_list_that_is_a_day_old_is_asked_for_again_in_memory_as_well(world: World) -> None:
    """The homeserver is stale: it has forgotten to announce a change."""
    world.server.log_in(ALICE, "PHONE")
    await world.names(ALICE)
    world.server.log_out(ALICE)
    world.now_s += MAX_AGE_MS / 1000 - 1
    assert await world.names(ALICE) == [["PHONE"]]
    world.now_s += 2
    assert await world.names(ALICE) == [[]]


async def test_a_silent_homeserver_leaves_the_old_list_and_is_asked_again_after_a_minute(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    await world.names(ALICE)
    await world.lists.mark_outdated([ALICE])
    world.server.silent = "away"
    assert await world.names(ALICE, ALICE) == [["PHONE"], ["PHONE"]]
    assert len(world.server.asked) == 2
    world.server.silent = None
    world.server.log_out(ALICE)
    assert await world.names(ALICE) == [["PHONE"]]
    world.now_s += ASK_AGAIN_MS / 1000
    assert await world.names(ALICE) == [[]]
    world.server.silent = "away"
    with pytest.raises(HomeserverError):
        await world.names(BOB)


async def test_another_server_that_does_not_answer_leaves_the_old_list(world: World) -> None:
    world.server.make_identity(ALICE)
    world.server.log_in(ALICE, "PHONE")
    await world.names(ALICE)
    world.server.failures = {"example.org"}
    assert await world.learn(ALICE) == {}
    assert await world.names(ALICE, fresh=True) == [["PHONE"]]
    assert await world.trust() == [Trust.CROSS_SIGNED]


async def test_no_devices_is_an_answer_and_a_wrong_one_is_none(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    assert await world.learn(ALICE) == {ALICE: ["PHONE"]}
    for wrong in ({}, {"device_keys": {ALICE: 5}}, {"device_keys": None}):
        world.server.wrong = wrong
        assert await world.learn(ALICE) == {}
        assert await world.names(ALICE) == [["PHONE"]]
    world.server.wrong = None
    world.server.log_out(ALICE)
    assert await world.learn(ALICE) == {ALICE: []}
    world.server.log_in(ALICE, "PHONE")
    world.server.forgets = {ALICE}
    assert await world.learn(ALICE) == {ALICE: []}


async def test_a_device_whose_keys_are_not_well_formed_is_not_there(world: World) -> None:
    """The answer is wrong in what a user may have written: that must keep nobody in."""
    world.server.log_in(ALICE, "PHONE")
    world.server.listed[ALICE]["PHONE"] = {"keys": "none"}  # type: ignore[index]
    assert await world.learn(ALICE) == {ALICE: []}


async def test_an_answer_that_was_asked_for_earlier_does_not_replace_a_later_one(world: World) -> None:
    """The homeserver hangs with the old answer."""
    world.server.log_in(ALICE, "PHONE")
    gate = world.server.gate = asyncio.Event()
    late = asyncio.create_task(world.learn(ALICE))
    await until(lambda: len(world.server.asked) >= 1)
    world.server.gate = None
    world.server.log_out(ALICE)
    assert await world.learn(ALICE) == {ALICE: []}
    gate.set()
    assert await late == {ALICE: []}
    assert await world.names(ALICE) == [[]]


async def test_an_answer_counts_as_recent_only_for_its_time_and_while_nothing_has_changed(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    assert world.lists.recent(ALICE, 60_000) is None
    await world.learn(ALICE)
    assert world.lists.recent(ALICE, 60_000) is not None
    world.now_s += 59
    assert world.lists.recent(ALICE, 60_000) is not None
    world.now_s += 2
    assert world.lists.recent(ALICE, 60_000) is None
    await world.learn(ALICE)
    await world.lists.mark_outdated([ALICE])
    assert world.lists.recent(ALICE, 60_000) is None
    await world.learn(ALICE)
    world.now_s -= 30
    assert world.lists.recent(ALICE, 60_000) is None, "a clock that was set back makes nothing younger"


async def test_what_the_database_holds_is_never_recent(world: World) -> None:
    world.server.log_in(ALICE, "PHONE")
    await world.names(ALICE)
    world.lists = world.made()
    assert await world.names(ALICE) == [["PHONE"]]
    assert len(world.server.asked) == 1
    assert world.lists.recent(ALICE, 60_000) is None


async def test_another_identity_is_seen_also_where_the_database_is_away(world: World) -> None:
    world.server.make_identity(ALICE)
    world.server.log_in(ALICE, "PHONE")
    assert await world.trust(fresh=True) == [Trust.CROSS_SIGNED]
    world.store.away = True
    world.server.make_identity(ALICE, "second")
    world.server.sign(ALICE, "PHONE")
    # Of whom nothing is known nobody can say that it is the right one.
    world.server.make_identity(BOB)
    world.server.log_in(BOB, "LAPTOP")
    began_s = world.monotonic()
    found = await world.lists.learn([ALICE, BOB], await world.lists.ask([ALICE, BOB]), began_s)
    assert [[each.trust for each in found[user].devices] for user in (ALICE, BOB)] == [[Trust.UNSIGNED]] * 2
    assert found[ALICE].identity_changed


async def test_an_unchanged_answer_is_neither_judged_nor_stored_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.server.log_in(ALICE, "PHONE")
    await world.learn(ALICE)
    world.store.away = True
    monkeypatch.setattr("mxrtc_bridge.matrix.crypto.device_lists.parse_devices", lambda *_: 1 / 0)
    assert await world.learn(ALICE) == {ALICE: ["PHONE"]}


async def test_an_identity_that_is_vouched_for_counts_for_what_is_in_memory(world: World) -> None:
    master = world.server.make_identity(ALICE)
    world.server.log_in(ALICE, "PHONE")
    assert await world.trust(fresh=True) == [Trust.CROSS_SIGNED]
    await world.lists.vouch_for(ALICE, master)
    assert await world.trust() == [Trust.VERIFIED]
    world.server.make_identity(ALICE, "second")
    world.server.sign(ALICE, "PHONE")
    assert await world.trust(fresh=True) == [Trust.UNSIGNED]
    await world.lists.accept_identity(ALICE)
    assert await world.trust() == [Trust.CROSS_SIGNED]


async def test_an_identity_that_was_compared_with_another_device_of_ours_counts_until_this_one_has_compared_it(
    world: World,
) -> None:
    master = world.server.make_identity(ALICE)
    world.server.log_in(ALICE, "PHONE")
    world.compared[ALICE] = "k" * 43
    found = (await world.lists.of([ALICE]))[ALICE]
    assert (found.pinned, found.identity_changed, [each.trust for each in found.devices]) == (
        "k" * 43, True, [Trust.UNSIGNED],
    )  # fmt: skip
    await world.lists.vouch_for(ALICE, master)
    assert await world.trust() == [Trust.VERIFIED], "its own comparison"
    world.compared[ALICE] = master
    world.server.log_in(BOB, "LAPTOP")
    world.compared[BOB] = world.server.make_identity(BOB)
    world.server.sign(BOB, "LAPTOP")
    assert await world.trust(BOB) == [Trust.VERIFIED]


async def test_a_device_that_nobody_knows_is_asked_for_within_a_limit(world: World) -> None:
    phone = world.server.log_in(ALICE, "PHONE")
    for _ in range(100):
        assert await world.lists.find(ALICE, "c" * 43, "e" * 43) is None
    assert len(world.server.asked) == FINDS_A_MINUTE
    found = await world.lists.find(ALICE, phone.curve25519, phone.ed25519)
    assert found == phone
    for number in range(200):
        await world.lists.find(UserId(f"@u{number}:evil.test"), "c" * 43, "e" * 43)
    assert len(world.server.asked) < FINDS_A_MINUTE + 70, "a server has a limit for all its users"


async def test_the_memory_is_bounded(world: World) -> None:
    for number in range(MAX_CACHED + 5):
        await world.learn(UserId(f"@u{number}:example.org"))
    assert (world.lists.status().users, world.lists.status().asked) == (MAX_CACHED, 0)
