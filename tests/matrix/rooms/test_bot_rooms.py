"""The rooms that are named for the bot: joined, joined again, and left when they are named no more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms import bot_rooms as module
from tests.honesty import LIES, NO_ANSWERS, Honesty
from tests.matrix.rooms.peers_bench import ALICE, BOT, MALLORY, PEER, Bench
from tests.waiting import turns

ADMIN, NOTICES, OTHER = (RoomId(f"!{name}:example.org") for name in ("admin", "notices", "other"))
AWAY = HomeserverError("away", 502)
NOT_INVITED = HomeserverError("you are not invited", 403, "M_FORBIDDEN")


async def entered(limits: Mapping[str, Any] = {}, /, **named: str) -> Bench:
    bench = Bench(named=named, **limits)
    await bench.bot_rooms.enter()
    return bench


async def test_named_rooms_are_joined_by_id_and_by_alias() -> None:
    bench = Bench(named={"admin": ADMIN, "notices": "#rtc:example.org"})
    bench.homeserver.aliases["#rtc:example.org"] = NOTICES
    assert bench.bot_rooms.room("admin") is None, "not before it is in it"
    await bench.bot_rooms.enter()
    assert (bench.bot_rooms.room("admin"), bench.bot_rooms.room("notices")) == (ADMIN, NOTICES)
    assert bench.bot_rooms.room("another purpose") is None
    await bench.bot_rooms.enter()
    assert len(bench.homeserver.of("join")) == 2, "what it is in already is not joined again"


async def test_failure_to_join_is_logged_once_and_mended_by_an_invitation(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(named={"notices": NOTICES})
    bench.homeserver.failures["join"] = NOT_INVITED
    await bench.bot_rooms.enter()
    await bench.bot_rooms.enter()
    assert caplog.text.count("invite it") == 1
    assert bench.bot_rooms.room("notices") is None
    del bench.homeserver.failures["join"]
    await bench.invited(BOT, MALLORY, room=NOTICES)
    assert bench.bot_rooms.room("notices") == NOTICES
    assert bench.homeserver.of("leave") == []


async def test_an_invitation_is_no_remedy_where_the_homeserver_has_not_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(named={"notices": NOTICES})
    bench.homeserver.failures["join"] = HomeserverError("the homeserver answered 404 without a Matrix error")
    await bench.bot_rooms.enter()
    assert "404 without a Matrix error; trying again" in caplog.text
    assert "invite it" not in caplog.text


async def test_invitation_to_a_room_that_is_not_named_is_judged_like_any() -> None:
    bench = await entered(notices=NOTICES)
    await bench.invited(BOT, MALLORY, room=OTHER)
    assert bench.homeserver.of("leave") == [("leave", OTHER, BOT)]


async def test_peer_is_not_let_in_by_the_name_of_a_room_for_the_bot() -> None:
    bench = await entered(notices=NOTICES)
    await bench.invited(PEER, MALLORY, room=NOTICES)
    assert bench.homeserver.of("leave") == [("leave", NOTICES, PEER)]


async def test_named_room_has_any_number_of_members_and_takes_no_calls() -> None:
    bench = await entered(notices=NOTICES)
    bench.homeserver.members[NOTICES] |= {ALICE, MALLORY}
    await bench.start()
    assert bench.homeserver.of("leave") == []
    assert bench.index.members(NOTICES) is None
    assert bench.index.peer_in(NOTICES) is None


async def test_removed_bot_comes_back_when_it_is_invited_again() -> None:
    bench = await entered(notices=NOTICES)
    await bench.member(BOT, "leave", sender=ALICE, room=NOTICES)
    assert bench.bot_rooms.room("notices") is None
    await bench.invited(BOT, ALICE, room=NOTICES)
    assert bench.bot_rooms.room("notices") == NOTICES


async def test_invitation_of_a_bot_that_is_in_the_room_takes_no_right_from_its_members() -> None:
    """Any homeserver can send one, past the room: ours hands it on, whoever is in the room."""
    bench = await entered(notices=NOTICES)
    bench.homeserver.members[NOTICES].add(ALICE)
    await bench.lists.learn(NOTICES)
    seen: list[frozenset[RoomId]] = []
    bench.changed = lambda: seen.append(bench.lists.rooms_of(ALICE))
    await bench.invited(BOT, UserId("@eve:evil.test"), room=NOTICES)
    assert bench.bot_rooms.room("notices") == NOTICES
    assert bench.lists.rooms_of(ALICE) == {NOTICES}
    assert seen == [], "not for a moment: live sessions end by that"


async def test_bot_whose_removal_was_missed_joins_again_when_it_is_invited() -> None:
    bench = await entered(notices=NOTICES)
    bench.homeserver.members[NOTICES] = {ALICE}
    await bench.invited(BOT, ALICE, room=NOTICES)
    assert bench.bot_rooms.room("notices") == NOTICES
    assert len(bench.homeserver.of("join")) == 2


async def test_reload_joins_what_is_new_and_leaves_what_is_named_no_more() -> None:
    bench = await entered(admin=ADMIN, notices=NOTICES)
    await bench.bot_rooms.reload({"admin": OTHER, "notices": NOTICES})
    assert (bench.bot_rooms.room("admin"), bench.bot_rooms.room("notices")) == (OTHER, NOTICES)
    assert bench.homeserver.of("leave") == [("leave", ADMIN, BOT)]


async def test_no_room_is_left_while_it_is_unknown_which_one_an_alias_means() -> None:
    bench = Bench(named={"notices": "#rtc:example.org"})
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.keeps(BOT, OTHER)
    assert not bench.bot_rooms.keeps(PEER, OTHER)
    bench.homeserver.aliases["#rtc:example.org"] = NOTICES
    await bench.bot_rooms.enter()
    assert not bench.bot_rooms.keeps(BOT, OTHER)
    assert bench.bot_rooms.keeps(BOT, NOTICES)


async def test_what_must_be_encrypted_is_known_before_anything_is_sent_there() -> None:
    bench = Bench(named={"admin": ADMIN, "notices": NOTICES})
    bench.homeserver.facts[NOTICES] = RoomFacts(encrypted=True, join_rule="invite", room_type=None)
    assert bench.bot_rooms.is_encrypted(NOTICES) is None
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.is_encrypted(NOTICES) is True
    assert bench.bot_rooms.is_encrypted(ADMIN) is False
    bench.bot_rooms.now_encrypted(ADMIN)
    bench.bot_rooms.now_encrypted(OTHER)
    assert bench.bot_rooms.is_encrypted(ADMIN) is True
    assert bench.bot_rooms.is_encrypted(OTHER) is None


async def test_room_whose_facts_cannot_be_read_is_not_sent_to() -> None:
    bench = Bench(named={"notices": NOTICES})
    bench.homeserver.failures["facts"] = AWAY
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.room("notices") is None


async def test_what_could_not_be_joined_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    bench = Bench(named={"notices": NOTICES})
    bench.homeserver.failures["join"] = AWAY
    await bench.bot_rooms.enter()
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
            if len(pauses) == 10:
                bench.homeserver.failures.clear()
        await sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", pause)
    task = asyncio.create_task(bench.bot_rooms.run())
    for _ in range(200):
        await sleep(0)
    task.cancel()
    assert pauses == [min(module.FIRST_PAUSE_S * 2**n, module.LONGEST_PAUSE_S) for n in range(10)]
    assert bench.bot_rooms.room("notices") == NOTICES


@pytest.mark.parametrize("news", ["join", "unread"])
async def test_what_happens_while_a_room_is_entered_makes_it_be_asked_for_again(
    news: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[tuple[RoomId, bool]] = []
    bench = Bench(named={"members": OTHER}, entered=lambda room, unsure: entered.append((room, unsure)))
    ask = bench.homeserver.joined_members

    async def joined_members(room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        found = await ask(room, as_user)
        if news == "join":
            bench.bot_rooms.look(room, MALLORY, joined=True)
        else:
            bench.bot_rooms.could_not_read(room)
        return found

    monkeypatch.setattr(bench.homeserver, "joined_members", joined_members)
    await bench.bot_rooms.enter()
    assert entered == [(OTHER, True)]


async def test_bot_that_is_removed_while_it_enters_a_room_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(named={"members": OTHER})
    ask = bench.homeserver.room_facts

    async def room_facts(room: RoomId, as_user: UserId | None = None, **_: bool) -> RoomFacts:
        bench.bot_rooms.look(room, BOT, joined=False)
        return await ask(room, as_user)

    monkeypatch.setattr(bench.homeserver, "room_facts", room_facts)
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.joined() == frozenset()
    monkeypatch.undo()
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.joined() == {OTHER}


async def test_bot_that_is_not_in_a_room_any_more_is_found_out_by_the_answer() -> None:
    bench = Bench(named={"members": OTHER})
    await bench.bot_rooms.enter()
    bench.homeserver.members[OTHER].clear()
    assert await bench.bot_rooms.learn_again(OTHER, bench.lists) is None
    assert (bench.bot_rooms.joined(), bench.lists.members(OTHER)) == (frozenset(), None)


@pytest.mark.parametrize("lie", NO_ANSWERS)
async def test_room_whose_members_are_not_told_gives_nobody_anything_until_they_are(lie: Honesty) -> None:
    bench = Bench(named={"members": OTHER})
    bench.homeserver.members[OTHER] = {ALICE}
    bench.homeserver.honesty = lie
    await bench.bot_rooms.enter()
    await bench.member(ALICE, "join", room=OTHER)
    assert (bench.lists.rooms_of(ALICE), bench.lists.members(OTHER)) == (frozenset(), None)
    bench.homeserver.honesty = Honesty.TRUE
    await bench.bot_rooms.enter()
    assert bench.lists.rooms_of(ALICE) == {OTHER}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_about_a_named_room_end_no_membership_and_bring_none_back(lie: Honesty) -> None:
    bench = Bench(named={"members": OTHER})
    bench.homeserver.members[OTHER] = {ALICE, MALLORY}
    await bench.bot_rooms.enter()
    bench.homeserver.honesty = lie
    bench.bot_rooms.look(OTHER, MALLORY, joined=False)
    for _ in range(3):
        with nullcontext() if lie is Honesty.STALE else pytest.raises(HomeserverError):
            await bench.bot_rooms.learn_again(OTHER, bench.lists)
    assert bench.lists.members(OTHER) == {ALICE, BOT}
    assert bench.bot_rooms.joined() == {OTHER}


class Hanging:
    """Requests for some rooms that are never answered, until the test says otherwise."""

    def __init__(self, bench: Bench, *rooms: object) -> None:
        self.rooms = set(rooms)
        self.asked: list[tuple[str, object]] = []
        self.answers = asyncio.Event()
        for name in ("join", "leave", "resolve_alias"):
            self._wrap(bench, name)

    def _wrap(self, bench: Bench, name: str) -> None:
        ask = getattr(bench.homeserver, name)

        async def asked(room: object, *args: object) -> object:
            self.asked.append((name, room))
            if room in self.rooms:
                await self.answers.wait()
            return await ask(room, *args)

        setattr(bench.homeserver, name, asked)


QUICK: dict[str, Any] = {"each_s": 0.02, "all_s": 5.0}


async def test_room_whose_homeserver_does_not_answer_holds_up_no_other() -> None:
    bench = Bench(named={"stuck": OTHER, "admin": ADMIN, "notices": "#rtc:example.org"}, each_s=3600.0, all_s=3600.0)
    bench.homeserver.aliases["#rtc:example.org"] = NOTICES
    hanging = Hanging(bench, OTHER)
    entering = asyncio.create_task(bench.bot_rooms.enter())
    await turns()
    assert bench.bot_rooms.joined() == {ADMIN, NOTICES}
    await bench.bot_rooms.invited(ADMIN)
    assert not entering.done()
    hanging.answers.set()
    await entering
    assert bench.bot_rooms.joined() == {ADMIN, NOTICES, OTHER}


@pytest.mark.parametrize("stuck", [OTHER, "#stuck:example.org"])
async def test_start_does_not_wait_for_a_room_longer_than_its_limit_and_goes_on_with_it(stuck: str) -> None:
    bench = Bench(named={"stuck": stuck, "admin": ADMIN}, **QUICK)
    bench.homeserver.aliases["#stuck:example.org"] = OTHER
    hanging = Hanging(bench, stuck)
    await bench.bot_rooms.enter()
    assert bench.bot_rooms.joined() == {ADMIN}
    trying = asyncio.create_task(bench.bot_rooms.run())
    await turns()
    hanging.answers.set()
    await turns()
    assert bench.bot_rooms.joined() == {ADMIN, OTHER}, "at once, as it was not refused"
    trying.cancel()


async def test_many_rooms_that_hang_are_asked_for_few_at_a_time_and_within_a_limit() -> None:
    rooms = [RoomId(f"!{number}:example.org") for number in range(50)]
    bench = Bench(named={room: room for room in rooms}, each_s=3600.0, all_s=0.02)
    hanging = Hanging(bench, *rooms)
    await bench.bot_rooms.enter()
    assert len(hanging.asked) == module.AT_ONCE
    hanging.answers.set()
    trying = asyncio.create_task(bench.bot_rooms.run())
    for _ in range(50):
        await turns()
    assert bench.bot_rooms.joined() == set(rooms)
    assert bench.homeserver.most_busy <= module.AT_ONCE
    trying.cancel()


async def test_reload_waits_for_no_room_that_hangs_to_be_joined_or_left() -> None:
    stuck, gone = RoomId("!stuck:example.org"), [RoomId(f"!gone{n}:example.org") for n in range(3)]
    bench = await entered(QUICK, **{f"gone{n}": room for n, room in enumerate(gone)})
    Hanging(bench, stuck, gone[0])
    await bench.bot_rooms.reload({"stuck": stuck, "admin": ADMIN})
    assert bench.bot_rooms.joined() == {ADMIN}
    assert {room for _, room, _ in bench.homeserver.of("leave")} == set(gone[1:])


async def test_invitation_waits_for_no_other_room() -> None:
    bench = Bench(named={"stuck": OTHER, "admin": ADMIN}, each_s=3600.0)
    bench.homeserver.failures["join"] = AWAY
    await bench.bot_rooms.enter()
    bench.homeserver.failures.clear()
    hanging = Hanging(bench, OTHER)
    assert await bench.bot_rooms.invited(ADMIN)
    assert bench.bot_rooms.joined() == {ADMIN}
    assert hanging.asked == [("join", ADMIN)]


async def test_room_that_goes_on_failing_keeps_no_other_waiting_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses grow for each room by itself: one is removed from a room while another one has failed for days."""
    bench = await entered(admin=ADMIN)
    pauses: list[float] = []
    sleep, forever = asyncio.sleep, asyncio.Event()

    async def pause(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
            if seconds > module.FIRST_PAUSE_S:
                await forever.wait()
        await sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", pause)
    bench.homeserver.failures["join"] = NOT_INVITED
    await bench.bot_rooms.reload({"admin": ADMIN, "stuck": OTHER})
    trying = asyncio.create_task(bench.bot_rooms.run())
    for _ in range(30):
        await sleep(0)
    assert pauses == [module.FIRST_PAUSE_S, 2 * module.FIRST_PAUSE_S]
    bench.homeserver.failures.clear()
    await bench.member(BOT, "leave", sender=ALICE, room=ADMIN)
    for _ in range(30):
        await sleep(0)
    assert bench.bot_rooms.joined() == {ADMIN}
    assert pauses[2:] == [module.FIRST_PAUSE_S]
    trying.cancel()


async def test_nothing_is_left_while_it_is_unknown_what_a_new_name_means() -> None:
    bench = await entered(notices=NOTICES)
    await bench.bot_rooms.reload({"notices": "#rtc:example.org"})
    assert bench.homeserver.of("leave") == []
    bench.homeserver.aliases["#rtc:example.org"] = NOTICES
    await bench.bot_rooms.reload({"notices": "#rtc:example.org"})
    assert (bench.homeserver.of("leave"), bench.bot_rooms.joined()) == ([], {NOTICES})
    bench.homeserver.aliases["#other:example.org"] = OTHER
    await bench.bot_rooms.reload({"notices": "#other:example.org"})
    assert bench.homeserver.of("leave") == [("leave", NOTICES, BOT)]


@pytest.mark.parametrize(("status", "again"), [(403, False), (404, False), (200, True), (502, True)])
async def test_room_that_could_not_be_left_is_left_later_unless_it_is_left_already(status: int, again: bool) -> None:
    bench = await entered(notices=NOTICES)
    bench.homeserver.failures["leave"] = HomeserverError("no", status)
    await bench.bot_rooms.reload({})
    bench.homeserver.failures.clear()
    await bench.bot_rooms.reload({})
    assert len(bench.homeserver.of("leave")) == 1 + again
